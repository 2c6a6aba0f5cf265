"""Scores of stored clips on Ray, and the stages score and filter as the flow runs them."""

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from infra.errors import ConfigError, DataError
from infra.store import manifest as manifests
from infra.store import vacuum
from infra.store.choose import chosen_clips
from infra.store.dataset import Dataset
from infra.store.manifest import Manifest
from infra.store.media import write_shard
from infra.store.query import query
from infra.store.selection import Selection
from infra.video import encode_image
from pipelines.config import RunConfig
from pipelines.ingest_config import AcceptSettings
from pipelines.runtime import Runtime, Task
from pipelines.scores.config import (
    DoubleSettings,
    FilterSettings,
    ModelBound,
    ModelScorer,
    ScoreSettings,
)
from pipelines.scores.filtering import apply
from pipelines.scores.model_scores import model_scores
from pipelines.scores.rescore import KEY, _measured, missing_sql, rescore, signal_rows
from pipelines.scores.signals import measure
from pipelines.scores.versions import OF_MOTION, VERSIONS, expected
from pipelines.scores.work import run_pass
from pipelines.stages.filtering import filter_clips, filtered
from pipelines.stages.scoring import score
from pipelines.steps import watch
from pipelines.steps.found import perceptual_hash
from pipelines.steps.scan import scan
from tests.infra.videos import moving, video
from tests.pipelines.scores.models import WIDTH, tiny_classifier, tiny_clip
from tests.pipelines.scores.pictures import sliding, textured

ANY = Selection()
pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture
def stored(tmp_path):
    """A dataset of six real clips: two that slide, their doubles, one that stands, a still."""
    dataset = Dataset.open(str(tmp_path / "run" / "dataset"), create=True)
    still = textured("foliage", 9, 96, 160)
    media = {
        "slow": sliding(20, 1),
        "slow-again": sliding(20, 1, options={"crf": "30"}),
        "fast": sliding(20, 4, seed=1),
        "square": video(moving()),
        "stands": video(still[None].repeat(20, 0)),
        "photo": encode_image(textured("discs", 4, 96, 160)),
    }
    refs = write_shard(dataset, list(media.items()))
    rows = []
    for (clip, data), ref in zip(media.items(), refs, strict=True):
        found = scan(data, AcceptSettings())
        rows.append(
            {
                "clip_id": clip, "kind": found.header.kind, "source_id": f"of-{clip}",
                "source_uri": clip, "transform_id": "t", "num_frames": found.num_frames,
                "width": found.header.width, "height": found.header.height,
                "phash": perceptual_hash(found.middle_thumb),
            } | ref.columns()
        )  # fmt: skip
    dataset.append("clips", rows)
    return dataset, media


def held(dataset, scorer):
    rows = dataset.read("scores").to_pylist()
    return {row["clip_id"]: row["value"] for row in rows if row["scorer"] == scorer}


def num_missing(dataset):
    sql, parameters = missing_sql(ANY)
    with query(dataset, sql, parameters=parameters) as rows:
        return len(rows.read_all())


def test_missing_scores_are_measured_from_the_stored_clips_as_at_the_ingest(stored):
    dataset, media = stored
    assert num_missing(dataset) == 6
    done = rescore(dataset, ANY, 4, "run-1")
    assert (done.num_missing, done.num_failed) == (6, 0)
    rows = dataset.read("scores").to_pylist()
    assert len(rows) == 5 * len(expected("video")) + len(expected("image"))
    for clip, data in media.items():
        direct = measure(data, scan(data, AcceptSettings()))
        kept = {row["scorer"]: row["value"] for row in rows if row["clip_id"] == clip}
        assert kept == pytest.approx(direct)
    assert not list(Path(dataset.root, "work").glob("*/*"))


def test_vacuum_leaves_what_a_pass_of_days_still_reads(stored):
    dataset, _ = stored
    removed = []

    def days_later(block):
        for path in Path(dataset.root, "work").glob("*/rows/*"):
            os.utime(path, (0, 0))
        removed.append([one.uri for one in vacuum.find(dataset, 24) if one.kind == "work"])

    def work(rows):
        return rows.map(lambda row: {"clip_id": row["clip_id"], "error": ""})

    run_pass(dataset, "nothing", missing_sql(ANY), work, days_later, 2)
    assert len(removed) == 3
    assert not any(removed[1:])  # before its first commit a folder is as young as its run


def test_a_second_pass_has_nothing_to_do_and_a_part_is_completed(stored):
    dataset, _ = stored
    dataset.append("scores", [{"clip_id": "slow", "scorer": "motion", "version": "0", "value": 9}])
    current = {"clip_id": "fast", "scorer": "motion", "version": VERSIONS["motion"], "value": 7.0}
    dataset.append("scores", [current])
    assert rescore(dataset, ANY, 100, "run-1").num_missing == 6
    assert held(dataset, "motion")["fast"] == 7.0  # what is there stays
    version = dataset.version("scores")
    assert rescore(dataset, ANY, 100, "run-2").num_missing == 0
    assert dataset.version("scores") == version


def test_a_clip_that_cannot_be_read_is_counted_and_tried_again(stored):
    dataset, _ = stored
    lost = {"clip_id": "lost", "kind": "video", "media_file": "media/gone.parquet"}
    place = {"media_row": 0, "media_offset": 0, "media_length": 4, "media_crc32c": 0}
    dataset.append("clips", [lost | place | {"num_frames": 9}])
    done = rescore(dataset, ANY, 100, "run-1")
    assert (done.num_missing, done.num_failed) == (7, 1)
    assert num_missing(dataset) == 1


def test_a_clip_too_long_to_tell_motion_is_not_decoded_again(stored, monkeypatch):
    dataset, _ = stored
    monkeypatch.setattr(watch, "_MAX_THUMBS", 2)
    clips = [r for r in dataset.read("clips").to_pylist() if r["clip_id"] in ("slow", "photo")]
    block = pa.Table.from_pylist([_measured(clip, dataset.root) for clip in clips])
    dataset.append_new("scores", signal_rows(block, "run-1"), KEY)
    assert num_missing(dataset) == 4
    assert [held(dataset, name) for name in OF_MOTION] == [{}] * 3
    assert held(dataset, "motion_untold") == {"slow": 1.0}
    lacking = apply(dataset, FilterSettings(min_motion=0.01).bounds(), Selection(), "r").by_reason
    assert lacking == {"no_motion": 5}


def test_thresholds_change_without_any_media(stored):
    dataset, _ = stored
    rescore(dataset, ANY, 100, "run-1")
    shutil.rmtree(Path(dataset.root, "media"))
    for least, num_refused in ((0.01, 1), (0.5, 3), (0.0, 0)):
        bounds = FilterSettings(min_motion=least).bounds()
        assert apply(dataset, bounds, ANY, "run-2").num_refused == num_refused


def test_models_score_what_lacks_their_version(stored, tmp_path):
    dataset, _ = stored
    folder = tiny_classifier(tmp_path / "vit")
    scorer = ModelScorer(name="unsafe", how="label", model=folder, label="unsafe", num_frames=2)
    settings = ScoreSettings(batch=2, device="cpu", clips_per_commit=3)
    assert model_scores(dataset, scorer, ANY, settings, "r").num_missing == 6
    values = held(dataset, "unsafe")
    assert len(values) == 6
    assert all(0 < value < 1 for value in values.values())
    assert model_scores(dataset, scorer, ANY, settings, "r").num_missing == 0
    other = scorer.model_copy(update={"num_frames": 1})
    assert model_scores(dataset, other, Selection(kinds=("image",)), settings, "r").num_missing == 1


def test_vectors_of_clips_are_kept_by_encoder(stored, tmp_path):
    dataset, _ = stored
    scorer = ModelScorer(name="clip", how="vectors", model=tiny_clip(tmp_path / "clip"))
    settings = ScoreSettings(batch=4, device="cpu")
    model_scores(dataset, scorer, ANY, settings, "r")
    rows = dataset.read("vectors").to_pylist()
    assert {row["clip_id"] for row in rows} == set(stored[1])
    assert {(row["width"], len(row["values"])) for row in rows} == {(WIDTH, 2 * WIDTH)}
    assert model_scores(dataset, scorer, ANY, settings, "r").num_missing == 0


def test_a_model_that_is_not_there_is_refused_before_workers_start(stored):
    dataset, _ = stored
    scorer = ModelScorer(name="clip", how="vectors", model="no/such-model")
    with pytest.raises(ConfigError, match="no/such-model"):
        model_scores(dataset, scorer, ANY, ScoreSettings(), "r")
    assert dataset.version("vectors") == -1


def flow(dataset, config):
    """Run the stages score and filter behind an ingest that is done; return their outputs."""
    root = str(Path(dataset.root).parent)
    runtime = Runtime(root, config, "code")
    ingest = Manifest(
        stage="ingest", partition="p", key="ki", identity={}, inputs={},
        outputs={"transform_id": "t"}, folder=root, seconds=0.0, code_version="", created_at="",
        files={},
    )  # fmt: skip
    manifests.commit(runtime.store, ingest)
    key = str(time.monotonic_ns())
    inputs = {"ingest/p": "ki"}
    tasks = [Task("score", "all", "s" + key, {}, inputs, False, "")]
    tasks.append(Task("filter", "all", "f" + key, {}, inputs | {"score/all": "s" + key}, False, ""))
    for stage, task in zip((score, filter_clips), tasks, strict=True):
        runtime.started[task.stage] = time.monotonic()
        stage([task], config, runtime)
    return [manifests.load(runtime.store, t.stage, t.partition, t.key).outputs for t in tasks]


def chosen(dataset, outputs):
    with chosen_clips(dataset, filtered(outputs, ANY), columns=["clip_id"]) as rows:
        return rows.read_all()["clip_id"].to_pylist()


def test_by_default_every_clip_is_measured_and_none_is_left_out(stored):
    dataset, media = stored
    scored, left = flow(dataset, RunConfig())
    assert scored["num_scored"] == {"signals": 6}
    assert (left["bounds"], left["duplicate_versions"], left["num_refused"]) == ([], [], 0)
    assert chosen(dataset, left) == sorted(media)


def test_stages_filter_by_signals_models_and_doubles(stored, tmp_path):
    dataset, _ = stored
    safe = ModelScorer(
        name="unsafe", how="label", model=tiny_classifier(tmp_path / "vit"), label="unsafe"
    )
    config = RunConfig(
        scores=ScoreSettings(models=(safe,), device="cpu"),
        filter=FilterSettings(
            min_motion=0.02,
            models=(ModelBound(scorer="unsafe", most=1.0),),
            doubles=DoubleSettings(phash=True, max_bits=6, min_detail=0.01, memory_mib=256),
        ),
    )
    scored, left = flow(dataset, config)
    assert scored["num_scored"] == {"signals": 6, "unsafe": 6}
    assert left["by_reason"] == {"low_motion": 1}
    assert list(left["num_doubles"].values()) == [1]
    assert chosen(dataset, left) == ["fast", "photo", "slow", "square"]
    again = flow(dataset, config)
    assert again[0]["num_scored"] == {"signals": 0, "unsafe": 0}
    assert again[1] == left


def test_too_many_clips_without_a_score_fail_the_run_by_name(stored):
    dataset, _ = stored
    shutil.rmtree(Path(dataset.root, "media"))
    with pytest.raises(DataError, match=r"scores\.max_failed_share"):
        flow(dataset, RunConfig())


def test_one_clip_that_fails_in_every_run_does_not_end_them(stored):
    dataset, media = stored
    rescore(dataset, ANY, 100, "run-1")
    lost = {"clip_id": "lost", "kind": "video", "media_file": "media/gone.parquet"}
    place = {"media_row": 0, "media_offset": 0, "media_length": 4, "media_crc32c": 0}
    dataset.append("clips", [lost | place | {"num_frames": 9, "transform_id": "t"}])
    scored, left = flow(dataset, RunConfig())
    assert scored["num_failed"] == {"signals": 1}
    assert chosen(dataset, left) == sorted([*media, "lost"])
