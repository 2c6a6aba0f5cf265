"""What is new, changed, stale, retried or gone, against the rows of a real dataset."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, DataError
from infra.store.dataset import Dataset
from pipelines.sources import spool as spool_module
from pipelines.sources.entry import ENTRIES, SourceEntry, from_rows, to_table
from pipelines.sources.plan import IngestIds, describe, plan
from pipelines.sources.spool import spool

IDS = IngestIds("rules", "cut")
ROOT = "/src"


def entry(name, stamp="1", part="root", said="", **more):
    uri = f"{ROOT}/{name}"
    return SourceEntry(uri, part, stamp, uri, size_bytes=1 << 20, caption_stamp=said, **more)


def row(name, **more):
    return {
        "source_uri": f"{ROOT}/{name}",
        "source_root": ROOT,
        "partition": "root",
        "stamp": "1",
        "caption_stamp": "",
        "source_id": f"id-{name}",
        "status": "ok",
        "retryable": False,
        "attempts": 1,
        "ingest_id": IDS.ingest_id,
        "transform_id": IDS.transform_id,
        "num_clips": 1,
    } | more


def refused_row(name, **more):
    return row(name, status="refused", source_id="", num_clips=0) | more


@pytest.fixture
def dataset(tmp_path):
    return Dataset.open(str(tmp_path / "dataset"), create=True)


@pytest.fixture
def planned(dataset, tmp_path):
    def run(entries, rows=(), root=ROOT, partitions=(), **more):
        if rows:
            dataset.append("sources", list(rows))
        listing = spool(entries, tmp_path / "listing.parquet", root)
        out = tmp_path / "plan.parquet"
        return plan(dataset, listing, IDS, partitions, out=out, **more)

    return run


def vanished(found):
    return pq.read_table(found.vanished_path)["uri"].to_pylist()


def todo(found):
    rows = pq.read_table(found.path).to_pylist()
    return {r["uri"].removeprefix(ROOT + "/"): r["why"] for r in rows}


@pytest.mark.parametrize(
    ("listed", "known", "why"),
    [
        (entry("a"), None, "new"),
        (entry("a"), row("a"), None),
        (entry("a", stamp="2"), row("a"), "changed"),
        (entry("a", stamp="?"), row("a"), None),
        (entry("a", said="x"), row("a"), "recaptioned"),
        (entry("a"), row("a", caption_stamp="x"), "recaptioned"),
        (entry("a"), row("a", caption_stamp=None), None),
        (entry("a"), row("a", partition="other"), "recaptioned"),
        (entry("a"), row("a", source_root="/other"), "recaptioned"),
        (entry("a"), row("a", transform_id="older"), "stale"),
        (entry("a"), row("a", ingest_id="older"), None),
        (entry("a"), refused_row("a"), None),
        (entry("a", stamp="2"), refused_row("a"), "changed"),
        (entry("a"), refused_row("a", ingest_id="older"), "stale"),
        (entry("a"), refused_row("a", retryable=True), "retry"),
        (entry("a"), refused_row("a", retryable=True, attempts=3), None),
        (entry("a"), row("a", status="vanished"), "recaptioned"),
        (entry("a", stamp="2"), row("a", status="vanished"), "new"),
        (entry("a"), row("a", status="vanished", source_id=""), "new"),
        (entry("a"), refused_row("a", status="vanished"), "new"),
    ],
)
def test_what_is_known_decides_what_is_done(planned, listed, known, why):
    found = planned([listed], [known] if known else [], max_attempts=3)
    assert todo(found) == ({"a": why} if why else {})
    assert found.counts[why or "unchanged"] == 1
    assert sum(found.counts.values()) == 1
    (written,) = pq.read_table(found.path).to_pylist() or [{"known_id": ""}]
    assert written["known_id"] == ("id-a" if why == "recaptioned" else "")


def test_the_newest_row_counts(planned, dataset):
    dataset.append("sources", [row("a", stamp="0", status="refused")])
    dataset.append("sources", [row("a", stamp="1")])
    assert todo(planned([entry("a")])) == {}


def test_earlier_attempts_come_with_a_retry(planned):
    found = planned([entry("a")], [refused_row("a", retryable=True, attempts=2)])
    assert pq.read_table(found.path)["attempts"].to_pylist() == [2]


def test_what_is_gone_has_vanished_once(planned, dataset):
    rows = [row("a"), row("b"), row("c"), row("d", status="vanished"), row("e", source_root="/x")]
    found = planned([entry("b")], rows)
    assert vanished(found) == [f"{ROOT}/a", f"{ROOT}/c"]
    assert found.counts["vanished"] == 2
    assert todo(found) == {}


def test_what_a_tar_holds_that_cannot_be_listed_now_has_not_vanished(planned):
    known = [row("t.tar!/a.mp4"), row("t.tar!/b.mp4"), row("u.tar!/a.mp4")]
    dead = entry("t.tar", stamp="x", refusal="http_503: busy")
    found = planned([dead, entry("c.mp4")], known)
    assert vanished(found) == [f"{ROOT}/u.tar!/a.mp4"]


def test_only_the_partitions_asked_for_are_planned(planned):
    rows = [row("p/gone", partition="p"), row("q/gone", partition="q")]
    listed = [entry("p/new", part="p"), entry("q/new", part="q")]
    found = planned(listed, rows, partitions=("q",))
    assert todo(found) == {"q/new": "new"}
    assert vanished(found) == [f"{ROOT}/q/gone"]
    assert set(found.partitions) == {"q"}


def test_a_source_that_moved_to_another_partition_has_not_vanished(planned):
    found = planned([entry("x", part="q")], [row("x", partition="p")], partitions=("p", "q")[1:])
    assert vanished(found) == []
    assert todo(found) == {"x": "recaptioned"}


def test_a_partition_that_is_not_there_is_told_with_its_neighbours(planned):
    with pytest.raises(ConfigError, match=r"'videos-02' is not among the 1.*videos-01"):
        planned([entry("a", part="videos-01")], partitions=("videos-02",))


def test_a_partition_that_is_gone_as_a_whole_can_be_asked_for(planned):
    found = planned([entry("a")], [row("p/x", partition="p")], partitions=("p",))
    assert vanished(found) == [f"{ROOT}/p/x"]


@pytest.mark.parametrize(("num", "sizes"), [(0, []), (1, [1]), (6, [3, 3]), (7, [3, 3, 1])])
def test_a_row_group_is_a_unit_of_work(planned, num, sizes):
    found = planned([entry(f"{n:03}") for n in range(num)], files_per_task=3)
    with pq.ParquetFile(found.path) as file:
        groups = range(file.num_row_groups)
        assert [file.metadata.row_group(index).num_rows for index in groups] == sizes
        rows = [file.read_row_group(index) for index in groups]
    assert [e.uri for group in rows for e in from_rows(group)] == [
        f"{ROOT}/{n:03}" for n in range(num)
    ]


def test_many_units_cross_the_batches_of_the_join(planned):
    found = planned((entry(f"{n:06}") for n in range(40_000)), files_per_task=1000)
    with pq.ParquetFile(found.path) as file:
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        names = pq.read_table(found.path, columns=["uri"])["uri"].to_pylist()
    assert sizes == [1000] * 40
    assert names == sorted(names)


def test_an_address_that_is_listed_twice_is_planned_once(planned):
    found = planned([entry("b"), entry("a", said="1"), entry("a", said="2"), entry("b")])
    assert todo(found) == {"a": "new", "b": "new"}
    assert pq.read_table(found.path)["caption_stamp"].to_pylist() == ["1", ""]


def test_a_plan_tells_files_by_partition_and_reason(planned):
    listed = [entry("p/a", part="p"), entry("b"), entry("c", part="quiet")]
    rows = [row("b", transform_id="older"), row("d"), row("c", partition="quiet")]
    lines = describe(planned(listed, rows)).splitlines()
    assert [line.split() for line in lines[:3]] == [
        [
            "partition",
            "new",
            "changed",
            "recaptioned",
            "stale",
            "retry",
            "unchanged",
            "vanished",
            "MiB",
            "to",
            "read",
        ],
        ["p", "1", "0", "0", "0", "0", "0", "0", "1.0"],
        ["root", "0", "0", "0", "1", "0", "0", "1", "1.0"],
    ]
    assert lines[3] == "1 partitions with nothing to do"
    assert lines[4].split() == ["all", "1", "0", "0", "1", "0", "1", "1", "2.0"]


def test_entries_survive_the_way_through_arrow():
    found = [entry("ü\n#", caption="a", refusal="x: y", offset=5, length=7), entry("b")]
    assert from_rows(to_table(found)) == found
    assert to_table([]).schema == ENTRIES


def test_a_digest_knows_content_and_not_order(tmp_path):
    def digest(*entries):
        return spool(entries, tmp_path / "l.parquet", ROOT).partitions["root"].digest

    a, b = entry("a"), entry("b")
    assert digest(a, b) == digest(b, a)
    others = [(a,), (a, b, b), (a, replace(b, stamp="2")), (a, replace(b, caption_stamp="x"))]
    assert len({digest(*each) for each in (*others, (a, b))}) == 5


def test_a_listing_counts_files_and_bytes_by_partition(tmp_path):
    found = spool([entry("a"), entry("p/b", part="p")], tmp_path / "l.parquet", ROOT)
    assert {name: (f.num_files, f.size_bytes) for name, f in found.partitions.items()} == {
        "p": (1, 1 << 20),
        "root": (1, 1 << 20),
    }


def test_long_texts_are_written_in_smaller_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_BATCH", 4)
    monkeypatch.setattr(spool_module, "_BATCH_LETTERS", 100)
    long = [entry(f"{n}", caption="x" * 30, metadata="y" * 30) for n in range(3)]
    spool([*long, *(entry(f"{n}") for n in range(3, 8))], tmp_path / "l.parquet", ROOT)
    with pq.ParquetFile(tmp_path / "l.parquet") as file:
        sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert sizes == [2, 4, 2]


def test_too_many_partitions_are_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_MOST_PARTITIONS", 3)
    with pytest.raises(DataError, match="partition_by: shard"):
        spool((entry(f"{n}/x", part=str(n)) for n in range(5)), tmp_path / "l.parquet", ROOT)


_NAMES = st.sampled_from("abcdef")
_STAMPS = st.sampled_from("12")


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(_NAMES, _STAMPS, min_size=1), st.lists(st.tuples(_NAMES, _STAMPS)))
def test_plan_done_is_plan_empty(tmp_path_factory, listed, known):
    """A plan names exactly the difference, and once that is done nothing is left."""
    folder = tmp_path_factory.mktemp("law")
    dataset = Dataset.open(str(folder / "dataset"), create=True)
    for name, stamp in known:
        dataset.append("sources", [row(name, stamp=stamp)])
    newest = dict(known)
    listing = spool([entry(n, s) for n, s in sorted(listed.items())], folder / "l.parquet", ROOT)
    found = plan(dataset, listing, IDS, out=folder / "p.parquet")
    assert set(todo(found)) == {n for n, s in listed.items() if newest.get(n) != s}
    assert {uri[-1] for uri in vanished(found)} == set(newest) - set(listed)
    done = [row(name, stamp=listed[name]) for name in todo(found)]
    gone = [row(uri[-1], status="vanished") for uri in vanished(found)]
    if done or gone:
        dataset.append("sources", pa.Table.from_pylist(done + gone))
    again = plan(dataset, listing, IDS, out=folder / "q.parquet")
    assert (again.num_files, again.counts["vanished"]) == (0, 0)
