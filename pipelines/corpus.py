"""The demo's source folder: captioned and uncaptioned clips and stills, some of them broken.

Every file follows from the settings and the seed alone, so a repeated rendering writes the same
bytes. `plan` decides what each file shows, `file_bytes` makes one file, and `render` spreads
them over Ray tasks. What the files show is written to `truth.json` beside the source folder;
only the judge and the report read it.

    facts = render("workspace/corpus", CorpusSettings(), seed=0)   # Ray is running
    truth = read_truth(facts.truth_uri)
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import ray
from numpy.typing import NDArray

from infra import storage, video
from infra.errors import DataError
from pipelines import corpus_faults
from pipelines.corpus_config import CorpusSettings
from train.metrics import shapes
from train.metrics.attributes import NUM_TEMPLATES, Attributes, caption, combinations, stills

log = logging.getLogger(__name__)

PARTITIONS = ("shelf-1", "shelf-2")
_TRUTH_FORMAT = 1
_FILES_PER_TASK = 48
_REPORT_S = 3.0
_TEMPLATE_SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class FilePlan:
    """What one file shows; `fault` names what is wrong with it, empty if nothing."""

    path: str
    """Below the source folder; its ending says the container."""
    shots: tuple[Attributes, ...]
    seed: int
    text: str | None
    fault: str = ""


@dataclass(frozen=True)
class FileTruth:
    """What one file shows and whether it must be refused."""

    path: str
    source_id: str
    """SHA-256 of the file's bytes."""
    kind: str
    captioned: bool
    fault: str
    shots: tuple[Attributes, ...]


@dataclass(frozen=True)
class CorpusFacts:
    """What was rendered, and where it lies."""

    source_uri: str
    truth_uri: str
    num_files: int
    num_videos: int
    num_images: int
    num_captioned: int
    num_faulty: int
    num_duplicates: int
    seconds: float


def render(folder_uri: str, settings: CorpusSettings, seed: int) -> CorpusFacts:
    """Write `source/` and `truth.json` below the folder and return what was written.

    Args:
        folder_uri: Local or S3; what an interrupted rendering left there is overwritten.
        settings: What to render.
        seed: Another seed shows other clips.

    Raises:
        DataError: The disk is full or the folder cannot be written.
    """
    began = time.monotonic()
    source_uri = storage.join(storage.absolute(folder_uri), "source")
    plans = plan(settings, seed)
    task = ray.remote(_write_files)
    starts = range(0, len(plans), _FILES_PER_TASK)
    pending = [task.remote(source_uri, plans[i : i + _FILES_PER_TASK], settings) for i in starts]
    truth: list[FileTruth] = []
    while pending:
        done, pending = ray.wait(pending, num_returns=len(pending), timeout=_REPORT_S)
        truth += [one for part in ray.get(done) for one in part]
        _progress(len(truth), len(plans), time.monotonic() - began)
    truth.sort(key=lambda one: one.path)
    truth_uri = storage.join(storage.absolute(folder_uri), "truth.json")
    storage.write_bytes(truth_uri, _truth_json(truth, seed))
    return CorpusFacts(
        source_uri=source_uri,
        truth_uri=truth_uri,
        num_files=len(truth),
        num_videos=sum(one.kind == "video" for one in truth),
        num_images=sum(one.kind == "image" for one in truth),
        num_captioned=sum(one.captioned for one in truth),
        num_faulty=sum(bool(one.fault) for one in truth),
        num_duplicates=settings.num_duplicates,
        seconds=round(time.monotonic() - began, 1),
    )


def plan(settings: CorpusSettings, seed: int) -> list[FilePlan]:
    """Return what every file of the corpus shows, the same for the same seed."""
    random = np.random.default_rng(seed)
    moving = _shuffled(list(combinations(held_out=False)), random)
    resting = _shuffled(list(stills()), random)
    videos = [
        FilePlan(_path("clip", i, _video_kind(i, settings)), (next(moving),), _seed(random), None)
        for i in range(settings.num_videos)
    ]
    images = [
        FilePlan(_path("still", i, ("png", "jpg")[i % 2]), (next(resting),), _seed(random), None)
        for i in range(settings.num_images)
    ]
    whole = _with_captions(videos, settings, random) + _with_captions(images, settings, random)
    cuts = [
        FilePlan(_path("cut", i, "mp4"), (next(moving), next(moving)), _seed(random), None)
        for i in range(settings.num_cuts)
    ]
    faulty = [
        FilePlan(_path("fault", i, fault.ending), (next(moving),), _seed(random), None, fault.name)
        for i, fault in zip(range(settings.num_faulty), corpus_faults.in_turns(), strict=False)
    ]
    return whole + _copies(whole[: settings.num_duplicates]) + cuts + faulty


def frames_of(one: FilePlan, settings: CorpusSettings) -> NDArray[np.uint8]:
    """Return the frames [T, H, W, 3] that a file shows, before any encoding."""
    travel = {"slowly": settings.travel_slowly, "quickly": settings.travel_quickly}
    num_frames = 1 if _is_image(one.path) else settings.num_frames
    shots = [
        shapes.clip(shot, one.seed + i, num_frames, settings.width, settings.height, travel)
        for i, shot in enumerate(one.shots)
    ]
    return np.concatenate(shots)


def file_bytes(one: FilePlan, settings: CorpusSettings) -> bytes:
    """Return the content of one file, faults included."""
    frames = frames_of(one, settings)
    ending = one.path.rpartition(".")[2]
    if ending in ("png", "jpg"):
        return video.encode_image(frames[0], kind="jpeg" if ending == "jpg" else "png")
    if ending == "webm":
        data = video.encode_video(frames, settings.fps, container="webm", codec="libvpx-vp9")
    else:
        data = video.encode_video(frames, settings.fps, container="mp4", codec="libx264")
    return corpus_faults.spoil(one.fault, data, one.seed) if one.fault else data


def read_truth(truth_uri: str) -> list[FileTruth]:
    """Return what every file shows.

    Raises:
        DataError: There is no such file, or it was not written by `render`.
    """
    tree = json.loads(storage.read_text(truth_uri))
    if tree.get("format") != _TRUTH_FORMAT:
        raise DataError(
            f"{truth_uri}: format {tree.get('format')!r}, accepted: {_TRUTH_FORMAT}; "
            "render the corpus again"
        )
    return [
        FileTruth(**{**row, "shots": tuple(Attributes(**shot) for shot in row["shots"])})
        for row in tree["files"]
    ]


def by_source(truth: Sequence[FileTruth]) -> dict[str, tuple[Attributes, ...]]:
    """Return the shots of every whole file by its source id, in the order they are shown."""
    return {one.source_id: one.shots for one in truth if one.kind != "refused"}


def _write_files(
    source_uri: str, plans: Sequence[FilePlan], settings: CorpusSettings
) -> list[FileTruth]:
    """Write some files and their captions; runs in a Ray worker."""
    truth = []
    for one in plans:
        data = file_bytes(one, settings)
        uri = storage.join(source_uri, one.path)
        storage.write_bytes(uri, data)
        text = corpus_faults.caption_bytes(one.fault, one.text)
        if text is not None:
            storage.write_bytes(uri.rpartition(".")[0] + ".txt", text)
        truth.append(
            FileTruth(
                path=one.path,
                source_id=hashlib.sha256(data).hexdigest(),
                kind=_kind(one),
                captioned=one.text is not None,
                fault=one.fault,
                shots=one.shots,
            )
        )
    return truth


def _truth_json(truth: Sequence[FileTruth], seed: int) -> bytes:
    tree = {"format": _TRUTH_FORMAT, "seed": seed, "files": [asdict(one) for one in truth]}
    return json.dumps(tree, indent=1, ensure_ascii=False).encode()


def _progress(num_done: int, num_all: int, seconds: float) -> None:
    if not num_done:
        log.info("rendered files=0 of=%d", num_all)
        return
    rate = num_done / max(seconds, 1e-9)
    left_s = (num_all - num_done) / rate
    log.info("rendered files=%d of=%d rate=%.0f/s left_s=%.0f", num_done, num_all, rate, left_s)


def _with_captions(
    plans: Sequence[FilePlan], settings: CorpusSettings, random: np.random.Generator
) -> list[FilePlan]:
    """Give exactly the asked share of the files a caption, chosen at random."""
    num_captioned = round(len(plans) * settings.captioned_share)
    chosen = set(random.permutation(len(plans))[:num_captioned].tolist())
    templates = random.choice(NUM_TEMPLATES, len(plans), p=_TEMPLATE_SHARES).tolist()
    return [
        replace(one, text=caption(one.shots[0], templates[i])) if i in chosen else one
        for i, one in enumerate(plans)
    ]


def _copies(plans: Sequence[FilePlan]) -> list[FilePlan]:
    """Return the same files in the other partition, under names that a careless tool breaks."""
    copies = []
    for one in plans:
        shelf, _, name = one.path.partition("/")
        other = PARTITIONS[1 - PARTITIONS.index(shelf)]
        copies.append(replace(one, path=f"{other}/kopie #1 für {name}", text=None))
    return copies


def _shuffled(items: list[Attributes], random: np.random.Generator) -> Iterator[Attributes]:
    """Yield items in a new random order each round, so that all come equally often."""
    while True:
        for index in random.permutation(len(items)).tolist():
            yield items[index]


def _path(stem: str, index: int, ending: str) -> str:
    return f"{PARTITIONS[index % len(PARTITIONS)]}/{stem}-{index:05d}.{ending}"


def _video_kind(index: int, settings: CorpusSettings) -> str:
    """Return webm as often as asked, spread evenly."""
    share = settings.webm_share
    return "webm" if int((index + 1) * share) > int(index * share) else "mp4"


def _is_image(path: str) -> bool:
    return path.endswith((".png", ".jpg"))


def _kind(one: FilePlan) -> str:
    if corpus_faults.refuses_file(one.fault):
        return "refused"
    return "image" if _is_image(one.path) else "video"


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(2**31))
