"""A video as a list of walks: which windows are denoised, in which stage, in which order.

The first stage makes every level of the plan, coarse framerate before fine, its windows from left
to right; the second stage then enlarges the windows of the finest level (Snap Video,
arXiv 2402.14797, App. on longer videos; the plan is `train.diffusion.hierarchy`). Pure data: the
API counts steps with it, without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from train.diffusion.hierarchy import Plan, Window


@dataclass(frozen=True)
class Leg:
    """One walk of the sampler: a window of one level in one stage.

    Attributes:
        stage: Which network walks, 1 or 2.
        number: Place of the window in its level, from 0.
        window: Its frames and where they are known from.
        ends_level: Whether the stage has made the whole level afterwards.
        output: Whether its frames are the video's own.
    """

    stage: int
    number: int
    window: Window
    ends_level: bool
    output: bool

    @property
    def seed_name(self) -> str:
        """What tells its noise from that of other windows; empty for a video's first clip."""
        level = self.window.level
        return f"/{level}/{self.number}" if level or self.number else ""


def route(plan: Plan, num_stages: int) -> tuple[Leg, ...]:
    """Return the walks of a video in their order."""
    last = len(plan.levels) - 1
    passes = [(1, level) for level in range(len(plan.levels))] + [(2, last)] * (num_stages - 1)
    return tuple(
        Leg(
            stage=stage,
            number=number,
            window=window,
            ends_level=number + 1 == len(plan.levels[level].windows),
            output=(stage, level) == passes[-1],
        )
        for stage, level in passes
        for number, window in enumerate(plan.levels[level].windows)
    )


def count_steps(legs: Sequence[Leg], steps: Sequence[int]) -> int:
    """Return the steps of all walks together; `steps` holds those of one walk by stage."""
    return sum(steps[leg.stage - 1] for leg in legs)


def shape(plan: Plan) -> tuple[int, ...]:
    """Return the windows of each level: videos that share it can be denoised together."""
    return tuple(len(level.windows) for level in plan.levels)
