"""Ways to the same clips: frames or packets, one pass or two, and what each may miss."""

import dataclasses
import io

import av
import numpy as np
import pytest

from infra.stills import VideoError
from infra.video import decode, encode_video
from pipelines.ingest_config import AcceptSettings, CutSettings
from pipelines.steps import cut as cut_module
from pipelines.steps import onepass, watch
from pipelines.steps.cut import cut
from pipelines.steps.found import Span
from pipelines.steps.scan import scan
from pipelines.steps.shots import Plan, spans
from tests.infra.videos import moving, noise, sound_and_picture, video
from tests.pipelines.test_shots import TWO_SHOTS

FULL, PACKETS = AcceptSettings(), AcceptSettings(validate_by="packets")
KEYED = {"g": "6", "x265-params": "open-gop=0", "sc_threshold": "0", "bf": "2", "crf": "5"}


def made(data, cutting, accept=FULL):
    found = scan(data, accept, cutting)
    return found, list(cut(data, found, spans(found, cutting), cutting, accept.limits()))


def facts(clip):
    """What a clip's row would say, without what only decoding tells."""
    header = dataclasses.replace(clip.found.header, time_base=0)
    shown = [round(clip.found.seconds(pts), 6) for pts in clip.found.pts]
    keys = clip.found.keyframes
    return clip.span, clip.mode, clip.data, header, shown, keys, clip.crop


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_packets_give_the_clips_that_frames_give(codec, container):
    data = video(moving(48), container, codec, fps=12, options=KEYED)
    cutting = CutSettings(window_s=1.0)
    (by_frames, first), (by_packets, second) = (
        made(data, cutting, accept) for accept in (FULL, PACKETS)
    )
    assert by_packets.validated_by == "packets"
    assert (by_frames.pts, by_frames.keyframes) == (by_packets.pts, by_packets.keyframes)
    assert len(first) == 4
    assert [facts(clip) for clip in first] == [facts(clip) for clip in second]
    assert {clip.mode for clip in first} == {"remux"}
    whole = decode(data).frames
    for clip in second:
        span = clip.span
        assert np.array_equal(decode(clip.data).frames, whole[span.start : span.end])
        assert len(clip.found.thumbs) == len(clip.found.thumb_frames) >= 1


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "libvpx", "wmv2"])
def test_codecs_whose_packets_do_not_tell_are_decoded(codec):
    container = {"mpeg4": "avi", "mjpeg": "avi", "libvpx": "webm", "wmv2": "asf"}[codec]
    data = video(moving(), container, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p")
    assert scan(data, PACKETS, CutSettings()).validated_by == "full"


def test_damage_inside_a_frame_is_found_by_frames_only():
    data = bytearray(video(noise(48, 144, 256), "matroska", fps=12, options={"bf": "0"}))
    places = [packet.pos for packet in packets_of(bytes(data))]
    data[places[30] + 200 : places[30] + 600] = bytes(400)
    assert scan(bytes(data), PACKETS, CutSettings()).num_frames == 48
    with pytest.raises(VideoError, match="corrupt"):
        scan(bytes(data), FULL, CutSettings())


def test_a_damaged_keyframe_is_found_by_packets_too():
    data = bytearray(video(noise(48), "matroska", fps=12, options={"g": "12", "bf": "0"}))
    place = [packet.pos for packet in packets_of(bytes(data)) if packet.is_keyframe][2]
    data[place + 100 : place + 2000] = np.random.default_rng(0).bytes(1900)
    with pytest.raises(VideoError, match="corrupt"):
        scan(bytes(data), AcceptSettings(validate_by="packets", sample_s=0), CutSettings())


def packets_of(data):
    with av.open(io.BytesIO(data)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def test_packets_know_cuts_that_have_a_keyframe():
    data = video(TWO_SHOTS, fps=12, options={"g": "12", "sc_threshold": "0"})
    settings = AcceptSettings(validate_by="packets", sample_s=0)
    _, clips = made(data, CutSettings(), settings)
    assert [(clip.span.start, clip.span.end) for clip in clips] == [(0, 12), (12, 22)]
    assert [clip.span.shot_index for clip in clips] == [0, 1]


def test_windows_between_far_keyframes_grow_where_only_packets_are_read():
    data = video(moving(60), fps=10, options={"g": "25", "sc_threshold": "0", "bf": "0"})
    _, clips = made(data, CutSettings(window_s=2.0), PACKETS)
    assert [(clip.span.start, clip.span.end) for clip in clips] == [(0, 25), (25, 50), (50, 60)]
    _, exact = made(data, CutSettings(window_s=2.0), FULL)
    assert max(clip.span.end - clip.span.start for clip in exact) == 20


def test_an_open_group_of_pictures_is_not_cut_inside():
    """Frames shown before a keyframe but stored after it would be lost or unreadable."""
    options = {"x264-params": "open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3:b-adapt=0"}
    data = video(moving(48), "mp4", fps=8, options=options)
    whole = decode(data).frames
    for accept in (FULL, PACKETS):
        found, clips = made(data, CutSettings(window_s=1.0), accept)
        assert found.validated_by == "full"
        joined = np.concatenate([decode(clip.data).frames for clip in clips])
        assert len(joined) == 48
        assert np.abs(joined.astype(int) - whole).mean() < 3


# One pass


@pytest.mark.parametrize("fps", [10, 30])
@pytest.mark.parametrize("window_s", [0.5, 1.0, 10.0])
def test_one_pass_gives_the_clips_of_two(monkeypatch, window_s, fps):
    frames = np.concatenate([TWO_SHOTS, moving(90), noise(20)])
    data = video(frames, "matroska", fps=fps, options={"bf": "2"})
    cutting = CutSettings(encode="transcode", window_s=window_s)
    one, first = made(data, cutting)
    monkeypatch.setattr(onepass, "_WAITING_BYTES", 0)
    two, second = made(data, cutting)
    assert (one.made is not None, two.made) == (True, None)
    assert [facts(clip) for clip in first] == [facts(clip) for clip in second]
    assert sum(clip.found.num_frames for clip in first) == len(frames)
    assert all(clip.mode == "transcode" for clip in first)


def test_damage_at_the_end_discards_what_one_pass_made():
    data = bytearray(video(noise(80), "matroska", fps=10, options={"bf": "0"}))
    places = [packet.pos for packet in packets_of(bytes(data))]
    data[places[78] + 100 : places[78] + 400] = bytes(300)
    cutting = CutSettings(encode="transcode", window_s=1.0)
    with pytest.raises(VideoError, match="corrupt"):
        scan(bytes(data), FULL, cutting)


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_every_codec_encodes_the_same_bytes_twice(codec):
    cutting = CutSettings(encode="transcode", codec=codec, crf=20, height=48)
    data = video(moving(24, height=96, width=128), fps=12)
    (_, (first,)), (_, (second,)) = (made(data, cutting) for _ in range(2))
    header = first.found.header
    assert first.data == second.data
    assert (header.codec, header.width, header.height) == (codec, 64, 48)
    frames = decode(first.data).frames
    assert frames.shape == (24, 48, 64, 3)
    assert np.abs(frames.astype(int) - decode(data, max_side=64).frames).mean() < 8


def test_what_x265_would_crash_on_is_refused():
    cutting = CutSettings(encode="transcode", codec="hevc", height=24)
    with pytest.raises(VideoError, match="too_small"):
        made(video(moving()), cutting)


@pytest.mark.parametrize("height", [0, 20, 31, 640])
def test_heights_shrink_what_is_higher(height):
    cutting = CutSettings(encode="transcode", height=height)
    _, (clip,) = made(video(moving()), cutting)
    wanted = {0: (64, 48), 20: (26, 20), 31: (40, 30), 640: (64, 48)}[height]
    assert (clip.found.header.width, clip.found.header.height) == wanted
    assert b"b_adapt=0" in clip.data  # x264 writes its options into what it makes


def test_a_clip_keeps_only_its_picture():
    data = sound_and_picture(3)
    for cutting in (CutSettings(window_s=0.5), CutSettings(encode="transcode")):
        for clip in made(data, cutting)[1]:
            assert not clip.found.header.has_audio
            with av.open(io.BytesIO(clip.data)) as container:
                assert len(container.streams) == 1


def test_a_file_is_read_from_its_path_as_from_its_bytes(tmp_path):
    data = video(moving(40), fps=10, options=KEYED)
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    for cutting in (CutSettings(window_s=1.0), CutSettings(encode="transcode"), CutSettings()):
        first, second = made(data, cutting)[1], made(path, cutting)[1]
        assert [facts(clip) for clip in first] == [facts(clip) for clip in second]


def test_thumbnails_of_long_videos_are_thinned_out(monkeypatch):
    monkeypatch.setattr(watch, "_MAX_THUMBS", 16)
    data = video(moving(100), fps=10)
    found = scan(data, FULL, CutSettings())
    assert found.thumb_frames == list(range(0, 100, 8))
    assert (len(found.thumbs), len(found.changes)) == (13, 100)
    _, clips = made(data, CutSettings(encode="transcode", window_s=2.0))
    for clip in clips:
        assert len(clip.found.thumbs) == len(clip.found.thumb_frames) > 0
        assert max(clip.found.thumb_frames) < clip.found.num_frames


def test_what_a_file_says_about_itself_is_kept():
    for container, name in (("mp4", "title"), ("matroska", "title"), ("mp4", "comment")):
        file = io.BytesIO()
        with av.open(file, "w", format=container) as out:
            out.metadata[name] = " a red square "
            stream = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for pixels in moving():
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            out.mux(stream.encode())
        for accept in (FULL, PACKETS):
            assert scan(file.getvalue(), accept, CutSettings()).tags == {name: "a red square"}


# Windows


@pytest.mark.parametrize(("num_frames", "parts"), [
    (5, [5]), (10, [10]), (11, [6, 5]), (20, [10, 10]), (21, [10, 6, 5]), (45, [10, 10, 10, 8, 7]),
])  # fmt: skip
def test_windows_are_full_and_the_rest_is_even(num_frames, parts):
    plan = Plan(10.00001)
    laid = plan.add(list(range(num_frames)), [], num_frames) + plan.finish(num_frames)
    assert [span.end - span.start for span in laid] == parts
    assert laid[0] == Span(0, 0, parts[0])


@pytest.mark.parametrize("seed", range(20))
def test_windows_do_not_depend_on_how_frames_come_in(seed):
    random = np.random.default_rng(seed)
    pts = np.cumsum(random.integers(1, 30, 300)).tolist()
    borders = sorted(random.choice(np.arange(1, 300), 6, replace=False).tolist())
    whole = Plan(100.0)
    at_once = whole.add(pts, borders, 300) + whole.finish(pts[-1] + 10)
    plan, known, laid = Plan(100.0), 0, []
    while known < 300:
        step = min(300, known + int(random.integers(1, 40)))
        laid += plan.add(pts[:step], [at for at in borders if known <= at < step], step)
        known = step
    laid += plan.finish(pts[-1] + 10)
    assert laid == at_once
    assert [span.start for span in laid[1:]] == [span.end for span in laid[:-1]]
    assert {span.start for span in laid} >= set(borders)
    for span in laid:
        if span.end - span.start > 1:
            assert pts[span.end - 1] - pts[span.start] <= 100


def test_an_encoder_that_has_no_such_quality_is_refused():
    with pytest.raises(ValueError, match=r"crf \(60\) must be at most 51 for h264"):
        CutSettings(crf=60)
    assert CutSettings(crf=60, codec="av1").crf == 60


def test_a_source_of_one_window_stays_as_it_is():
    data = encode_video(moving(), 8)
    for accept in (FULL, PACKETS):
        _, (clip,) = made(data, CutSettings(), accept)
        assert (clip.mode, clip.data) == ("original", data)


def test_copies_that_fail_are_encoded_in_one_pass(monkeypatch):
    """HEVC's groups of pictures reach into each other, so that hardly a copy shows its frames."""
    options = {"g": "8", "bf": "3", "x265-params": "open-gop=1:min-keyint=8:scenecut=0"}
    data = video(moving(48), "mp4", "libx265", fps=8, options=options)
    passes = []
    whole = decode(data).frames
    real = cut_module.opened
    monkeypatch.setattr(cut_module, "opened", lambda *a, **k: passes.append(1) or real(*a, **k))
    _, clips = made(data, CutSettings(window_s=1.0))
    assert sum(clip.mode == "transcode" for clip in clips) > 2
    assert len(passes) == 1
    joined = np.concatenate([decode(clip.data).frames for clip in clips])
    assert np.abs(joined.astype(int) - whole).mean() < 3


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_frames_before_the_first_keyframe_are_counted_from_time_zero(container):
    data = headless(video(moving(48), "mp4", fps=12, options=KEYED), container)
    by_frames, by_packets = (scan(data, accept, CutSettings()) for accept in (FULL, PACKETS))
    assert by_packets.validated_by == "packets"
    assert by_frames.num_skipped == by_packets.num_skipped > 0
    assert by_frames.num_frames == by_packets.num_frames


def headless(data, container):
    """The video without its first keyframe; what follows it starts at time zero."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container) as out:
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size][1:]
        start = min(packet.pts for packet in packets)
        lead = min(packet.dts for packet in packets)
        for packet in packets:
            packet.pts, packet.dts = packet.pts - start, packet.dts - max(start, lead)
            packet.stream = target
            out.mux(packet)
    return file.getvalue()
