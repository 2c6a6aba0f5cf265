"""Cuts and spans, and the clips that are made of them."""

import numpy as np
import pytest

from infra.video import decode, encode_video
from pipelines.ingest_config import AcceptSettings, CutSettings
from pipelines.steps.cut import cut
from pipelines.steps.scan import scan
from pipelines.steps.shots import Span, cuts, spans
from tests.infra.videos import moving, noise, video

ACCEPT = AcceptSettings()
TWO_SHOTS = np.concatenate([moving(12), moving(10, colour=(20, 60, 230), back=(230, 220, 180))])


def clips_of(data, **settings):
    chosen = CutSettings(**settings)
    found = scan(data, ACCEPT, chosen)
    return list(cut(data, found, spans(found, chosen), chosen, ACCEPT.limits()))


def test_a_hard_cut_is_found_and_motion_is_not():
    found = scan(encode_video(TWO_SHOTS, 8), ACCEPT)
    assert cuts(found.changes, CutSettings()) == [12]
    quick = scan(encode_video(moving(5), 8), ACCEPT)
    assert cuts(quick.changes, CutSettings()) == []


def test_a_fade_is_no_cut():
    levels = np.linspace(0, 255, 24).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (24, 48, 64, 3))
    assert cuts(scan(encode_video(frames, 8), ACCEPT).changes, CutSettings()) == []


def test_long_shots_become_windows_and_an_even_rest():
    found = scan(encode_video(moving(25), 10), ACCEPT)
    laid = spans(found, CutSettings(window_s=1.0))
    assert [(span.start, span.end) for span in laid] == [(0, 10), (10, 18), (18, 25)]
    assert {span.shot_index for span in laid} == {0}


def test_one_frame_is_one_span():
    assert spans(scan(encode_video(moving(1), 8), ACCEPT), CutSettings()) == [Span(0, 0, 1)]


def test_a_source_of_one_clip_keeps_its_bytes():
    data = encode_video(moving(), 8)
    (clip,) = clips_of(data)
    assert (clip.mode, clip.data) == ("original", data)


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_spans_between_keyframes_are_remuxed(codec):
    kind = "mp4" if codec == "libx264" else "webm"
    data = video(TWO_SHOTS, kind, codec, options={"g": "12", "sc_threshold": "0"})
    assert scan(data, ACCEPT).keyframes == [0, 12]
    clips = clips_of(data)
    assert [clip.mode for clip in clips] == ["remux", "remux"]
    shown = np.concatenate([decode(clip.data).frames for clip in clips])
    assert np.array_equal(shown, decode(data).frames)


def test_a_rotated_source_stays_upright_when_remuxed():
    data = video(TWO_SHOTS, rotation=90, options={"g": "12", "sc_threshold": "0", "bf": "0"})
    for clip in clips_of(data):
        assert decode(clip.data).frames.shape[1:3] == (64, 48)


def test_other_spans_are_encoded_again_with_their_times():
    data = video(noise(40), fps=10, options={"g": "250"})
    clips = clips_of(data, window_s=1.0)
    assert [clip.mode for clip in clips] == ["transcode"] * 4
    whole = decode(data)
    for index, clip in enumerate(clips):
        part = decode(clip.data)
        assert part.pts_s == pytest.approx(np.arange(10) / 10, abs=1e-3)
        error = np.abs(part.frames.astype(int) - whole.frames[index * 10 : index * 10 + 10])
        assert error.mean() < 6


def test_cutting_twice_gives_the_same_bytes():
    data = video(noise(40), fps=10, options={"g": "250"})
    first, second = (clips_of(data, window_s=1.0) for _ in range(2))
    assert [clip.data for clip in first] == [clip.data for clip in second]
