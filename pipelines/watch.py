"""Watching videos come about: how far they are, and what they look like on the way.

course = Course.of(request, facts)
previews = watch(denoising, course, course.moments(6), progress)
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.status import Status
from infra.stills import Frames
from serve import route
from serve.generate import Denoising
from serve.schema import ModelFacts, VideoRequest

Step = tuple[int, int]
"""A stage, and how many of its steps are done."""


@dataclass(frozen=True)
class Course:
    """The steps of a video: its windows in each stage, and the steps of a window."""

    windows: tuple[int, ...]
    steps: tuple[int, ...]

    @classmethod
    def of(cls, request: VideoRequest, facts: ModelFacts) -> "Course":
        """Return the course of a request whose framerate the model knows."""
        legs = route.route(request.plan(facts), facts.num_stages)
        stages = range(1, facts.num_stages + 1)
        windows = tuple(sum(leg.stage == stage for leg in legs) for stage in stages)
        return cls(windows, (request.steps, request.steps_2)[: facts.num_stages])

    def total(self, stage: int) -> int:
        """Return the steps of all windows of a stage."""
        return self.windows[stage - 1] * self.steps[stage - 1]

    def where(self, stage: int, step: int) -> str:
        """Say where a video is after `step` steps of a stage."""
        windows, steps = self.windows[stage - 1], self.steps[stage - 1]
        window, inside = divmod(step - 1, steps)
        of_windows = f", window {window + 1} of {windows}" if windows > 1 else ""
        return f"stage {stage}{of_windows}, step {inside + 1} of {steps}"

    def moments(self, count: int) -> dict[Step, str]:
        """Return `count` steps of each stage, evenly apart, the last one among them, and names."""
        found: dict[Step, str] = {}
        for stage in range(1, len(self.steps) + 1):
            total = self.total(stage)
            rows = min(count, total)
            for step in (-(-total * (row + 1) // rows) for row in range(rows)):
                found[stage, step] = self.where(stage, step)
        return found


@dataclass
class Progress:
    """How far all groups of videos are, and when they will be done.

    Attributes:
        videos: In all groups.
        work: Pixels that a step of each stage computes, as a guess at its share of the time
            before one has been seen.
    """

    videos: int
    work: tuple[int, ...]
    status: Status = field(default_factory=Status)
    done: int = 0
    """Videos of finished groups."""
    _spent: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Stage -> video steps seen, seconds they took."""

    def note(self, stage: int, videos: int, seconds: float) -> None:
        """Note that `videos` videos have made a step."""
        steps, spent = self._spent.get(stage, (0, 0.0))
        self._spent[stage] = (steps + videos, spent + seconds)

    def left_s(self, course: Course, videos: int, stage: int, step: int) -> float:
        """Return about how many seconds are left, with a group of `videos` at a step."""
        later = self.videos - self.done - videos
        left = 0.0
        for one in range(1, len(course.steps) + 1):
            steps = course.total(one)
            mine = steps - step if one == stage else steps * (one > stage)
            left += self._pace(one) * (videos * mine + later * steps)
        return left

    def say(self, course: Course, videos: int, stage: int, step: int) -> None:
        """Show the status line."""
        first, last = self.done + 1, self.done + videos
        which = f"video {first}" if videos == 1 else f"videos {first}-{last}"
        left_s = self.left_s(course, videos, stage, step)
        where = course.where(stage, step)
        self.status.say(f"{which} of {self.videos}: {where}, {_clock(left_s)} left")

    def _pace(self, stage: int) -> float:
        """Return seconds per video and step: measured, or guessed from another stage."""
        known = stage if stage in self._spent else max(self._spent)
        steps, spent = self._spent[known]
        return spent / steps * self.work[stage - 1] / self.work[known - 1]


def watch(
    denoising: Denoising, course: Course, moments: Mapping[Step, str], videos: int, to: Progress
) -> list[dict[str, Frames]]:
    """Walk a group to its end; return what each video looked like at the moments, by their names.

    Args:
        denoising: The group.
        course: Its steps.
        moments: When to look.
        videos: In the group.
        to: Where to say how far it is.
    """
    seen: list[dict[str, Frames]] = [{} for _ in range(videos)]
    while not denoising.done:
        stage, step, began_s = denoising.stage, denoising.step + 1, time.monotonic()
        denoising.advance()
        to.note(stage, videos, time.monotonic() - began_s)
        to.say(course, videos, stage, step)
        if (stage, step) in moments:
            for index in range(videos):
                seen[index][moments[stage, step]] = denoising.preview(index)
    to.status.clear()
    to.done += videos
    return seen


def _clock(seconds: float) -> str:
    """Return a time as a person says it."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"
