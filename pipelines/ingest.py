"""Ingest: sources in; media shards and rows of clips, captions, scores and quarantine out.

What runs, in order, with its fan-out:

    discover     sources.listing.list_sources    1 source -> N entries, streamed to disk
    plan         sources.plan.plan               N -> those that are new or changed, in units
    fetch        sources.fetch.fetched           1 entry -> its bytes and their hash, or a refusal
    said         sources.sidecar.said_of         1 -> captions and metadata beside it
    probe, validate, bars   steps.scan.scan      1 -> 1, or a refusal
    shots, windows          steps.shots.spans    1 -> M spans
    crop, remux, transcode  steps.cut.cut        M -> M clips
    measure      scores.signals.measured         M -> M, scores are kept, nothing is dropped
    write        steps.write.write_all           the clips of a unit -> 1 shard
    commit       steps.commit.Ledger             rows of finished units -> tables
    filter, near doubles    stages.filtering     over tables alone, at any later time

`graph` is the part on Ray Data; `steps.source.examine` is what happens to one source. Media is
written before clips, clips before everything that speaks of them, and the row that says that a
source is done comes last. So a kill at any point leaves at worst bytes that no row refers to;
running again looks at what is not done, and gives the same rows. Exact doubles (the same bytes
under another name) are found by hash before anything is decoded.

    with prepared(root, "s3://bucket/raw", SourceSettings(), IngestSettings()) as found:
        counts = ingest(root, found, IngestSettings(), SourceSettings(), run_id)
"""

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data

from infra.errors import DataError, SnapvideoError
from infra.store.dataset import Dataset
from pipelines.ingest_config import IngestSettings
from pipelines.prepare import Prepared
from pipelines.sources.config import SourceSettings
from pipelines.sources.plan import Plan
from pipelines.steps.apart import Limits, examine_apart
from pipelines.steps.commit import Ledger, Stamp
from pipelines.steps.counts import IngestCounts, count
from pipelines.steps.known import Known, known_sources
from pipelines.steps.source import Found, Planned, Work, examine_all
from pipelines.steps.units import Units, laid_out
from pipelines.steps.write import to_fault, write_all

log = logging.getLogger(__name__)

_NUM_TOLD = 5  # partitions that a message names
_MAX_BLOCKS = 20_000  # tasks that Ray Data has to keep in mind; of more units one does several


@dataclass(frozen=True)
class Task:
    """What a task is told besides its unit."""

    settings: IngestSettings
    sources: SourceSettings
    measure: bool

    def limits(self) -> Limits:
        """Return what its decoding process may take."""
        tasks = self.settings.tasks
        return Limits(self.settings.file_timeout_s, tasks.cpus, tasks.memory_mib)


def ingest(
    dataset_root: str,
    found: Prepared,
    settings: IngestSettings,
    sources: SourceSettings,
    run_id: str,
    code_version: str = "",
    measure: bool = True,
) -> dict[str, IngestCounts]:
    """Bring what is new into a dataset; return what each partition holds then.

    Args:
        dataset_root: The dataset; laid where there is none.
        found: What is to be done.
        settings: What is accepted and how it is cut.
        sources: How sources are reached.
        run_id: Recorded with every row.
        code_version: Recorded with every clip.
        measure: Whether clips get their signal scores now.

    Raises:
        DataError: Too many sources are refused (`max_refused_share`), or the disk
            is full.
        ServiceError: A store does not answer.
    """
    dataset = Dataset.open(dataset_root, create=True)
    stamp = Stamp(run_id, code_version, found.source_root)
    _bring_in(dataset, found.plan, Task(settings, sources, measure), stamp)
    names = sorted(found.digests)
    counts = count(dataset, found.source_root, settings.transform_id, names)
    _check_share(counts, settings)
    return counts


def graph(dataset: Dataset, units: Units, known: Known, task: Task) -> ray.data.Dataset:
    """Return the lazy graph from units of work to rows that are ready to be committed.

    A unit's rows come as soon as it is done: a slow one holds nobody up, and a kill costs what
    is under way. So the order of rows differs from run to run; what they say does not.
    """
    reserved = task.settings.tasks
    rows: Any = ray.data.range(
        units.num_units, override_num_blocks=min(units.num_units, _MAX_BLOCKS)
    )
    found: ray.data.Dataset = rows.map_batches(  # 1 unit -> N sources -> M clips in one shard
        work_off,
        fn_args=(dataset, units, ray.put(known), task),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=reserved.cpus,
        concurrency=reserved.max_tasks or None,
    )
    return found


def work_off(
    batch: pa.Table, dataset: Dataset, units: Units, known: "ray.ObjectRef[Known]", task: Task
) -> Iterator[pa.Table]:
    """Yield the rows of each unit in a batch; no bytes leave the task but into its shard."""
    examine = functools.partial(_examine_held, known, task)
    for index in map(int, batch["id"].to_numpy()):
        try:
            sources = units.read(index)  # 1 unit -> N sources
            found = examine_apart(sources, examine, task.limits())  # N -> M clips, N outcomes
            yield write_all(found, dataset, task.settings.max_shard_mib)  # -> 1 shard, N rows
        except SnapvideoError as fault:
            yield to_fault(fault)


def _examine_held(
    known: "ray.ObjectRef[Known]", task: Task, planned: Sequence[Planned]
) -> Iterator[Found]:
    work = Work(ray.get(known), task.settings, task.sources, task.measure)
    return examine_all(planned, work)


def _bring_in(dataset: Dataset, planned: Plan, task: Task, stamp: Stamp) -> None:
    """Work a plan off and commit what comes of it."""
    with Ledger(dataset, task.settings, stamp, planned.num_files) as ledger:
        if planned.num_files:
            known = known_sources(dataset, task.settings.transform_id)
            with laid_out(dataset, planned.path, task.settings.files_per_task) as units:
                for block in _blocks(graph(dataset, units, known, task)):
                    ledger.add(block)
                    units.folder.keep()
            ledger.commit()
        if planned.counts["vanished"]:
            ledger.vanish(planned.vanished_path)


def _blocks(rows: ray.data.Dataset) -> Iterator[pa.Table]:
    """Yield finished blocks; a fault that a task met outside of the files is raised here."""
    for block in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(block, pa.Table)
        faults = block["fault"].drop_null()
        if len(faults):
            raise DataError(str(faults[0]))
        yield block


def _check_share(counts: Mapping[str, IngestCounts], settings: IngestSettings) -> None:
    """Refuse a source of which too little could be used; what could is committed."""
    num_files = sum(one.num_files for one in counts.values())
    num_refused = sum(one.num_refused for one in counts.values())
    usable = any(one.num_clips for one in counts.values())
    if settings.max_refused_share == 1 or not num_files:
        return
    if num_refused > settings.max_refused_share * num_files or not usable:
        worst = sorted(counts.items(), key=lambda item: -item[1].num_refused)[:_NUM_TOLD]
        told = [
            f"{name}: {one.num_refused} of {one.num_files} ({_reasons(one)})" for name, one in worst
        ]
        raise DataError(
            f"ingest: {num_refused} of {num_files} files are refused, {'; '.join(told)}; at most "
            f"{settings.max_refused_share:.0%} may be, and a clip must remain (setting "
            "ingest.max_refused_share; 1 takes whatever comes); `snapvideo dataset preview` shows "
            "each"
        )


def _reasons(counts: IngestCounts) -> str:
    return ", ".join(f"{reason} {num}" for reason, num in counts.by_reason.items())
