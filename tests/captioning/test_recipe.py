"""What makes a caption stale, and what does not."""

import pytest

from captioning.config import CaptionSettings, FrameSettings
from captioning.recipe import recipe
from infra.errors import ConfigError

BASE = CaptionSettings(model="org/captioner", revision="abc")


def test_machine_settings_do_not_change_the_recipe():
    same = BASE.model_copy(update={"batch": 3, "num_workers": 4, "clips_per_commit": 7})
    assert recipe(same).recipe_id == recipe(BASE).recipe_id


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "abd"},
        {"max_new_tokens": 7},
        {"dtype": "bfloat16"},
        {"frames": FrameSettings(num_frames=4)},
    ],
)
def test_what_shapes_captions_changes_the_recipe(change):
    assert recipe(BASE.model_copy(update=change)).recipe_id != recipe(BASE).recipe_id


def test_another_prompt_is_another_recipe(tmp_path):
    (tmp_path / "ask.txt").write_text("What moves?", encoding="utf-8")
    asked = recipe(BASE.model_copy(update={"prompt_file": str(tmp_path / "ask.txt")}))
    assert asked.prompt == "What moves?"
    assert asked.recipe_id != recipe(BASE).recipe_id


def test_a_missing_prompt_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"captioning\.prompt_file"):
        recipe(BASE.model_copy(update={"prompt_file": "/nowhere.txt"}))
