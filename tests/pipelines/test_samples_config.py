"""What may be asked of a sampling run, and what is refused before anything is loaded."""

import pytest

from infra.config import from_text
from infra.errors import ConfigError
from pipelines.samples_config import SampleSettings


def test_no_two_videos_share_a_seed_and_every_prompt_comes_as_often_as_asked():
    wanted = SampleSettings(prompts=("a", "b"), per_prompt=2, seed=5).wanted()
    assert wanted == [("a", 5), ("b", 6), ("a", 7), ("b", 8)]


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("frames", "0", "greater than or equal to 1"),
        ("fps", "0", "greater than 0"),
        ("fps", ".nan", "finite"),
        ("fps", ".inf", "finite"),
        ("seed", "-1", "greater than or equal to 0"),
        ("guidance", "0.5", "greater than or equal to 1"),
        ("guidance_low", "0", "greater than or equal to 1"),
        ("guidance_2", ".inf", "finite"),
        ("steps", "1", "greater than or equal to 2"),
        ("sigma_aug", ".nan", "finite"),
        ("sigma_aug", "1e-50", "greater than or equal to 0.001"),
        ("reconstruction", "-1", "greater than or equal to 0"),
    ],
)
def test_a_value_that_cannot_be_sampled_is_refused_by_name(key, value, accepted):
    with pytest.raises(ConfigError, match=f"{key}: .*{accepted}.*, got"):
        from_text(SampleSettings, f"{key}: {value}", "my.yaml")
