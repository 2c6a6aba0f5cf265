"""SQL over the tables: their versions, what is given beside them, and nothing else."""

import os
import subprocess
import sys

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.query import query


@pytest.fixture(params=["local", "s3"])
def dataset(request, tmp_path):
    root = str(tmp_path / "dä ta#1") if request.param == "local" else request.getfixturevalue("s3")
    return Dataset.open(root, create=True)


def _rows(dataset, sql, **given):
    with query(dataset, sql, **given) as found:
        return found.read_all().to_pylist()


def test_a_table_is_read_at_the_version_that_is_asked_for(dataset):
    assert _rows(dataset, "SELECT count(*) AS n FROM captions") == [{"n": 0}]
    for clip in ("a", "b"):
        dataset.append("captions", [{"clip_id": clip}])
    sql = "SELECT clip_id FROM captions ORDER BY clip_id"
    assert _rows(dataset, sql) == [{"clip_id": "a"}, {"clip_id": "b"}]
    assert _rows(dataset, sql, versions={"captions": 1}) == [{"clip_id": "a"}]
    assert _rows(dataset, sql, versions={"captions": -1}) == []


def test_the_newest_row_of_a_source_is_its_current_one(dataset):
    for stamp, uris in (("1", "ab"), ("2", "bc"), ("3", "a")):
        dataset.append("sources", [{"source_uri": uri, "stamp": stamp} for uri in uris])
    sql = "SELECT source_uri, stamp FROM current_sources ORDER BY source_uri"
    found = {row["source_uri"]: row["stamp"] for row in _rows(dataset, sql)}
    assert found == {"a": "3", "b": "2", "c": "2"}
    earlier = _rows(dataset, sql, versions={"sources": 2})
    assert {row["source_uri"]: row["stamp"] for row in earlier} == {"a": "1", "b": "2", "c": "2"}


def test_times_are_told_in_utc_wherever_the_machine_stands(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    dataset.append("captions", [{"clip_id": "a"}])
    program = (
        "import sys; from infra.store.dataset import Dataset; from infra.store.query import query\n"
        "with query(Dataset.open(sys.argv[1]), 'SELECT created_at FROM captions') as found:\n"
        "    raise SystemExit(str(found.read_all().schema.field(0).type))"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    environment = os.environ | {"TZ": "Asia/Tokyo"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == "timestamp[us, tz=UTC]\n"


def test_tables_are_joined_with_what_is_given(dataset, tmp_path):
    dataset.append("clips", [{"clip_id": clip, "width": 9} for clip in "abc"])
    pq.write_table(pa.table({"clip_id": ["b", "c", "d"]}), tmp_path / "some file.parquet")
    found = _rows(
        dataset,
        "SELECT clip_id, width FROM clips JOIN asked USING (clip_id) "
        "ANTI JOIN known USING (clip_id) WHERE width > ?",
        relations={"asked": tmp_path / "some file.parquet", "known": pa.table({"clip_id": ["c"]})},
        parameters=[8],
    )
    assert found == [{"clip_id": "b", "width": 9}]


def test_nothing_else_can_be_opened(dataset, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "secret.parquet")
    for sql in (
        f"SELECT * FROM read_parquet('{tmp_path}/secret.parquet')",
        f"SELECT * FROM '{tmp_path}/secret.parquet'",
        f"COPY (SELECT 1) TO '{tmp_path}/made.csv'",
        f"ATTACH '{tmp_path}/made.db'",
    ):
        with pytest.raises(duckdb.Error), query(dataset, sql):
            pass
    assert not list(tmp_path.glob("made*"))


def test_what_does_not_fit_into_memory_is_spilled(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    numbers = pa.array(range(600_000))
    wide = pa.table({"k": numbers, "text": pc.utf8_lpad(numbers.cast(pa.string()), 400, "0")})
    sql = "SELECT k, text FROM wide ORDER BY md5(text)"
    with query(dataset, sql, relations={"wide": wide}, memory_mib=160) as found:
        batches = [len(batch) for batch in found]
    assert sum(batches) == 600_000
    assert max(batches) <= 1 << 14


def test_too_little_memory_is_told(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    wide = pa.table({"text": ["x" * 400] * 200_000})
    sql = "SELECT list(text) AS texts FROM wide"
    with (
        pytest.raises(DataError, match=r"a query needs more than 16 MiB"),
        query(dataset, sql, relations={"wide": wide}, memory_mib=16) as found,
    ):
        found.read_all()


def test_a_data_file_that_is_gone_is_named(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    dataset.append("captions", [{"clip_id": "a"}])
    (data,) = (tmp_path / "captions").glob("*.parquet")
    data.unlink()
    with pytest.raises(DataError, match="restore"), query(dataset, "SELECT * FROM captions") as r:
        r.read_all()
