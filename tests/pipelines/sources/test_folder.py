"""Folders, prefixes, globs and single files: which media there is, and what stands beside it."""

import errno
import functools
import os
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import storage
from infra.errors import ConfigError, DataError
from infra.storage import FileInfo
from pipelines.sources import folder
from pipelines.sources.address import FetchError
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import MISSING, UNCHECKED
from pipelines.sources.fetch import fetched
from pipelines.sources.folder import _regex, list_folder
from pipelines.sources.listing import list_sources, source_root
from pipelines.sources.sidecar import said_of
from pipelines.sources.tar import Member

SETTINGS = SourceSettings()


def put(root, *names, data=b"content"):
    for name in names:
        storage.write_bytes(storage.join(root, name), data)


def listed(source, settings=SETTINGS):
    return list(list_sources(source, settings))


def names(source, settings=SETTINGS):
    return [entry.uri.rpartition("/")[2] for entry in listed(source, settings)]


def test_the_first_folder_is_the_partition(root):
    put(root, "loose.mp4", "b/deep/er/y.WEBM", "b/x.png", "a/größe #1 ü.mp4", "a/notes.md")
    found = {e.uri.removeprefix(root + "/"): e.partition for e in listed(root)}
    assert found == {
        "a/größe #1 ü.mp4": "a",
        "b/deep/er/y.WEBM": "b",
        "b/x.png": "b",
        "loose.mp4": "root",
    }


def test_sizes_and_stamps_come_with_the_listing(root):
    put(root, "a.mp4")
    (before,) = listed(root)
    put(root, "a.mp4", data=b"another content")
    (after,) = listed(root)
    assert (before.size_bytes, after.size_bytes) == (7, 15)
    assert before.stamp != after.stamp


@pytest.mark.parametrize(
    "name", ["a b.mp4", "a#b.mp4", "a%20b.mp4", "ü/é.mp4", "a'b\".mp4", "a?b.mp4"]
)
def test_odd_names_keep_their_names(root, name):
    put(root, name)
    assert [e.uri for e in listed(root)] == [f"{root}/{name}"]


@pytest.mark.parametrize("name", ["a\nb.mp4", "a..mp4", "é" * 100 + ".mp4"])
def test_odd_local_names_keep_their_names(tmp_path, name):
    path = tmp_path / "x" / name
    path.parent.mkdir()
    path.write_bytes(b"1")
    assert [e.uri for e in listed(str(tmp_path / "x"))] == [str(path)]


def test_texts_beside_media_are_its_captions(root):
    put(root, "a.mp4", "b.mp4", "c.mp4")
    put(root, "b.txt", data=b" a cat \n")
    put(root, "c.json", data=b'{"caption": "a dog", "take": 2}')
    a, b, c = listed(root)
    assert (a.caption_stamp, a.caption_uri) == ("", "")
    assert b.caption_stamp
    assert [caption.text for caption in said_of(b).captions] == ["a cat"]
    said = said_of(c)
    assert [caption.text for caption in said.captions] == ["a dog"]
    assert said.metadata == '{"take": 2}'


def test_a_changed_text_changes_only_the_caption_stamp(root):
    put(root, "a.mp4", "a.txt")
    (before,) = listed(root)
    put(root, "a.txt", data=b"longer text than before")
    (after,) = listed(root)
    assert (after.stamp, after.caption_uri) == (before.stamp, before.caption_uri)
    assert after.caption_stamp != before.caption_stamp


def test_stems_with_dots_find_their_own_texts(root):
    put(root, "v.mp4", "v.txt", "v.1.mp4", "v.1.txt", "v.2.mp4", "v-1.mp4", "v/x.mp4", "v/x.txt")
    texts = {e.uri.removeprefix(root): e.caption_uri.removeprefix(root) for e in listed(root)}
    assert texts == {
        "/v.mp4": "/v.txt",
        "/v.1.mp4": "/v.1.txt",
        "/v.2.mp4": "",
        "/v-1.mp4": "",
        "/v/x.mp4": "/v/x.txt",
    }


_PARTS = st.lists(st.sampled_from(["a", "b", "1"]), min_size=1, max_size=3).map(".".join)
_NAMES = st.sets(
    st.builds(
        lambda folder, stem, suffix: f"{folder}{stem}.{suffix}",
        st.sampled_from(["", "a/", "a.b/"]),
        _PARTS,
        st.sampled_from(["mp4", "png", "txt", "json"]),
    ),
    max_size=30,
)


@given(_NAMES)
def test_pairing_a_stream_equals_looking_up_each_stem(found):
    infos = [FileInfo(f"/r/{name}", 1, 1) for name in sorted(found)]
    media = {name for name in found if name.endswith(("mp4", "png"))}
    if not media:
        return
    entries = list(list_folder("/r", infos, SETTINGS, ("mp4", "png")))
    assert {e.uri for e in entries} == {f"/r/{name}" for name in media}
    for entry in entries:
        stem = entry.uri.rpartition(".")[0]
        expected = [f"{stem}.{s}" if f"{stem[3:]}.{s}" in found else "" for s in ("txt", "json")]
        assert [entry.caption_uri, entry.metadata_uri] == expected


def test_a_long_folder_is_not_held_in_memory():
    infos = (FileInfo(f"/r/video.{n:07}.mp4", 1, 1) for n in range(20_000))
    tracemalloc.start()
    num = sum(1 for _ in list_folder("/r", infos, SETTINGS, ("mp4",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num == 20_000
    assert peak < 1 << 19


@pytest.mark.parametrize("suffix", ["mp4", "txt"])
def test_a_tar_that_repeats_a_name_or_nests_names_is_not_held(monkeypatch, suffix):
    many = [Member(f"{'a.' * (n % 300)}a.{suffix}", n, 1) for n in range(300)]
    same = [Member("b.mp4", n, 1) for n in range(4_000)]
    bad = [Member("c", refusal="bad_member: a link")] * 4_000
    monkeypatch.setattr(folder, "members", lambda *_: iter([*many, *same, *bad]))
    tar = functools.partial(folder.list_tar, FileInfo("/r/t.tar", 1, 1), "/r/", SETTINGS, ("mp4",))
    tracemalloc.start()
    num = sum(1 for _ in tar())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num == 8_000 + 300 * (suffix == "mp4")
    assert peak < 1 << 19


def test_hidden_files_are_passed_over(root):
    put(root, "a.mp4", ".b.mp4", ".cache/c.mp4")
    assert names(root) == ["a.mp4"]


def test_a_link_that_closes_a_circle_is_followed_once(tmp_path):
    put(str(tmp_path), "a/x.mp4")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert sum(name == "x.mp4" for name in names(str(tmp_path))) == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/*.mp4", ["top.mp4"]),
        ("/**/*.mp4", ["deep.mp4", "x.mp4", "top.mp4"]),
        ("/a/**", ["deep.mp4", "x.mp4", "y.png"]),
        ("/a/?.*", ["x.mp4", "y.png"]),
        ("/[a-c]/[!y]*", ["x.mp4"]),
        ("/nothing*/**", None),
    ],
)
def test_globs_name_media(root, pattern, expected):
    put(root, "top.mp4", "a/x.mp4", "a/y.png", "a/b/deep.mp4", "a/b/notes.md")
    if expected is None:
        with pytest.raises(DataError, match="nothing"):
            listed(root + pattern)
    else:
        assert names(root + pattern) == expected


def test_a_glob_for_media_finds_the_texts_beside_it(root):
    put(root, "a/x.mp4", "a/x.txt")
    (entry,) = listed(f"{root}/**/*.mp4")
    assert entry.caption_uri.endswith("/a/x.txt")
    assert entry.partition == "a"


def test_a_folder_with_brackets_in_its_name_is_itself(tmp_path):
    put(str(tmp_path), "[old]/x.mp4")
    assert names(str(tmp_path / "[old]")) == ["x.mp4"]


@pytest.mark.parametrize("pattern", ["s3://buck*/x", "s3://*"])
def test_wildcards_in_a_bucket_name_are_refused(s3, pattern):
    with pytest.raises(ConfigError, match="behind the bucket"):
        listed(pattern)


@given(st.text("ab*?[]!/.^-", max_size=12))
def test_any_pattern_becomes_a_regular_expression(pattern):
    re.compile(_regex(pattern))


def test_one_file_is_a_source_with_its_caption(root):
    put(root, "a.mp4", "a.txt", "b.mp4")
    (entry,) = listed(f"{root}/a.mp4")
    assert (entry.uri, entry.caption_uri) == (f"{root}/a.mp4", f"{root}/a.txt")


def test_a_bare_file_name_is_a_source(tmp_path, monkeypatch):
    put(str(tmp_path), "clip.mp4")
    monkeypatch.chdir(tmp_path)
    assert [e.uri for e in listed("clip.mp4")] == [str(tmp_path / "clip.mp4")]


def test_days_are_partitions(tmp_path):
    put(str(tmp_path), "a.mp4", "b.mp4")
    os.utime(tmp_path / "a.mp4", (1_700_000_000, 1_700_000_000))
    found = listed(str(tmp_path), SourceSettings(partition_by="date"))
    assert found[0].partition == "2023-11-14"
    assert found[1].partition > "2025"


def test_shards_are_partitions_and_do_not_depend_on_the_root(tmp_path):
    settings = SourceSettings(partition_by="shard", num_shards=7)
    parts = []
    for root in ("one", "two"):
        put(str(tmp_path / root), *(f"{n}.mp4" for n in range(40)))
        parts.append([e.partition for e in listed(str(tmp_path / root), settings)])
    assert parts[0] == parts[1]
    assert 3 < len(set(parts[0])) <= 7


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="the folder is empty"):
        listed(str(tmp_path))


def test_a_folder_without_media_is_refused_with_the_accepted_endings(root):
    put(root, "a.txt", "b.json")
    with pytest.raises(DataError, match=r"none of its 2 files is media.*mp4.*accept.suffixes"):
        listed(root)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        listed(str(tmp_path / "none"))


def test_an_empty_prefix_in_s3_may_be_mistyped(s3):
    with pytest.raises(DataError, match="check bucket and prefix"):
        listed(storage.join(s3, "nothing"))


def test_no_source_at_all_is_told():
    with pytest.raises(ConfigError, match="source is not set"):
        source_root("")


def test_a_packed_tar_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match="unpack it"):
        listed(str(tmp_path / "x.tar.gz"))


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_a_disk_cannot_say_is_refused_not_missing(tmp_path, monkeypatch, code):
    put(str(tmp_path), "t.tar", "a.mp4")
    (tmp_path / "l.txt").write_text(f"t.tar\na.mp4\nnone.mp4\n{'x' * 300}.mp4\n")
    look = Path.stat

    def stat(path, **more):
        if path.name in ("t.tar", "a.mp4"):
            raise OSError(code, "broken", str(path))
        return look(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    tar, media, *gone = listed(f"{tmp_path}/l.txt")
    assert tar.uri == f"{tmp_path}/t.tar"
    assert tar.refusal.startswith("unreadable_file: ")
    assert (media.stamp, [each.stamp for each in gone]) == (UNCHECKED, [MISSING, MISSING])
    with pytest.raises(FetchError, match="unreadable_file"), fetched(media, SETTINGS):
        pass
