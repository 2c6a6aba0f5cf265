"""The folder of numbered videos: what counts as made, and that no file is written over."""

import json

import numpy as np
import pytest

from pipelines.outputs import Outputs
from pipelines.recipe import Recipe
from serve.schema import ModelFacts, Served, VideoRequest
from tests.infra.videos import moving

FRAMES = moving(4)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def recipe(prompt="a circle", digest="d", **values):
    facts = ModelFacts(
        name="m", digest=digest, created_at=0, num_frames=4,
        height_px=48, width_px=64, framerates=(8.0,), has_stage2=True,
    )  # fmt: skip
    served = Served(
        stage1="/one", stage2="/two", text_model="/t5",
        source_height_px=0, source_width_px=0, facts=facts,
    )  # fmt: skip
    given = {"seed": 1, "num_frames": 4, "fps": 8.0, "steps": 4, "steps_2": 4, "guidance": 2.0}
    request = VideoRequest(prompt=prompt, **(given | {"guidance_2": 1.0} | values))
    return Recipe(request, served)


def put(folder, one, formats=("mp4",), preview=None):
    return Outputs(str(folder)).write(one, FRAMES, formats, preview or {})


def found(folder, one, formats=("mp4",), moments=()):
    return Outputs(str(folder)).find(one, formats, moments)


def test_a_video_is_found_by_its_recipe(folder):
    assert put(folder, recipe()) == found(folder, recipe()) == [str(folder / "0000.mp4")]


@pytest.mark.parametrize(
    "other",
    [{"prompt": "a square"}, {"seed": 2}, {"steps": 5}, {"guidance_low": 1.0}, {"digest": "e"}],
    ids=lambda values: next(iter(values)),
)
def test_a_video_of_another_recipe_gets_a_number_of_its_own(folder, other):
    put(folder, recipe())
    assert found(folder, recipe(**other)) == []
    assert put(folder, recipe(**other)) == [str(folder / "0001.mp4")]


def test_weights_that_moved_are_the_same_weights(folder):
    put(folder, recipe())
    moved = recipe()
    moved = Recipe(moved.request, moved.served.model_copy(update={"stage1": "/elsewhere"}))
    assert found(folder, moved)


def test_a_format_that_is_missing_is_written_beside_the_others(folder):
    put(folder, recipe(), ["mp4"])
    assert found(folder, recipe(), ["mp4", "gif"]) == []
    put(folder, recipe(), ["gif"])
    assert len(found(folder, recipe(), ["mp4", "gif"])) == 2


@pytest.mark.parametrize("lost", ["0000.gif", "0000/frame_0003.png"])
def test_a_file_that_was_deleted_is_not_called_made(folder, lost):
    put(folder, recipe(), ["gif", "png"])
    (folder / lost).unlink()
    assert found(folder, recipe(), ["gif", "png"]) == []


def test_a_preview_of_other_moments_is_not_called_made(folder):
    put(folder, recipe(), preview={"one": FRAMES})
    assert found(folder, recipe(), moments=["one"])
    assert not found(folder, recipe(), moments=["one", "two"])


@pytest.mark.parametrize("name", ["0006.mp4", "0006_preview.png", "0006/frame_0000.png"])
def test_files_without_a_recipe_keep_their_number(folder, name):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"mine")
    assert put(folder, recipe()) == [str(folder / "0007.mp4")]


@pytest.mark.parametrize("text", ["", "[]", '{"request": 3}', '{"files": 1, "preview": []}'])
def test_json_that_is_no_recipe_is_left_alone(folder, text):
    folder.mkdir()
    (folder / "0000.json").write_text(text)
    assert put(folder, recipe()) == [str(folder / "0001.mp4")]
    assert (folder / "0000.json").read_text() == text


def test_two_commands_at_once_never_share_a_number(folder):
    first, second = Outputs(str(folder)), Outputs(str(folder))
    first.write(recipe(), FRAMES, ["mp4"], {})
    assert second.write(recipe(seed=2), FRAMES, ["mp4"], {}) == [str(folder / "0001.mp4")]


def test_looking_whether_a_folder_can_be_written_leaves_nothing_in_it(folder):
    Outputs(str(folder)).check_writable()
    assert list(folder.iterdir()) == []


def test_a_recipe_says_what_was_asked_of_which_weights(folder):
    put(folder, recipe("größer", negative_prompt="blue"))
    values = json.loads((folder / "0000.json").read_text(encoding="utf-8"))
    assert values["request"]["prompt"] == "größer"
    assert values["request"]["negative_prompt"] == "blue"
    assert values["model"]["digest"] == "d"
    assert values["files"] == {"mp4": "0000.mp4"}


@pytest.mark.parametrize(("width", "shown"), [(16, 64), (48, 48), (64, 64), (512, 160)])
def test_frames_of_a_preview_are_neither_tiny_nor_huge(folder, width, shown):
    from PIL import Image

    clip = np.zeros((2, 16, width, 3), np.uint8)
    put(folder, recipe(), preview={"one": clip})
    assert Image.open(folder / "0000_preview.png").width == 2 * shown + 2


def test_files_can_lie_in_s3(s3):
    put(f"{s3}/out", recipe(), ["png"])
    assert found(f"{s3}/out", recipe(), ["png"]) == [f"{s3}/out/0000"]
