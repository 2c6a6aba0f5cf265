"""One source: what is said about it, and what becomes of one that cannot be used."""

import hashlib
import io
from pathlib import Path

import av
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infra import storage
from infra.store import media
from infra.video import encode_image, encode_video
from pipelines.ingest_config import CutSettings, IngestSettings
from pipelines.sources.config import SourceSettings
from pipelines.sources.listing import list_sources
from pipelines.sources.sink import ScratchError
from pipelines.steps.found import EncodedClips, Span
from pipelines.steps.known import Known, prefixes
from pipelines.steps.source import MadeClip, Outcome, Planned, Work, examine, examine_all
from tests.infra.videos import moving, video


def work(*known):
    return Work(Known(prefixes(known)), IngestSettings(), SourceSettings())


def found(folder, **planned):
    """Return clips and outcome of the only source in a folder."""
    (entry,) = list_sources(str(folder), SourceSettings())
    *clips, outcome = examine(Planned(entry, **planned), work())
    assert all(isinstance(one, MadeClip) for one in clips)
    assert [clip.row["clip_id"] for clip in clips] == outcome.clip_ids
    return clips, outcome


def test_a_caption_that_cannot_be_read_is_refused_and_its_clip_kept(tmp_path):
    storage.write_bytes(str(tmp_path / "still #1 \u00fc.png"), encode_image(moving(1)[0]))
    (tmp_path / "still #1 \u00fc.txt").write_bytes(b"\xff\xfe")
    clips, outcome = found(tmp_path)
    assert (len(clips), outcome.captions) == (1, [])
    assert [(one.stage, one.reason) for one in outcome.refusals] == [
        ("caption", "caption_not_utf8")
    ]


def test_a_title_inside_the_file_is_a_caption_where_nobody_wrote_another(tmp_path):
    (tmp_path / "one.mp4").write_bytes(titled(encode_video(moving(), 8), "a red square"))
    _, outcome = found(tmp_path)
    assert [(one.text, one.origin) for one in outcome.captions] == [("a red square", "alt_text")]
    (tmp_path / "one.txt").write_text("what a person says")
    _, outcome = found(tmp_path)
    assert [(one.text, one.origin) for one in outcome.captions] == [("what a person says", "human")]


def test_a_description_inside_a_picture_is_a_caption(tmp_path):
    words = PngInfo()
    words.add_text("Description", "a red square")
    Image.fromarray(moving(1)[0]).save(tmp_path / "one.png", pnginfo=words)
    _, outcome = found(tmp_path)
    assert [(one.text, one.origin) for one in outcome.captions] == [("a red square", "alt_text")]


def titled(data, title):
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="mp4") as out:
        out.metadata["title"] = title
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = target
                out.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("encode", ["auto", "transcode"])
def test_keyframes_are_told_in_the_clock_of_the_source(tmp_path, encode):
    keyed = {"g": "6", "sc_threshold": "0"}
    (tmp_path / "one.mkv").write_bytes(video(moving(48), "matroska", fps=12, options=keyed))
    cutting = CutSettings(window_s=2.0, encode=encode)
    settings = IngestSettings(cut=cutting)
    (entry,) = list_sources(str(tmp_path), SourceSettings())
    *clips, _ = examine(Planned(entry), Work(Known(prefixes([])), settings, SourceSettings()))
    rows = [clip.row for clip in clips]
    mode, keyframes = {"auto": ("remux", [0, 500, 1000, 1500]), "transcode": ("transcode", [0])}[
        encode
    ]
    assert [(row["encode_mode"], row["src_tb_den"]) for row in rows] == [(mode, 1000)] * 2
    assert [row["keyframe_pts"] for row in rows] == [keyframes] * 2
    assert len({row["split_bucket"] for row in rows}) == 1  # no source lies on both sides


def test_every_clip_is_measured(tmp_path):
    (tmp_path / "one.mp4").write_bytes(encode_video(moving(), 8))
    ((clip,), _) = found(tmp_path)
    assert {"motion", "brightness"} <= set(clip.scores)


def test_a_source_whose_caption_alone_is_new_is_not_opened(tmp_path):
    (tmp_path / "one.mp4").write_bytes(b"these are not the bytes of a video")
    (tmp_path / "one.txt").write_text("said anew")
    clips, outcome = found(tmp_path, known_id="ab" * 32, why="recaptioned")
    assert (clips, outcome.known, outcome.source_id) == ([], True, "ab" * 32)
    assert [one.text for one in outcome.captions] == ["said anew"]
    assert outcome.refusals == []


def test_the_same_content_under_two_names_is_decoded_once(tmp_path):
    for name in ("one.mp4", "two.mp4"):
        (tmp_path / name).write_bytes(encode_video(moving(), 8))
    planned = [Planned(entry) for entry in list_sources(str(tmp_path), SourceSettings())]
    answers = list(examine_all(planned, work()))
    assert [type(one) for one in answers] == [MadeClip, Outcome, Outcome]
    assert [one.known for one in answers[1:]] == [False, True]
    first = answers[1].source_id
    assert [type(one) for one in examine_all(planned, work(first))] == [Outcome, Outcome]


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_set_of_known_sources_holds_those_and_no_others(size):
    ids = [hashlib.sha256(bytes([number])).hexdigest() for number in range(size)]
    ids = [ids[0][:30] + "00" * 17, *ids] if ids else []  # a prefix that ends in a zero byte
    known = Known(prefixes(reversed(ids)))
    assert len(known) == len(ids)
    assert all(one in known for one in ids)
    assert "f" * 64 not in known
    assert hashlib.sha256(b"another").hexdigest() not in known


def test_a_clip_that_no_shard_takes_is_refused_and_nobody_else(tmp_path, monkeypatch):
    (tmp_path / "one.mp4").write_bytes(encode_video(moving(), 8))
    monkeypatch.setattr(media, "LARGEST", 100)
    clips, outcome = found(tmp_path)
    assert clips == []
    assert [one.reason for one in outcome.refusals] == ["clip_too_large"]


def test_a_full_temporary_folder_is_no_fault_of_the_source():
    clips = EncodedClips()
    with Path("/dev/full").open("wb", buffering=0) as full:
        clips._file = full
        with pytest.raises(ScratchError, match="TMPDIR"):
            clips.add(Span(0, 0, 1), b"x")
