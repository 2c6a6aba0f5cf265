"""Tars: members by byte range, joined by their keys; hostile headers are refused by name."""

import io
import json
import random
import struct
import tarfile

import botocore.client
import botocore.exceptions
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import storage
from pipelines.sources.address import FetchError
from pipelines.sources.config import SourceSettings
from pipelines.sources.fetch import fetched
from pipelines.sources.listing import list_sources
from pipelines.sources.sidecar import said_of

SETTINGS = SourceSettings(retry_wait_s=0)


def listed(source, given_settings=SETTINGS):
    return list(list_sources(source, given_settings))


def webdataset_tar(num, size=2000, **more):
    out = io.BytesIO()
    with webdataset.TarWriter(out) as writer:
        for n in range(num):
            sample = {"__key__": f"{n:05}", "mp4": bytes([n % 256]) * (size + n)}
            writer.write(sample | {name: make(n) for name, make in more.items()})
    return out.getvalue()


def tar_of(*members, **options):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:
        for name, data in members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = header.size or len(data)
            tar.addfile(header, io.BytesIO(data) if data else None)
    return out.getvalue()


def link(name, kind, target="x"):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


@pytest.fixture
def tar(tmp_path):
    def write(data, name="t.tar"):
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


def test_samples_of_webdataset_become_entries_with_their_texts(root):
    data = webdataset_tar(
        3, txt=lambda n: f"caption {n}", json=lambda n: {"n": n, "caption": "not this one"}
    )
    storage.write_bytes(storage.join(root, "shards/part-0.tar"), data)
    entries = listed(root)
    assert [e.uri for e in entries] == [f"{root}/shards/part-0.tar!/{n:05}.mp4" for n in range(3)]
    assert {e.partition for e in entries} == {"shards"}
    for n, entry in enumerate(entries):
        said = said_of(entry)
        assert [caption.text for caption in said.captions] == [f"caption {n}"]
        assert json.loads(said.metadata) == {"n": n}
        with fetched(entry, SETTINGS) as media:
            assert media.data == bytes([n]) * (2000 + n)


def test_a_caption_in_json_is_one(tar):
    (entry,) = listed(
        tar(webdataset_tar(1, json=lambda n: {"text": "a hen", "w": 4})),
        SourceSettings(caption_key="text"),
    )
    assert (entry.caption, entry.metadata) == ("a hen", '{"w": 4}')


def test_the_media_of_a_tar_is_not_read_to_list_it(tar, monkeypatch):
    path = tar(webdataset_tar(10, size=1 << 20))
    num_bytes = 0
    read = storage.read_range

    def counted(*words, **named):
        nonlocal num_bytes
        found = read(*words, **named)
        num_bytes += len(found)
        return found

    monkeypatch.setattr(storage, "read_range", counted)
    assert len(listed(path)) == 10
    assert num_bytes < 2 << 20


def test_tars_are_partitions_of_their_own_by_shard(tmp_path, tar):
    tar(webdataset_tar(2), "a.tar")
    tar(webdataset_tar(1), "b.tar")
    found = listed(str(tmp_path), SourceSettings(partition_by="shard"))
    assert [e.partition for e in found] == ["a.tar", "a.tar", "b.tar"]


def test_a_glob_of_tars_beside_plain_files(tmp_path, tar):
    tar(webdataset_tar(2), "a.tar")
    (tmp_path / "x.mp4").write_bytes(b"1")
    assert len(listed(f"{tmp_path}/*.tar")) == 2
    assert len(listed(str(tmp_path))) == 3


@pytest.mark.parametrize("name", ["a b#c.mp4", "ü\n.mp4", "deep/" * 60 + "x.mp4", "a.b.c.mp4"])
def test_odd_member_names_are_kept(tar, name):
    path = tar(tar_of((name, b"1")))
    (entry,) = listed(path)
    assert entry.uri == f"{path}!/{name}"
    assert entry.refusal == ""


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("../up.mp4", "leads out"),
        ("a/../../up.mp4", "leads out"),
        ("/etc/x.mp4", "leads out"),
        (link("x.mp4", tarfile.SYMTYPE, "/etc/passwd"), "only plain files"),
        (link("x.mp4", tarfile.LNKTYPE), "only plain files"),
        (link("x.mp4", tarfile.CHRTYPE), "only plain files"),
        (link("x.mp4", tarfile.FIFOTYPE), "only plain files"),
        ("x" * 5000 + ".mp4", "too long"),
        (b"\xff\xfe.mp4".decode(errors="surrogateescape"), "not UTF-8"),
    ],
)
def test_members_that_are_no_files_inside_are_refused_by_name(tar, header, told):
    data = b"" if isinstance(header, tarfile.TarInfo) else b"1"
    options = {"format": tarfile.GNU_FORMAT, "errors": "surrogateescape"}
    bad, good = listed(tar(tar_of((header, data), ("ok.mp4", b"2"), **options)))
    assert bad.refusal.startswith("bad_member: ")
    assert told in bad.refusal
    assert good.refusal == ""
    with pytest.raises(FetchError, match="bad_member"), fetched(bad, SETTINGS):
        pass


def test_a_sparse_member_is_refused(tar):
    header = tarfile.TarInfo("s.mp4")
    header.size = 10
    header.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "s.mp4",
        "GNU.sparse.realsize": str(1 << 50),
    }
    data = b"1\n0\n10\n".ljust(512, b"\0") + b"x" * 10
    header.size = len(data)
    found = listed(tar(tar_of((header, data), format=tarfile.PAX_FORMAT)))
    assert "sparse" in found[0].refusal


def absurd(size):
    header = tarfile.TarInfo("big.mp4")
    header.size = size
    return header.tobuf(tarfile.GNU_FORMAT) + b"x" * 512


@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_an_absurd_size_is_refused_without_reading(tar, size):
    found = listed(tar(absurd(size)))
    assert found[0].refusal.startswith("bad_member: 'big.mp4' ends behind the tar")


def test_a_long_name_that_asks_for_a_gigabyte_is_refused(tar):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    (bad,) = listed(tar(header.tobuf(tarfile.GNU_FORMAT) + b"x" * 4096))
    assert bad.refusal.startswith("unreadable_tar: ")
    assert "asks for 1073741824 bytes" in bad.refusal


def test_endless_long_names_are_refused(tar):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 10
    (bad,) = listed(tar((header.tobuf(tarfile.GNU_FORMAT) + b"y".ljust(512, b"\0")) * 3000))
    assert bad.refusal.startswith("unreadable_tar: ")


def test_a_header_that_leads_backwards_ends_the_tar(tar):
    header = tarfile.TarInfo("x.mp4")
    header.pax_headers = {"size": "-4096"}
    data = tar_of(("a.mp4", b"1"), (header, b"x" * 512), format=tarfile.PAX_FORMAT)
    found = listed(tar(data))
    assert len(found) < 5
    assert any(e.refusal for e in found)


@pytest.mark.parametrize("keep", [700, 5 * 512 + 100, 6000])
def test_a_tar_cut_short_keeps_what_is_whole_and_says_so(tar, keep):
    whole = webdataset_tar(5, txt=lambda n: "c")
    path = tar(whole[:keep])
    found = listed(path)
    assert any(e.refusal and e.uri == path for e in found)
    for entry in found:
        if not entry.refusal:
            with fetched(entry, SETTINGS) as media:
                assert media.size_bytes == entry.size_bytes


def test_a_flipped_header_does_not_silently_end_the_tar(tar):
    data = bytearray(tar_of(*((f"{n}.mp4", b"1") for n in range(4))))
    data[1024 + 150] ^= 0xFF  # checksum of the second header
    found = listed(tar(bytes(data)))
    assert any("unreadable_tar" in e.refusal for e in found)


def test_what_is_no_tar_is_refused(tar):
    (bad,) = listed(tar(b"<html>" * 1000))
    assert bad.refusal.startswith("unreadable_tar: ")


def test_an_empty_file_is_no_tar(tar):
    (bad,) = listed(tar(b""))
    assert bad.refusal.startswith("unreadable_tar: ")


def test_a_tar_that_changes_after_the_listing_is_noticed(root):
    place = storage.join(root, "t.tar")
    storage.write_bytes(place, webdataset_tar(2))
    entry = listed(root)[0]
    storage.write_bytes(place, webdataset_tar(3))
    with pytest.raises(FetchError, match="changed_while_read") as fault, fetched(entry, SETTINGS):
        pass
    assert fault.value.retryable


def test_a_caption_that_is_no_text_leaves_the_media(tar):
    (entry,) = listed(tar(tar_of(("a.mp4", b"1"), ("a.txt", b"\xff\xfe"))))
    assert entry.refusal == ""
    said = said_of(entry)
    assert [refusal.reason for refusal in said.refusals] == ["caption_not_utf8"]


@pytest.mark.parametrize(
    ("txt", "json_", "caption", "metadata", "reason"),
    [
        (b"a cat", b"[1]", "a cat", "", "caption_not_json"),
        (b"\xff", b'{"caption": "a dog", "take": 2}', "a dog", '{"take": 2}', "caption_not_utf8"),
    ],
)
def test_a_bad_text_leaves_the_one_beside_it(tar, txt, json_, caption, metadata, reason):
    (entry,) = listed(tar(tar_of(("a.mp4", b"1"), ("a.json", json_), ("a.txt", txt))))
    said = said_of(entry)
    assert [one.text for one in said.captions] == [caption]
    assert said.metadata == metadata
    assert [one.reason for one in said.refusals] == [reason]


def test_a_caption_that_is_too_long_leaves_the_media(tar):
    long = b"x" * (300 << 10)
    (entry,) = listed(tar(tar_of(("a.mp4", b"1"), ("a.txt", long))))
    assert said_of(entry).refusals[0].reason == "caption_too_long"


def test_a_long_caption_that_is_allowed_is_read(tar):
    allowed = SETTINGS.model_copy(update={"max_caption_kib": 4096})
    data = tar_of(("a.mp4", b"1"), ("a.txt", b"x" * (2 << 20)), ("b.mp4", b"2"))
    first, second = listed(tar(data), allowed)
    assert len(first.caption) == 2 << 20
    assert (second.refusal, second.size_bytes) == ("", 1)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), num_flips=st.integers(1, 40))
def test_random_damage_never_escapes_or_fails(tmp_path, seed, num_flips):
    data = bytearray(webdataset_tar(4, size=300, txt=lambda n: "c", json=lambda n: {"a": n}))
    chance = random.Random(seed)
    for _ in range(num_flips):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path = tmp_path / "t.tar"
    path.write_bytes(bytes(data))
    for entry in listed(str(path)) if data.strip(b"\0") else ():
        assert entry.uri.startswith(str(path))
        assert entry.refusal or 0 <= entry.offset <= entry.offset + entry.length <= len(data)


def test_numbers_in_base_256_are_read(tar):
    header = bytearray(tarfile.TarInfo("a.mp4").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (3).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(struct.unpack("512B", header))
    (entry,) = listed(tar(bytes(header) + b"abc".ljust(512, b"\0") + b"\0" * 1024))
    with fetched(entry, SETTINGS) as media:
        assert media.data == b"abc"


@pytest.mark.parametrize("operation", ["HeadObject", "GetObject"])
def test_a_tar_in_s3_that_may_not_be_read_is_refused_and_stops_nothing(s3, monkeypatch, operation):
    for name in ("closed.tar", "open.tar"):
        storage.write_bytes(f"{s3}/{name}", tar_of(("a.mp4", b"v")))
    storage.write_bytes(f"{s3}/l.txt", b"closed.tar\nopen.tar\n")
    call = botocore.client.BaseClient._make_api_call

    def answered(client, name, request):
        if name == operation and request["Key"] == "closed.tar":
            raise botocore.exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, name)
        return call(client, name, request)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", answered)
    closed, member = listed(f"{s3}/l.txt")
    assert (closed.uri, closed.refusal[:11]) == (f"{s3}/closed.tar", "no_access: ")
    assert member.uri == f"{s3}/open.tar!/a.mp4"
