"""Settings of what is sampled at the end of a run and by `snapvideo sample`."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from infra.config import Settings


class SampleSettings(Settings):
    """Which videos to ask the trained model for."""

    prompts: tuple[str, ...] = ()
    """What to ask for; empty takes captions of sources that training never read. The demo takes
    combinations that its corpus never shows."""
    num_prompts: PositiveInt = 8
    """How many of those captions."""
    per_prompt: PositiveInt = 1
    """Videos per prompt, each with a seed of its own."""
    seed: NonNegativeInt = 0
    """Seed of the first video; each further one has the next, so that no two share their noise."""
    steps: PositiveInt = 24
    """Denoising steps of the first stage (Heun: two evaluations a step)."""
    steps_2: PositiveInt = 12
    """Denoising steps of the second stage."""
    guidance: PositiveFloat = 3.0
    """Classifier-free guidance weight of the first stage; 1 is off."""
    guidance_2: PositiveFloat = 1.0
    """Classifier-free guidance weight of the second stage; 1 is off."""
    sigma_aug: PositiveFloat = 0.2
    """Noise put on the first stage's video before the second reads it."""
    fps: NonNegativeFloat = 0.0
    """Frames per second; 0 takes the highest the model was trained at."""
    out: str = "samples"
    """Folder or URI where `snapvideo sample` writes."""

    def wanted(self) -> list[tuple[str, int]]:
        """Return (prompt, seed) of every video, in the order of their numbers."""
        prompts = self.prompts * self.per_prompt
        return [(prompt, self.seed + number) for number, prompt in enumerate(prompts)]
