"""Lists and manifests: columns, metadata, bad rows, hostile files."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import storage
from infra.errors import ConfigError, DataError
from pipelines.sources.address import FetchError
from pipelines.sources.config import HttpSettings, ManifestSettings, SourceSettings
from pipelines.sources.entry import MISSING, UNCHECKED
from pipelines.sources.fetch import fetched
from pipelines.sources.listing import list_sources
from pipelines.sources.manifest import _placed
from pipelines.sources.sidecar import said_of

ROWS = [
    {"uri": "a.mp4", "caption": "a cat", "take": 1},
    {"uri": "sub/b.mp4", "caption": "a dog, or two", "take": 2},
    {"uri": "c d#ü.png", "caption": None, "take": 3},
]


def listed(source, **given_settings):
    return list(list_sources(source, SourceSettings(**given_settings)))


def written(folder, suffix, rows=ROWS):
    path = storage.join(folder, f"m.{suffix}")
    if suffix == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        data = sink.getvalue().to_pybytes()
    elif suffix == "jsonl":
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif suffix == "txt":
        data = "".join(row["uri"] + "\n" for row in rows).encode()
    else:
        between = "," if suffix == "csv" else "\t"
        quoted = [[f'"{v}"' if v is not None else "" for v in row.values()] for row in rows]
        data = "".join(between.join(row) + "\n" for row in [list(rows[0]), *quoted]).encode()
    storage.write_bytes(path, data)
    return path


@pytest.fixture
def folder(root):
    for row in ROWS:
        storage.write_bytes(storage.join(root, row["uri"]), b"content")
    return root


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl"])
def test_rows_become_entries_with_captions_and_metadata(folder, suffix):
    found = listed(written(folder, suffix))
    assert [e.uri for e in found] == [f"{folder}/{row['uri']}" for row in ROWS]
    assert [e.partition for e in found] == ["root", "sub", "root"]
    texts = [[caption.text for caption in said_of(e).captions] for e in found]
    assert texts == [["a cat"], ["a dog, or two"], []]
    assert [int(json.loads(e.metadata)["take"]) for e in found] == [1, 2, 3]
    with fetched(found[2], SourceSettings()) as media:
        assert media.size_bytes == 7


def test_a_list_names_one_address_a_line(folder):
    assert [e.uri for e in listed(written(folder, "txt"))] == [
        f"{folder}/{row['uri']}" for row in ROWS
    ]


def test_comments_and_empty_lines_of_a_list_are_nothing(tmp_path):
    (tmp_path / "l.txt").write_text("\ufeff# mine\n\na.mp4\r\n  \nb.mp4")
    assert [e.uri for e in listed(str(tmp_path / "l.txt"))] == [
        f"{tmp_path}/a.mp4",
        f"{tmp_path}/b.mp4",
    ]


def test_what_is_named_and_not_there_is_missing_and_may_be_tried_again(tmp_path):
    (tmp_path / "l.txt").write_text("gone.mp4\n")
    (entry,) = listed(str(tmp_path / "l.txt"))
    assert entry.stamp == MISSING
    with pytest.raises(FetchError, match="missing") as fault, fetched(entry, SourceSettings()):
        pass
    assert fault.value.retryable


def test_several_captions_come_from_columns_and_lists(tmp_path):
    rows = [{"uri": "a.mp4", "short": ["one", "two", None, " "], "long": "three", "lg": "en"}]
    path = written(str(tmp_path), "jsonl", rows)
    columns = ManifestSettings(
        caption_columns=("short", "long"), lang_column="lg", caption_origin="alt_text"
    )
    (entry,) = listed(path, manifest=columns)
    found = said_of(entry).captions
    assert [(c.text, c.origin, c.lang) for c in found] == [
        ("one", "alt_text", "en"),
        ("two", "alt_text", "en"),
        ("three", "alt_text", "en"),
    ]


def test_another_caption_or_metadata_changes_the_caption_stamp_only(tmp_path):
    stamps = []
    for caption, take in (("a", 1), ("b", 1), ("a", 2)):
        path = written(str(tmp_path), "jsonl", [{"uri": "x", "caption": caption, "t": take}])
        (entry,) = listed(path)
        stamps.append((entry.stamp, entry.caption_stamp))
    assert len({stamp for stamp, _ in stamps}) == 1
    assert len({said for _, said in stamps}) == 3


def test_a_caption_that_is_no_text_leaves_the_media(tmp_path):
    (entry,) = listed(written(str(tmp_path), "jsonl", [{"uri": "a.mp4", "caption": {"x": 1}}]))
    assert entry.refusal == ""
    assert said_of(entry).refusals[0].reason == "caption_no_text"


def test_what_is_bad_of_a_row_leaves_what_is_good(tmp_path):
    rows = [
        {"uri": "a.mp4", "caption": "a cat", "notes": "x" * (300 << 10)},
        {"uri": "b.mp4", "caption": 5, "notes": "y"},
    ]
    long, wordless = (said_of(entry) for entry in listed(written(str(tmp_path), "jsonl", rows)))
    assert [caption.text for caption in long.captions] == ["a cat"]
    assert (long.metadata, long.refusals[0].reason) == ("", "metadata_too_long")
    assert wordless.captions == []
    assert (wordless.metadata, wordless.refusals[0].reason) == ('{"notes": "y"}', "caption_no_text")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_missing_column_names_file_column_what_is_there_and_the_setting(tmp_path, suffix):
    path = written(str(tmp_path), suffix, [{"address": "a.mp4", "words": "x"}])
    if suffix == "jsonl":
        (entry,) = listed(path)
        told = entry.refusal
    else:
        with pytest.raises(DataError) as fault:
            listed(path)
        told = str(fault.value)
    for words in (path, "no column 'uri'", "'address', 'words'", "sources.manifest"):
        assert words in told


def test_a_named_caption_column_must_be_there(tmp_path):
    path = written(str(tmp_path), "csv", [{"uri": "a.mp4"}])
    with pytest.raises(DataError, match="no column 'words'"):
        listed(path, manifest=ManifestSettings(caption_columns=("words",)))


def test_a_column_of_the_wrong_type_is_refused(tmp_path):
    path = written(str(tmp_path), "parquet", [{"uri": 17}])
    with pytest.raises(DataError, match=r"column 'uri' is int64, text is needed"):
        listed(path)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("jsonl", b'{"uri": "a.mp4"}\nnot json\n[1]\n{"uri": 5}\n{"uri": "b.mp4"}\n'),
        (
            "jsonl",
            b'{"uri": "a.mp4"}\n' + b"[" * 100_000 + b"\n\xff\xfe\n{}\n" + b'{"uri": "b.mp4"}',
        ),
        ("csv", b"uri,c\na.mp4,1\nx\n\xff,2\n,3\nb.mp4,4\n"),
    ],
)
def test_bad_rows_are_counted_and_stop_nothing(tmp_path, suffix, text):
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(text)
    found = listed(str(path))
    assert [bool(e.refusal) for e in found] == [False, True, True, True, False]
    assert all(e.refusal.startswith("bad_row: ") for e in found[1:-1])
    assert len({e.uri for e in found}) == 5


def test_an_address_may_be_long_but_not_endless(tmp_path):
    names = ["a/" * 4000 + "x.mp4", "x" * 8193]
    path = written(str(tmp_path), "jsonl", [{"uri": name} for name in names])
    long, endless = listed(path)
    assert (long.uri, long.refusal) == (f"{tmp_path}/{names[0]}", "")
    assert endless.refusal.startswith("bad_row: ")
    assert "str of 8193 letters" in endless.refusal


def test_a_line_of_a_hundred_megabytes_is_bounded_and_told(tmp_path):
    path = tmp_path / "m.jsonl"
    with path.open("wb") as file:
        file.write(b'{"uri": "a.mp4"}\n{"uri": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"uri": "b.mp4"}\n')
    found = listed(str(path))
    assert [e.refusal.partition(":")[0] for e in found] == ["", "row_too_long", ""]
    assert "max_row_kib" in found[1].refusal


@pytest.mark.parametrize("text", ['uri\n"' + "x" * 400_000 + '"\n', 'uri\n"' + "x\n" * 200_000])
def test_a_huge_field_of_csv_is_refused(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match="not CSV at line"):
        listed(str(tmp_path / "m.csv"))


def test_a_line_of_csv_that_never_ends_is_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"uri\n" + b"x," * (3 << 20))
    with pytest.raises(DataError, match="line 2 is longer than 1024 KiB"):
        listed(str(tmp_path / "m.csv"))


def test_a_huge_row_group_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "m.parquet"
    rows = pa.table({"uri": ["x" * 1000] * 3000})
    pq.write_table(rows, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="row group 0 has 2 MiB, at most 1"):
        listed(str(path), manifest=ManifestSettings(max_group_mib=1))


@pytest.mark.parametrize("text", [b"", b"PAR1", b"<html>", b"PAR1" + os.urandom(500) + b"PAR1"])
def test_what_is_no_parquet_is_refused(tmp_path, text):
    (tmp_path / "m.parquet").write_bytes(text)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        listed(str(tmp_path / "m.parquet"))


def test_a_packed_manifest_is_no_rows(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(gzip.compress(b'{"uri": "a.mp4"}\n' * 1000))
    assert all(e.refusal for e in listed(str(tmp_path / "m.jsonl")))


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv"])
def test_a_manifest_that_names_nothing_is_refused(tmp_path, suffix):
    (tmp_path / f"m.{suffix}").write_text("uri\n" if suffix == "csv" else "")
    with pytest.raises(DataError, match="names nothing"):
        listed(str(tmp_path / f"m.{suffix}"))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("../up.mp4", "outside"),
        ("a/../../up.mp4", "outside"),
        ("/data/../etc/passwd", "outside"),
        ("s3://other/../x", "outside"),
        ("file:///a/../b", "outside"),
        ("ftp://host/x.mp4", "forbidden_scheme"),
        ("gopher://x", "forbidden_scheme"),
        ("javascript:alert(1)://", "forbidden_scheme"),
        ("a\0b.mp4", "bad_uri"),
    ],
)
def test_rows_that_lead_elsewhere_are_refused(tmp_path, uri, reason):
    (entry,) = listed(written(str(tmp_path), "jsonl", [{"uri": uri}]))
    assert entry.refusal.startswith(f"{reason}: ")


def test_leading_elsewhere_can_be_allowed(tmp_path):
    (tmp_path / "up.mp4").write_bytes(b"1")
    path = written(str(tmp_path / "below"), "jsonl", [{"uri": "../up.mp4"}])
    (entry,) = listed(path, manifest=ManifestSettings(allow_outside=True))
    assert entry.uri == str(tmp_path / "up.mp4")


@pytest.mark.parametrize("uri", ["/etc/hostname", "file:///etc/hostname"])
def test_a_manifest_in_s3_may_not_name_local_files(s3, uri):
    (entry,) = listed(written(s3, "jsonl", [{"uri": uri}]))
    assert entry.refusal.startswith("outside: ")


@given(st.text(max_size=30))
def test_whatever_a_row_says_stays_inside_or_is_refused(uri):
    try:
        whole, below = _placed(uri, "s3://bucket/folder/m.txt", SourceSettings())
    except (FetchError, ConfigError):
        return
    assert ".." not in whole.split("/")
    assert whole.startswith("s3://")
    assert below == "" or whole == "s3://bucket/folder/" + below


def test_web_addresses_need_hosts(tmp_path):
    path = written(str(tmp_path), "jsonl", [{"uri": "https://a.example/x.mp4"}])
    with pytest.raises(ConfigError, match=r"sources\.http\.hosts allows no host"):
        listed(path)


def test_web_addresses_are_not_asked_unless_they_should_be(tmp_path):
    rows = [{"uri": "https://a.example/x.mp4"}, {"uri": "https://b.example/x.mp4"}]
    path = written(str(tmp_path), "jsonl", rows)
    good, bad = listed(path, http=HttpSettings(hosts=("a.example",)))
    assert (good.stamp, good.refusal) == (UNCHECKED, "")
    assert bad.refusal.startswith("forbidden_host: ")


def test_a_manifest_on_the_web_is_read(web, permitted):
    web.answers["/m.csv"] = f"uri,caption\n{web.url('/x.mp4')},hi\n".encode()
    (entry,) = listed(web.url("/m.csv"), http=permitted)
    assert (entry.uri, entry.caption) == (web.url("/x.mp4"), "hi")


def test_a_manifest_over_the_limit_is_not_copied_to_its_end(web, permitted, s3):
    web.answers["/m.txt"] = b"#" * 1023 + b"\n" + b"a.mp4\n" + b"#" * (1 << 20)
    storage.write_bytes(storage.join(s3, "m.txt"), web.answers["/m.txt"])
    for place in (web.url("/m.txt"), storage.join(s3, "m.txt")):
        with pytest.raises(DataError, match=r"at most 1,?048,?576"):
            listed(place, http=permitted, manifest=ManifestSettings(max_mib=1))
        (entry,) = listed(place, http=permitted, manifest=ManifestSettings(max_mib=2))
        assert entry.uri.endswith("a.mp4")


def test_changes_are_asked_for_in_order(web, permitted, tmp_path):
    from tests.pipelines.sources.conftest import send

    for n in range(60):
        web.answers[f"/{n}.mp4"] = lambda request, n=n: send(request, 200, b"x" * n, ETag=f'"{n}"')
    rows = [{"uri": web.url(f"/{n}.mp4")} for n in range(61)]
    path = written(str(tmp_path), "jsonl", rows)
    found = listed(path, http=permitted, check_changes=True, parallel_checks=4)
    assert [e.uri for e in found] == [row["uri"] for row in rows]
    assert [e.stamp for e in found] == [f'{n} "{n}"' for n in range(60)] + [UNCHECKED]
    assert {command for command, _, _ in web.asked} == {"HEAD"}


def test_s3_addresses_get_their_etags_when_asked(s3, tmp_path):
    storage.write_bytes(f"{s3}/a.mp4", b"1")
    path = written(str(tmp_path), "jsonl", [{"uri": f"{s3}/a.mp4"}, {"uri": f"{s3}/gone.mp4"}])
    assert [e.stamp for e in listed(path)] == [UNCHECKED, UNCHECKED]
    there, gone = listed(path, check_changes=True)
    assert (there.size_bytes, gone.stamp) == (1, MISSING)
    (plain,) = listed(s3)
    assert plain.stamp == there.stamp


def test_columns_can_say_partition_day_and_stamp(tmp_path):
    rows = [
        {"uri": "a.mp4", "part": "x", "day": "2024-02-03T10:00:00", "etag": "e1"},
        {"uri": "b.mp4", "part": None, "day": "soon", "etag": None},
    ]
    path = written(str(tmp_path), "jsonl", rows)
    by_column = ManifestSettings(partition_column="part", stamp_column="etag")
    assert [e.partition for e in listed(path, manifest=by_column)] == ["x", "root"]
    assert [e.stamp for e in listed(path, manifest=by_column)] == ["e1", MISSING]
    by_day = ManifestSettings(date_column="day")
    found = listed(path, manifest=by_day, partition_by="date")
    assert [e.partition for e in found] == ["2024-02-03", "undated"]


@pytest.mark.parametrize("part", ["..", "a/b", "../../x", "x" * 300])
def test_a_partition_that_leads_elsewhere_is_refused(tmp_path, part):
    path = written(str(tmp_path), "jsonl", [{"uri": "a.mp4", "part": part}])
    (entry,) = listed(path, manifest=ManifestSettings(partition_column="part"))
    assert entry.refusal.startswith("bad_partition: ")
    assert entry.partition == "root"


def test_times_and_numbers_of_parquet_become_metadata(tmp_path):
    far = pa.array([2**62], pa.timestamp("us"))
    nanoseconds = pa.array([1_700_000_000_000_000_001], pa.timestamp("ns"))
    columns = {"uri": ["a.mp4"], "far": far, "ns": nanoseconds, "nan": [float("nan")], "b": [b"x"]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    (entry,) = listed(str(tmp_path / "m.parquet"))
    found = json.loads(entry.metadata)
    assert found["ns"] == "2023-11-14 22:13:20.000000001"
    assert set(found) == {"far", "ns", "b"}


def test_a_list_may_name_tars(tmp_path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        header = tarfile.TarInfo("a.mp4")
        header.size = 1
        tar.addfile(header, io.BytesIO(b"1"))
    (tmp_path / "l.txt").write_text("t.tar\nnone.tar\n")
    member, missing = listed(str(tmp_path / "l.txt"))
    assert member.uri == f"{tmp_path}/t.tar!/a.mp4"
    assert missing.stamp == MISSING


def test_a_glob_of_manifests_is_all_of_them(tmp_path):
    for n in range(2):
        (tmp_path / f"p{n}.csv").write_text(f"uri\n{n}.mp4\n")
    assert [e.uri for e in listed(f"{tmp_path}/*.csv")] == [f"{tmp_path}/{n}.mp4" for n in (0, 1)]


def test_a_date_column_needs_dates():
    with pytest.raises(ValueError, match="partition_by: date"):
        SourceSettings(manifest=ManifestSettings(date_column="day"))
