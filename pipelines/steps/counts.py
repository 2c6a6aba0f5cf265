"""What a partition holds after its ingest, counted in the tables.

So it is the same whether the run that filled them was interrupted or not, and no driver has to
remember what it did.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infra.store.dataset import Dataset
from infra.store.query import query


@dataclass(frozen=True)
class IngestCounts:
    """What a partition holds."""

    num_files: int
    """Sources that are there."""
    num_sources: int
    """Distinct contents that gave clips."""
    num_clips: int
    num_images: int
    num_videos: int
    num_captions: int
    """Clips that somebody described: those with a caption that no model wrote."""
    num_duplicates: int
    """Sources whose content another source of the partition has too."""
    num_refused: int
    """Sources that gave no clip."""
    num_quarantined: int
    """Refused sources, captions and shots."""
    by_reason: dict[str, int]
    transform_id: str


_SQL = """
with mine as (
  select {group} as part, * from current_sources
  where source_root = $1 and status in ('ok', 'refused') {wanted}
),
sources_of as (
  select part,
    count(*) as num_files,
    count(distinct source_id) filter (status = 'ok') as num_sources,
    count(*) filter (status = 'ok') as num_ok,
    count(*) filter (status = 'refused') as num_refused
  from mine group by part
),
cut as (
  select distinct c.clip_id, m.part, c.kind
  from clips c join (select distinct part, source_id from mine where status = 'ok') m
  using (source_id) where c.transform_id = $2
),
clips_of as (
  select part, count(*) as num_clips,
    count(*) filter (kind = 'image') as num_images,
    count(*) filter (kind = 'video') as num_videos,
    count(*) filter (clip_id in (
      select clip_id from captions where origin <> 'synthetic' and status = 'ok'
    )) as num_captions
  from cut group by part
),
refusals as (
  select part, reason from mine where status = 'refused'
  union all
  select part, reason from (
    select distinct m.part, m.source_uri, q.reason, q.message
    from quarantine q join mine m using (source_uri)
    where q.stage = 'caption' and q.policy_id = m.caption_stamp
      or q.stage = 'cut' and q.policy_id = $2 and q.source_id = m.source_id and m.status = 'ok'
  )
),
reasons_of as (
  select part, map_from_entries(list((reason, num) order by reason)) as by_reason,
    sum(num)::bigint as num_quarantined
  from (select part, reason, count(*) as num from refusals group by part, reason) group by part
)
select part, num_files, num_sources, num_ok - num_sources as num_duplicates, num_refused,
  coalesce(num_clips, 0) as num_clips,
  coalesce(num_images, 0) as num_images,
  coalesce(num_videos, 0) as num_videos,
  coalesce(num_captions, 0) as num_captions,
  coalesce(num_quarantined, 0) as num_quarantined,
  coalesce(to_json(by_reason)::varchar, '{{}}') as by_reason
from sources_of left join clips_of using (part) left join reasons_of using (part)
order by part
"""


def count(
    dataset: Dataset, source_root: str, transform_id: str, partitions: Sequence[str] = ()
) -> dict[str, IngestCounts]:
    """Return what each partition of a source holds, by name.

    Args:
        dataset: Where it was brought in.
        source_root: Address of the source.
        transform_id: How clips were cut; others are not counted.
        partitions: Which; all by default.
    """
    return dict(_counted(dataset, source_root, transform_id, partitions, '"partition"'))


def count_all(
    dataset: Dataset, source_root: str, transform_id: str, partitions: Sequence[str] = ()
) -> IngestCounts:
    """Return what partitions hold together; a content that two of them have counts once."""
    found = dict(_counted(dataset, source_root, transform_id, partitions, "''"))
    return found.get("", no_counts(transform_id))


def no_counts(transform_id: str) -> IngestCounts:
    """Return what a partition holds of which everything has vanished."""
    return IngestCounts(0, 0, 0, 0, 0, 0, 0, 0, 0, {}, transform_id)


def _counted(
    dataset: Dataset, source_root: str, transform_id: str, partitions: Sequence[str], group: str
) -> Iterator[tuple[str, IngestCounts]]:
    values: list[object] = [source_root, transform_id]
    wanted = ""
    if partitions:
        wanted = 'and list_contains($3, "partition")'
        values.append(list(partitions))
    sql = _SQL.format(group=group, wanted=wanted)
    with query(dataset, sql, parameters=values) as batches:
        for batch in batches:
            for row in batch.to_pylist():
                part, reasons = row.pop("part"), json.loads(row.pop("by_reason"))
                yield part, IngestCounts(by_reason=reasons, transform_id=transform_id, **row)
