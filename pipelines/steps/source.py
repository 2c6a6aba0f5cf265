"""Everything about one source: get it, name it, look at it, cut it, measure its clips.

`examine` is the inner list of the ingest, each step a plain function. It yields clips as they are
made, so that a long source never lies in memory whole, and closes with an `Outcome`: what is known
of the source, or why it is refused. A bad file is data, not an exception.
"""

import hashlib
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from infra.stills import VideoError
from infra.store import media
from infra.store.choose import BUCKETS
from pipelines.ingest_config import IngestSettings
from pipelines.scores import signals
from pipelines.sources.address import FetchError
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import SourceEntry
from pipelines.sources.fetch import Fetched, fetched
from pipelines.sources.sidecar import Caption, Said, said_of, tag_caption
from pipelines.steps.cut import CutClip, cut
from pipelines.steps.found import Scan, Span, perceptual_hash
from pipelines.steps.known import Known
from pipelines.steps.scan import scan
from pipelines.steps.shots import spans

_TOLD = 500  # characters of a message that are kept


@dataclass(frozen=True)
class Planned:
    """One source that is to be looked at."""

    entry: SourceEntry
    known_id: str = ""
    """Its source id, where only what is said about it has to be read."""
    why: str = "new"
    """Why it is looked at: new, changed, recaptioned, stale, retry."""
    attempts: int = 0
    """How often it was tried before."""


@dataclass(frozen=True)
class Work:
    """What examining needs besides the source."""

    known: Known
    """Sources whose clips the dataset holds; these are not decoded again."""
    settings: IngestSettings
    sources: SourceSettings
    measure: bool = True
    """Whether clips get their signal scores now."""


@dataclass(frozen=True)
class Refusal:
    """Why a source, its caption or a part of it is not used."""

    stage: str
    reason: str
    message: str
    retryable: bool = False
    policy_id: str = ""
    """Settings or texts under which it holds; under others it may not."""


@dataclass(frozen=True)
class MadeClip:
    """One clip of a source, as a row of the clips table, with its bytes and scores."""

    row: dict[str, Any]
    data: bytes
    scores: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What became of one source, after its clips."""

    planned: Planned
    source_id: str = ""
    size_bytes: int = -1
    known: bool = False
    """Its clips are in the dataset already, so it was not decoded."""
    captions: list[Caption] = field(default_factory=list)
    metadata: str = ""
    clip_ids: list[str] = field(default_factory=list)
    """Of the clips before this outcome, those that count."""
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """The source's name."""
        return self.planned.entry.uri


Found = MadeClip | Outcome


def examine_all(planned: Sequence[Planned], work: Work) -> Iterator[Found]:
    """Yield what becomes of each source, in order; a content that comes twice is decoded once."""
    done: set[str] = set()
    for one in planned:
        for found in examine(one, work, done):
            if isinstance(found, Outcome) and found.clip_ids:
                done.add(found.source_id)
            yield found


def examine(planned: Planned, work: Work, done: Collection[str] = ()) -> Iterator[Found]:
    """Yield the clips of a source and then its outcome.

    Args:
        planned: The source.
        work: What is known, what is accepted, how it is cut.
        done: Further sources that are not decoded again.

    Raises:
        ServiceError: The store of the sources does not answer.
    """
    entry = planned.entry
    if entry.refusal:
        reason, _, message = entry.refusal.partition(": ")
        yield Outcome(planned, refusals=[Refusal("list", reason, message[:_TOLD])])
        return
    said = said_of(entry, work.sources)  # 1 entry -> captions and metadata beside it
    if planned.known_id:
        yield _outcome(planned, said, planned.known_id, entry.size_bytes)
        return
    source_id, size_bytes, stage = "", entry.size_bytes, "read"
    limit_bytes = work.settings.accept.max_source_mib << 20
    try:
        with fetched(entry, work.sources, limit_bytes) as file:  # 1 -> 1: its bytes
            source_id, size_bytes, stage = file.source_id, file.size_bytes, "decode"
            if source_id in done or source_id in work.known:
                outcome = _outcome(planned, said, source_id, size_bytes)
            else:
                outcome = yield from _cut_up(planned, said, file, work)
    except (VideoError, FetchError) as fault:  # also where it has changed when it is put back
        refusals = [*_of_captions(entry, said), _refusal(stage, fault, work.settings)]
        outcome = Outcome(planned, source_id, size_bytes, metadata=said.metadata, refusals=refusals)
    yield outcome


def _cut_up(
    planned: Planned, said: Said, file: Fetched, work: Work
) -> Generator[MadeClip, None, Outcome]:
    """Yield the clips of a source that is not known yet; return its outcome."""
    settings, clip_ids = work.settings, []
    found = scan(file.data, settings.accept, settings.cut)  # 1 -> 1: probe, validate, bars
    laid, short = _laid(found, settings)  # 1 -> N: shots, then windows
    for clip in cut(file.data, found, laid, settings.cut, settings.accept.limits()):  # N -> N: crop
        if len(clip.data) > media.LARGEST:
            size = f"{len(clip.data):,} bytes, a shard takes at most {media.LARGEST:,} a clip"
            raise VideoError("clip_too_large", f"{size}; cut it shorter, or encode it smaller")
        row = _row(clip, found, planned.entry.uri, file.source_id, settings.transform_id)
        clip_ids.append(row["clip_id"])
        yield MadeClip(row, clip.data, signals.measured(clip) if work.measure else {})  # N -> N
    if not said.captions and (tagged := tag_caption(found.tags)):
        said.captions.append(tagged)
    return Outcome(
        planned,
        file.source_id,
        file.size_bytes,
        captions=said.captions,
        metadata=said.metadata,
        clip_ids=clip_ids,
        refusals=[*_of_captions(planned.entry, said), *short],
    )


def clip_id(source_id: str, row: dict[str, Any]) -> str:
    """Return the identity of a clip: a hash of its source, its exact span and how it was cut."""
    span = (row["src_start_pts"], row["src_end_pts"], row["src_tb_num"], row["src_tb_den"])
    words = f"{source_id} {span} {row['transform_id']}"
    return hashlib.sha256(words.encode()).hexdigest()[:32]


def _outcome(planned: Planned, said: Said, source_id: str, size_bytes: int) -> Outcome:
    """Return the outcome of a source whose clips are there already."""
    return Outcome(
        planned,
        source_id,
        size_bytes,
        known=True,
        captions=said.captions,
        metadata=said.metadata,
        refusals=_of_captions(planned.entry, said),
    )


def _of_captions(entry: SourceEntry, said: Said) -> list[Refusal]:
    """Return what is wrong with the captions; it holds for as long as they stay as they are."""
    return [
        Refusal(one.stage, one.reason, one.message[:_TOLD], one.retryable, entry.caption_stamp)
        for one in said.refusals
    ]


def _refusal(stage: str, fault: VideoError | FetchError, settings: IngestSettings) -> Refusal:
    retryable = isinstance(fault, FetchError) and fault.retryable
    return Refusal(stage, fault.reason, fault.message[:_TOLD], retryable, settings.ingest_id)


def _laid(found: Scan, settings: IngestSettings) -> tuple[list[Span], list[Refusal]]:
    """Return the spans that are long enough, and a refusal for each that is not."""
    least = 1 if found.header.kind == "image" else settings.accept.min_frames
    every = spans(found, settings.cut)
    laid = [span for span in every if span.end - span.start >= least]
    if not laid:
        raise VideoError("too_short", f"{found.num_frames} frames, at least {least}")
    short = [
        Refusal(
            "cut",
            "short_shot",
            f"frames {span.start} to {span.end}, at least {least}",
            policy_id=settings.transform_id,
        )
        for span in every
        if span.end - span.start < least
    ]
    return laid, short


def _row(
    clip: CutClip, source: Scan, uri: str, source_id: str, transform_id: str
) -> dict[str, Any]:
    """Return the columns of the clips table that the ingest knows before a shard is written."""
    row = _pixels(clip, source) | {"transform_id": transform_id}
    return row | {
        "clip_id": clip_id(source_id, row),
        "source_id": source_id,
        "source_uri": uri,
        "split_bucket": int(source_id[:12], 16) % BUCKETS,
    }


def _pixels(clip: CutClip, source: Scan) -> dict[str, Any]:
    """Return the columns that the clip's bytes decide."""
    found, header, span = clip.found, clip.found.header, clip.span
    clock = source.header.time_base
    return {
        "kind": header.kind,
        "src_start_pts": source.pts[span.start],
        "src_end_pts": source.stop(span),
        "src_tb_num": clock.numerator,
        "src_tb_den": clock.denominator,
        "shot_index": span.shot_index,
        "encode_mode": clip.mode,
        "container": header.container,
        "codec": header.codec,
        "pix_fmt": header.pix_fmt,
        "color_trc": header.color_trc,
        "bit_depth": header.bit_depth,
        "width": header.width,
        "height": header.height,
        "coded_width": header.coded_width,
        "coded_height": header.coded_height,
        "rotation": header.rotation,
        "sar": f"{header.sar.numerator}:{header.sar.denominator}",
        "crop": asdict(clip.crop),
        "fps_num": header.fps.numerator,
        "fps_den": header.fps.denominator,
        "is_vfr": found.is_vfr,
        "num_frames": found.num_frames,
        "duration_s": found.seconds(found.end_pts),
        "keyframe_pts": [
            source.pts[span.start + index] - source.pts[span.start] for index in found.keyframes
        ],
        "interlaced": header.interlaced,
        "has_audio": header.has_audio,
        "phash": perceptual_hash(found.middle_thumb),
    }
