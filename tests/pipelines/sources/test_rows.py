"""Rows of lists and manifests that are too long, too many or half a character."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import DataError
from pipelines.sources.config import ManifestSettings, SourceSettings
from pipelines.sources.entry import to_table
from pipelines.sources.listing import list_sources
from pipelines.sources.rows import check_columns

NAMES = ["a.mp4", "long.mp4", "b.mp4"]


def listed(source, **given_settings):
    return list(list_sources(str(source), SourceSettings(**given_settings)))


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_a_row_of_parquet_over_the_limit_is_refused_and_leaves_the_others(tmp_path, kind):
    notes = pa.array(["x" * 600, "y" * (2 << 20), "z"]).cast(
        kind if not pa.types.is_dictionary(kind) else pa.string()
    )
    notes = notes.dictionary_encode() if pa.types.is_dictionary(kind) else notes
    pq.write_table(pa.table({"uri": NAMES, "notes": notes}), tmp_path / "m.parquet")
    found = listed(tmp_path / "m.parquet")
    assert [each.refusal.partition(":")[0] for each in found] == ["", "row_too_long", ""]
    assert "row 2 is longer than 1024 KiB" in found[1].refusal
    assert "max_row_kib" in found[1].refusal
    assert [each.uri for each in found[::2]] == [f"{tmp_path}/{name}" for name in NAMES[::2]]


def test_many_rows_of_parquet_that_are_large_together_are_read(tmp_path):
    names = [f"{n}.mp4" for n in range(600)]
    notes = ["x" * (100 << 10)] * 600
    pq.write_table(pa.table({"uri": names, "notes": notes}), tmp_path / "m.parquet")
    found = listed(tmp_path / "m.parquet")
    assert [each.uri for each in found] == [f"{tmp_path}/{name}" for name in names]
    assert all(each.metadata and not each.refusal for each in found)


def test_many_columns_are_checked_in_a_moment():
    names = ["uri", *map(str, range(50_000))]
    start = time.perf_counter()
    check_columns(names, "m.csv", ManifestSettings())
    assert time.perf_counter() - start < 2


def test_half_a_character_anywhere_in_a_row_stops_nothing(tmp_path):
    row = '"part": "p\\ud800", "lang": "\\udc00", "stamp": "\\ud800"'
    half = ['{"\\ud800": 1}', '"\\ud800"', '{"uri": "\\ud800"}', '{"uri": ["\\ud800"]}']
    (tmp_path / "m.jsonl").write_text("\n".join([f'{{"uri": "a.mp4", {row}}}', *half]))
    columns = ManifestSettings(partition_column="part", lang_column="lang", stamp_column="stamp")
    found = listed(tmp_path / "m.jsonl", manifest=columns)
    assert len(to_table(found)) == 5
    assert [bool(each.refusal) for each in found] == [False, True, True, True, True]


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("uri,uri\na,b\n")
    with pytest.raises(DataError, match="there twice"):
        listed(str(tmp_path / "m.csv"))
