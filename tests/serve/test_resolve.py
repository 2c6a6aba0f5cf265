"""How long a video is, and what is refused before a job exists."""

import pytest

from serve.config import DefaultSettings, LimitSettings, ServeSettings
from serve.resolve import resolve
from serve.schema import ApiError, ModelFacts, parse_body

FACTS = ModelFacts(
    name="m", digest="d" * 64, created_at=0, num_frames=16,
    height_px=36, width_px=64, framerates=(24.0, 12.0, 6.0, 3.0), has_stage2=True,
)  # fmt: skip


def wanted(settings=None, **fields):
    body = parse_body({"prompt": "a red circle"} | fields)
    return resolve(body, FACTS, settings or ServeSettings(folder="/nowhere"))


@pytest.mark.parametrize(
    ("fields", "num_frames", "fps"),
    [
        ({}, 16, 24.0),
        ({"fps": 6}, 16, 6.0),
        ({"seconds": "2"}, 16, 8.0),
        ({"seconds": "10"}, 240, 24.0),
        ({"seconds": "0.5"}, 12, 24.0),
        ({"num_frames": 48}, 48, 24.0),
        ({"num_frames": 48, "seconds": "4"}, 48, 12.0),
        ({"num_frames": 48, "fps": 12}, 48, 12.0),
        ({"seconds": "5", "fps": 12}, 60, 12.0),
        ({"seconds": "0.666667", "fps": 6, "num_frames": 4}, 4, 6.0),
        ({"num_frames": 3}, 3, 24.0),
    ],
    ids=str,
)
def test_frames_are_seconds_times_fps(fields, num_frames, fps):
    request = wanted(**fields)
    assert (request.num_frames, request.fps) == (num_frames, fps)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"num_frames": 513}, "num_frames", r"513; .*512 frames \(serve\.limits\.num_frames"),
        ({"seconds": "30"}, "seconds", r"21\.3333 s at 24 fps, 512 frames \(serve\.limits"),
        ({"seconds": "1e300"}, "seconds", "at most 21"),
        ({"seconds": "1e-9"}, "seconds", "one frame at 24 fps"),
        ({"num_frames": 48, "seconds": "40"}, "seconds", "2 to 16 for 48 frames"),
        ({"num_frames": 48, "seconds": "1", "fps": 24}, "seconds", r"num_frames \(48\)"),
        ({"fps": 2}, "fps", "3 to 24"),
        ({"fps": 25}, "fps", "3 to 24"),
        ({"fps": 0}, "fps", "greater than 0"),
        ({"fps": "nan"}, "fps", "finite"),
        ({"fps": "inf"}, "fps", "finite"),
        ({"seconds": "inf"}, "seconds", "finite"),
        ({"num_frames": 0}, "num_frames", "greater than 0"),
        ({"num_frames": 1.5}, "num_frames", "integer"),
        (
            {"num_frames": 500, "num_inference_steps": 1000},
            "num_frames",
            r"\d+ denoising steps in all.*20000 of them \(serve\.limits\.total_steps\)",
        ),
        ({"guidance_scale_low": 0.5}, "guidance_scale_low", "greater than or equal to 1"),
        ({"guidance_scale_low": 51}, "guidance_scale_low", r"1 to 50 \(serve\.limits\.guidance"),
        ({"reconstruction": -1}, "reconstruction", "greater than or equal to 0"),
        ({"reconstruction": 51}, "reconstruction", "0 to 50"),
        ({"reconstruction": "nan"}, "reconstruction", "finite"),
        ({"sigma_aug": 1e-50}, "sigma_aug", r"greater than or equal to 0\.001"),
        ({"sigma_aug": 1e39}, "sigma_aug", "less than or equal to 10"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_refused_by_name(fields, param, message):
    with pytest.raises(ApiError, match=message) as refused:
        wanted(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_smaller_limit_refuses_what_the_default_takes():
    settings = ServeSettings(folder="/nowhere", limits=LimitSettings(num_frames=15))
    with pytest.raises(ApiError, match="at most 15 frames"):
        wanted(settings)


@pytest.mark.parametrize(
    ("default", "fields", "low"),
    [(0.0, {}, None), (2.0, {}, 2.0), (2.0, {"guidance_scale_low": 3}, 3.0)],
    ids=str,
)
def test_guidance_oscillates_only_where_it_is_asked_to(default, fields, low):
    settings = ServeSettings(folder="/nowhere", defaults=DefaultSettings(guidance_low=default))
    assert wanted(settings, **fields).guidance_low == low


def test_reconstruction_can_be_turned_off():
    assert wanted(reconstruction=0).reconstruction == 0


def test_videos_of_one_clip_share_a_group_at_any_framerate():
    assert wanted(fps=6).batch_key(FACTS) == wanted(fps=24).batch_key(FACTS)


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": 62},
        {"fps": 3},
        {"reconstruction": 0},
        {"guidance_scale_low": 2},
        {"num_inference_steps": 7},
    ],
    ids=str,
)
def test_long_videos_of_another_plan_or_pull_are_other_groups(change):
    plain = {"num_frames": 61}
    assert wanted(**plain | change).batch_key(FACTS) != wanted(**plain).batch_key(FACTS)


def test_long_videos_of_one_plan_share_a_group_at_any_framerate():
    keys = {wanted(num_frames=31, fps=fps).batch_key(FACTS) for fps in (6, 12)}
    assert len(keys) == 1
