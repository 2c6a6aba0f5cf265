"""Gather what the other stages left into one page and one tree of numbers."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from infra import storage, video
from infra.config import to_yaml
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.release import Release, load
from pipelines import corpus, report
from pipelines.config import RunConfig
from pipelines.report import ClipView, ReportData, SampleView
from pipelines.report_figures import Curve
from pipelines.runtime import Runtime, Task
from pipelines.steps.counts import count_all
from train.metrics import detector
from train.metrics.attributes import Attributes, is_held_out, parse
from train.metrics.detector import Rate

_NUM_JUDGED = 200
_NUM_SHOWN = 12

Truth = Mapping[str, tuple[Attributes, ...]]
Row = dict[str, Any]


def report_run(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Write `report.html` and `report.json` into the run's folder."""
    (task,) = tasks
    (pinned,) = runtime.inputs(task, "release")
    release = load(runtime.dataset, pinned.outputs["name"])
    truth = corpus.by_source(corpus.read_truth(config.truth)) if config.truth else {}
    clips = release.clips().to_pylist()
    captions = {row["clip_id"]: row for row in release.captions().to_pylist()}
    samples = list(_samples(runtime, task, judged=bool(truth)))
    data = ReportData(
        title=f"snapvideo: {config.name}",
        created_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts=_counts(runtime, task, release),
        samples=samples,
        clips=_shown(runtime, clips, captions, truth),
        curves=[curve for stage in ("stage1", "stage2") for curve in _curves(runtime, task, stage)],
        captions=_caption_accuracy(clips, captions, truth),
        sampled=detector.accuracy((s.wanted, s.seen) for s in samples) if truth else {},
        judged=_judge_accuracy(runtime, clips, truth, samples),
        quarantine=_quarantine(runtime, task),
        seconds=_seconds(runtime),
        provenance=_provenance(runtime, task, release),
        config_yaml=to_yaml(runtime.settings),
        commands=_commands(runtime),
    )
    report.write(runtime.workspace, data)
    runtime.commit(task, {"report": storage.join(runtime.workspace, "report.html")})


def _samples(runtime: Runtime, task: Task, judged: bool) -> Iterator[SampleView]:
    (done,) = runtime.inputs(task, "samples")
    for one in done.outputs["samples"]:
        data = storage.read_bytes(storage.join(done.outputs["folder"], one["file"]))
        wanted = parse(one["prompt"]) if judged else Attributes()
        seen = detector.detect(video.decode(data).frames).attributes if judged else Attributes()
        yield SampleView(data, one["prompt"], wanted, seen, judged and is_held_out(wanted))


def _shown(
    runtime: Runtime, clips: Sequence[Row], captions: Mapping[str, Row], truth: Truth
) -> list[ClipView]:
    """Return a spread of clips, human and synthetic captions in turns."""
    groups = {
        origin: [c for c in clips if captions[c["clip_id"]]["origin"] == origin]
        for origin in ("human", "synthetic")
    }
    chosen = [
        group[i * len(group) // half]
        for group in groups.values()
        for half in [min(len(group), _NUM_SHOWN // 2)]
        for i in range(half)
    ]
    views = []
    for clip in chosen:
        row = captions[clip["clip_id"]]
        views.append(
            ClipView(
                data=read_media(runtime.dataset, clip),
                caption=row["text"],
                origin=row["origin"],
                truth=_true(clip, truth),
                read=parse(row["text"]) if truth else None,
            )
        )
    return views


def _curves(runtime: Runtime, task: Task, stage: str) -> Iterator[Curve]:
    (done,) = runtime.inputs(task, stage)
    lines = [json.loads(x) for x in storage.read_text(done.outputs["stats"]).splitlines()]
    for key, title in (("loss", "loss"), ("clips_per_s", "clips per second")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        steps, values = [p[0] for p in points], [p[1] for p in points]
        yield Curve(f"{stage}.{key}", f"{stage} {title}", steps, values)


def _caption_accuracy(
    clips: Sequence[Row], captions: Mapping[str, Row], truth: Truth
) -> dict[str, Rate]:
    """Return how often written captions say what the clips show."""
    pairs = [
        (shown, parse(captions[clip["clip_id"]]["text"]))
        for clip in clips
        if captions[clip["clip_id"]]["origin"] == "synthetic"
        and (shown := _true(clip, truth)) is not None
    ]
    return detector.accuracy(pairs) if pairs else {}


def _judge_accuracy(
    runtime: Runtime, clips: Sequence[Row], truth: Truth, samples: Sequence[SampleView]
) -> dict[str, Rate]:
    """Return how often the judge is right on real clips, shown as small as the samples are."""
    known = [clip for clip in clips if clip["kind"] == "video" and _true(clip, truth)]
    if not known or not samples:
        return {}
    num_frames, height, width, _ = video.decode(samples[0].data).frames.shape
    pairs = []
    for index in np.linspace(0, len(known) - 1, min(_NUM_JUDGED, len(known))).astype(int):
        shown = _true(known[index], truth)
        assert shown is not None, "only clips with a known truth are judged"
        frames = video.decode(read_media(runtime.dataset, known[index])).frames
        small = detector.reduced(frames, num_frames, width, height)
        pairs.append((shown, detector.detect(small).attributes))
    return detector.accuracy(pairs)


def _true(clip: Row, truth: Truth) -> Attributes | None:
    shots = truth.get(clip["source_id"])
    if shots is None or clip["shot_index"] >= len(shots):
        return None
    return shots[clip["shot_index"]]


def _counts(runtime: Runtime, task: Task, release: Release) -> dict[str, int]:
    ingested = runtime.inputs(task, "ingest")
    first = ingested[0].outputs
    held = count_all(
        Dataset.open(runtime.dataset),
        first["source_root"],
        first["transform_id"],
        [one.partition for one in ingested],
    )
    return {
        "files": held.num_files,
        "videos": held.num_videos,
        "images": held.num_images,
        "quarantined": held.num_quarantined,
        "duplicates": held.num_duplicates,
        "captions written": sum(one.outputs["num_ok"] for one in runtime.inputs(task, "caption")),
        "clips in the release": release.num_clips,
    }


def _quarantine(runtime: Runtime, task: Task) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in runtime.inputs(task, "ingest"):
        total.update(one.outputs["by_reason"])
    return dict(sorted(total.items()))


def _seconds(runtime: Runtime) -> dict[str, float]:
    """Return each finished stage's wall time; partitions of a stage share a clock."""
    spent: dict[str, float] = {}
    for one in runtime.finished():
        spent[one.stage] = max(spent.get(one.stage, 0.0), one.seconds)
    return spent


def _provenance(runtime: Runtime, task: Task, release: Release) -> dict[str, str]:
    facts = {
        "code": runtime.code_version,
        "release": release.name,
        "release digest": release.digest,
        "dataset": runtime.dataset,
    }
    for stage in ("stage1", "stage2"):
        (done,) = runtime.inputs(task, stage)
        facts[stage] = f"{done.outputs['model']} version {done.outputs['version']}"
    return facts


def _commands(runtime: Runtime) -> list[tuple[str, str]]:
    config = runtime.settings
    assert isinstance(config, RunConfig)
    return [
        ("MLflow", f"mlflow ui --backend-store-uri {shlex.quote(config.mlflow_uri)}"),
        ("serve", f"snapvideo serve {config.flags}"),
    ]
