"""What is said about media: texts beside it and tags inside it."""

import pytest

from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import SourceEntry
from pipelines.sources.sidecar import Caption, said_of, tag_caption


@pytest.fixture
def said(tmp_path):
    def read(**files):
        uris = {}
        for suffix, data in files.items():
            (tmp_path / f"a.{suffix}").write_bytes(data)
            uris[suffix] = str(tmp_path / f"a.{suffix}")
        entry = SourceEntry(
            "a.mp4", "root", "1", "a.mp4",
            caption_uri=uris.get("txt", ""), metadata_uri=uris.get("json", ""),
        )  # fmt: skip
        return said_of(entry, SourceSettings(max_caption_kib=1))

    return read


def reasons(found):
    return [refusal.reason for refusal in found.refusals]


def test_nothing_said_is_nothing(said):
    found = said()
    assert (found.captions, found.metadata, found.refusals) == ([], "", [])


def test_a_text_file_goes_before_json_and_json_keeps_its_metadata(said):
    found = said(txt="\ufeff ein Fuß \n".encode(), json=b'{"caption": "x", "a": {"b": 1}}')
    assert found.captions == [Caption("ein Fuß")]
    assert found.metadata == '{"a": {"b": 1}}'


def test_json_may_hold_several_captions(said):
    assert said(json=b'{"caption": ["one", " two "]}').captions == [Caption("one"), Caption("two")]


def test_a_bad_text_file_leaves_the_json(said):
    found = said(txt=b"\xff", json=b'{"caption": "x"}')
    assert found.captions == [Caption("x")]
    assert reasons(found) == ["caption_not_utf8"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"txt": b" \n"}, "caption_empty"),
        ({"txt": b"\xff\xfe"}, "caption_not_utf8"),
        ({"txt": b"x" * 1025}, "caption_too_long"),
        ({"json": b"{"}, "caption_not_json"),
        ({"json": b"[1]"}, "caption_not_json"),
        ({"json": b"[" * 1000}, "caption_not_json"),
        ({"json": b'{"caption": 5}'}, "caption_no_text"),
        ({"json": b'{"caption": ["a", 5]}'}, "caption_no_text"),
        ({"json": b'{"caption": "half a \\ud83d"}'}, "caption_not_utf8"),
    ],
)
def test_what_is_no_caption_has_a_reason(said, files, reason):
    found = said(**files)
    assert found.captions == []
    assert reasons(found) == [reason]
    assert found.refusals[0].stage == "caption"


def test_a_text_that_is_gone_may_be_tried_again(tmp_path):
    entry = SourceEntry("a.mp4", "root", "1", "a.mp4", caption_uri=str(tmp_path / "a.txt"))
    said = said_of(entry)
    captions, (refusal,) = said.captions, said.refusals
    assert captions == []
    assert (refusal.reason, refusal.retryable) == ("caption_unreadable", True)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, None),
        ({"encoder": "Lavf", "title": ""}, None),
        ({"title": "12"}, None),
        ({"title": "A bird"}, "A bird"),
        ({"TITLE": "A bird", "Comment": " It\n flies "}, "It flies"),
        ({"comment": "b", "description": "a long one"}, "a long one"),
    ],
)
def test_tags_that_say_something_are_alternative_text(tags, expected):
    found = tag_caption(tags)
    assert found == (Caption(expected, "alt_text") if expected else None)
