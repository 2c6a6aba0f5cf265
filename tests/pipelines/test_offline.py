"""`snapvideo sample` on the checkpoint folders of a tiny untrained cascade: no run, no MLflow."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra import video
from infra.animation import encode_gif, encode_webp
from pipelines import cli
from tests.pipelines.checkpoints import WORDS, save_cascade


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return save_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture
def sample(cascade, tmp_path, capsys):
    """Return a caller of the command that gives its exit code, the files it names, and the rest."""

    def call(*words, stage1=cascade[0], stage2=cascade[1]):
        few = ["--steps", "2", "--steps-2", "2", "--output", str(tmp_path / "runs")]
        folders = ["--stage1", stage1, "--stage2", stage2, "--out", str(tmp_path / "out")]
        code = cli.main(["sample", *few, *folders, *words])
        said = capsys.readouterr()
        return code, [Path(line) for line in said.out.splitlines()], said.err

    return call


def test_a_checkpoint_folder_alone_is_enough(sample, tmp_path):
    code, files, _ = sample(WORDS)
    assert code == 0
    assert files == [tmp_path / "out/0000.mp4"]
    clip = video.decode(files[0].read_bytes())
    assert clip.frames.shape == (4, 24, 32, 3)
    assert clip.pts_s == pytest.approx(np.arange(4) / 8)  # the highest it was trained at
    assert not (tmp_path / "runs").exists()  # no run was looked at, no MLflow made


def test_a_run_that_is_not_there_is_named_and_not_made(tmp_path, capsys):
    runs = str(tmp_path / "runs")
    assert cli.main(["sample", WORDS, "--name", "absent", "--output", runs]) == 2
    assert f"there is no run 'absent' in '{runs}'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_every_format_holds_the_same_video_at_its_rate(sample):
    _, files, _ = sample(WORDS, "--fps", "5", "--format", "mp4", "gif", "webp", "png")
    assert [path.name for path in files] == ["0000.mp4", "0000.gif", "0000.webp", "0000"]
    stills = sorted(files[3].iterdir())
    assert [path.name for path in stills] == [f"frame_000{index}.png" for index in range(4)]
    exact = np.stack([np.asarray(Image.open(path)) for path in stills])
    expected = [video.encode_video(exact, 5), encode_gif(exact, 5), encode_webp(exact, 5)]
    assert [path.read_bytes() for path in files[:3]] == expected


def test_a_longer_video_has_the_frames_that_were_asked_for(sample):
    _, [path], _ = sample(WORDS, "--frames", "9")
    assert len(video.decode(path.read_bytes()).frames) == 9


def test_the_first_stage_alone_makes_small_videos(sample):
    _, [path], _ = sample(WORDS, stage2="none")
    assert video.decode(path.read_bytes()).frames.shape == (4, 12, 16, 3)


def test_a_first_stage_that_is_named_alone_is_sampled_alone(sample):
    _, [path], _ = sample(WORDS, stage2="")
    assert video.decode(path.read_bytes()).frames.shape == (4, 12, 16, 3)


def test_a_preview_shows_the_moments_of_each_stage_in_rows(sample):
    _, [_, preview], _ = sample(WORDS, "--preview", "2")
    assert preview.name == "0000_preview.png"
    rows = 4  # 2 moments of 2 stages; frames of 64 x 48 and gaps of 2
    assert Image.open(preview).size == (4 * 66 - 2, rows * 50 - 2)
    values = json.loads(preview.with_name("0000.json").read_text())
    assert values["preview"][0] == "stage 1, step 1 of 2"
    assert values["preview"][-1] == "stage 2, step 2 of 2"


def test_the_last_row_of_a_preview_is_the_video(sample):
    _, [frames, preview], _ = sample(WORDS, "--preview", "2", "--format", "png")
    last_row = np.asarray(Image.open(preview))[-48:, :64]
    first = np.asarray(Image.open(frames / "frame_0000.png"))
    assert np.abs(last_row[::2, ::2].astype(int) - first).max() <= 1


def test_the_same_command_makes_nothing_again(sample):
    _, first, _ = sample(WORDS, "a circle")
    made = [path.stat().st_mtime_ns for path in first]
    code, again, said = sample(WORDS, "a circle")
    assert (code, again) == (0, first)
    assert [path.stat().st_mtime_ns for path in again] == made
    assert "sampled" not in said


def test_another_prompt_gets_the_next_number_and_harms_no_file(sample):
    _, [first], _ = sample(WORDS)
    before = first.read_bytes()
    _, [second], _ = sample("a circle", "--seed", "3")
    assert second.name == "0001.mp4"
    assert first.read_bytes() == before


def test_the_recorded_command_makes_the_same_file(sample, tmp_path, capsys):
    _, [path], _ = sample(
        WORDS, "--seed", "7", "--negative-prompt", "a 'blue' one", "--frames", "6"
    )
    program, *words = shlex.split(json.loads(path.with_suffix(".json").read_text())["command"])
    assert program == "snapvideo"
    cli.main([*words, "--out", str(tmp_path / "again")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "again/0000.mp4")
    assert (tmp_path / "again/0000.mp4").read_bytes() == path.read_bytes()


def test_prompts_come_from_a_file_too(sample, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n\n a circle \n")
    _, files, _ = sample("a plain background", "--prompts-file", str(tmp_path / "prompts.txt"))
    asked = [json.loads(path.with_suffix(".json").read_text())["request"] for path in files]
    assert [(one["prompt"], one["seed"]) for one in asked] == [
        ("a plain background", 0), ("a red circle", 1), ("a circle", 2),
    ]  # fmt: skip


def test_the_mark_at_the_head_of_a_windows_text_file_is_no_part_of_a_prompt(sample, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa circle\r\n")
    _, [path], _ = sample("--prompts-file", str(tmp_path / "prompts.txt"))
    assert json.loads(path.with_suffix(".json").read_text())["request"]["prompt"] == "a circle"


def test_a_prompt_that_is_too_long_is_made_with_a_warning(sample):
    code, _, said = sample(WORDS + " left left left")
    assert code == 0
    assert "reads 8 of the 15 tokens" in said
    assert "cut off: ' a plain blue background left left left'" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "samples.prompts: none given"),
        ([" "], "prompt 1: ' ' is empty"),
        (["\udcff"], "is no Unicode text"),
        (["x", "--fps", "24"], "samples.fps: got 24, the model was trained at 4 to 8 frames/s"),
        (["x", "--steps", "1000000000"], "samples.steps: Input should be less than or equal to"),
        (["x", "--per-prompt", "1000000000"], "samples.per_prompt: Input should be less than or"),
        (["x", "--prompts-file", "/no/such"], "draw.prompts_file: /no/such: no such file"),
        (["x", "--prompts-file", "/dev/null"], "draw.prompts_file: /dev/null has no prompts"),
        (["x", "--text-model", "/no/such"], "draw.text_model: text.model '/no/such'"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(sample, words, expected):
    code, _, said = sample(*words)
    assert code == 2
    assert expected in said
    assert "Traceback" not in said


def test_a_checkpoint_that_is_not_there_is_refused_by_name(sample):
    code, _, said = sample("x", stage1="/no/such")
    assert code == 2
    assert "draw.stage1: '/no/such'" in said


def test_an_upsampler_as_first_stage_is_refused_by_name(sample, cascade):
    code, _, said = sample("x", stage1=cascade[1])
    assert code == 2
    assert "is a checkpoint of stage 2; stage 1 is needed here" in said


def test_a_folder_that_cannot_be_written_is_refused_by_name(sample, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, said = sample("x", "--out", str(tmp_path / "file"))
    assert code == 1
    assert f"draw.out: {tmp_path}/file" in said


def test_a_folder_that_cannot_be_written_is_found_before_the_weights_are_loaded(sample, tmp_path):
    stage1, stage2 = save_cascade(tmp_path)
    (tmp_path / "stage1/model.safetensors").write_bytes(b"")
    code, _, said = sample("x", "--out", "/proc/no", stage1=stage1, stage2=stage2)
    assert code == 1
    assert "draw.out: /proc/no/" in said


def test_a_gif_that_is_too_fast_is_refused_before_anything_is_made(tmp_path, capsys):
    stage1, _ = save_cascade(tmp_path)
    config = tmp_path / "stage1/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"framerates": [60.0]}))
    words = ["x", "--stage1", stage1, "--format", "gif", "--out", str(tmp_path / "out")]
    assert cli.main(["sample", *words]) == 2
    assert "gif: 60 frames/s, players show at most 50" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
