"""What tasks found becomes rows: in which order they are committed, and what is counted after."""

from infra.store.dataset import Dataset
from infra.video import encode_video
from pipelines.ingest_config import IngestSettings
from pipelines.sources.config import SourceSettings
from pipelines.sources.listing import list_sources
from pipelines.steps.commit import Ledger, Stamp
from pipelines.steps.counts import count
from pipelines.steps.known import Known, prefixes
from pipelines.steps.source import Planned, Work, examine_all
from pipelines.steps.write import write_all
from tests.infra.videos import moving

SETTINGS = IngestSettings()


class Noted(Dataset):
    """A dataset that remembers which tables were added to."""

    tables: list[str] = []  # noqa: RUF012 - a field would be part of its identity

    def append(self, table, rows):
        self.tables.append(table)
        return super().append(table, rows)

    def append_new(self, table, rows, key):
        self.tables.append(table)
        return super().append_new(table, rows, key)

    def append_once(self, table, rows, keys):
        self.tables.append(table)
        return super().append_once(table, rows, keys)


def brought_in(tmp_path, dataset):
    """Commit a described video and an empty file, each tried once before."""
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "one.mp4").write_bytes(encode_video(moving(4), 8))
    (source / "one.txt").write_text("a red square")
    (source / "two.mp4").touch()
    planned = [
        Planned(entry, why="retry", attempts=1)
        for entry in list_sources(str(source), SourceSettings())
    ]
    work = Work(Known(prefixes([])), SETTINGS, SourceSettings())
    rows = write_all(examine_all(planned, work), dataset, max_shard_mib=64)
    with Ledger(dataset, SETTINGS, Stamp("run", "code", str(source)), 2) as ledger:
        ledger.add(rows)
        ledger.commit()
    return str(source)


def test_what_says_that_a_source_is_done_is_committed_last(tmp_path):
    dataset = Noted.open(str(tmp_path / "data"), create=True)
    dataset.tables.clear()
    brought_in(tmp_path, dataset)
    assert dataset.tables == ["clips", "captions", "scores", "quarantine", "sources"]
    attempts = {row["status"]: row["attempts"] for row in dataset.read("sources").to_pylist()}
    assert attempts == {"ok": 2, "refused": 2}


def test_a_refusal_that_is_told_twice_counts_once_and_an_earlier_one_no_more(tmp_path):
    dataset = Dataset.open(str(tmp_path / "data"), create=True)
    source = brought_in(tmp_path, dataset)
    stamps = {
        row["source_uri"]: row["caption_stamp"] for row in dataset.read("sources").to_pylist()
    }
    uri = f"{source}/one.mp4"
    bad = {"source_uri": uri, "stage": "caption", "reason": "caption_too_long", "message": "1 MiB"}
    dataset.append("quarantine", [bad | {"policy_id": stamps[uri], "run_id": run} for run in "ab"])
    dataset.append(
        "quarantine", [bad | {"policy_id": "an earlier text", "reason": "caption_empty"}]
    )
    (found,) = count(dataset, source, SETTINGS.transform_id).values()
    assert found.by_reason == {"caption_too_long": 1, "empty_file": 1}
    assert (found.num_files, found.num_clips, found.num_captions, found.num_refused) == (2, 1, 1, 1)
