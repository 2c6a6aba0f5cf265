"""The caption stage on real tables, a trained captioner and local Ray."""

import os
from pathlib import Path

import pyarrow.compute as pc
import pytest

from captioning.config import CaptionSettings
from captioning.recipe import recipe
from captioning.refresh import caption_clips, stale_sql
from infra.errors import ConfigError, DataError
from infra.store import vacuum
from infra.store.query import query


def stale(dataset, *given):
    sql, parameters = stale_sql(*given)
    with query(dataset, sql, parameters=parameters) as rows:
        return rows.read_all()


@pytest.fixture
def settings(captioner):
    return CaptionSettings(model=captioner, max_new_tokens=12, batch=4, clips_per_commit=3)


def synthetic(corpus):
    return corpus.dataset.read("captions", where=pc.field("origin") == "synthetic").to_pylist()


@pytest.mark.usefixtures("ray_local")
def test_every_clip_without_a_human_caption_gets_one_with_its_recipe(fresh_corpus, settings):
    seen = []
    counts = caption_clips(
        fresh_corpus.root, None, settings, "run-1", lambda done, total: seen.append((done, total))
    )
    rows = synthetic(fresh_corpus)
    assert counts.by_status == {"ok": 6}
    assert {r["clip_id"] for r in rows} == {f"clip-{i}" for i in fresh_corpus.uncaptioned}
    assert {r["recipe_id"] for r in rows} == {recipe(settings).recipe_id}
    assert seen[-1] == (6, 6)
    [kept] = fresh_corpus.dataset.read("recipes").to_pylist()
    assert kept["recipe_id"] == counts.recipe_id


@pytest.mark.usefixtures("ray_local")
def test_vacuum_leaves_what_a_run_of_days_still_reads(fresh_corpus, settings):
    dataset, removed = fresh_corpus.dataset, []

    def days_later(done, total):
        for path in Path(dataset.root, "work").glob("*/rows/*"):
            os.utime(path, (0, 0))
        removed.append([one.uri for one in vacuum.find(dataset, 24) if one.kind == "work"])

    caption_clips(fresh_corpus.root, None, settings, "run-1", days_later)
    assert removed
    assert not any(removed)


@pytest.mark.usefixtures("ray_local")
def test_a_second_run_writes_nothing_and_a_new_recipe_makes_all_stale(fresh_corpus, settings):
    caption_clips(fresh_corpus.root, None, settings, "run-1")
    again = caption_clips(fresh_corpus.root, None, settings, "run-2")
    assert (again.num_stale, len(synthetic(fresh_corpus))) == (0, 6)
    longer = recipe(settings.model_copy(update={"max_new_tokens": 13}))
    assert len(stale(fresh_corpus.dataset, longer.recipe_id)) == 6


@pytest.mark.usefixtures("ray_local")
def test_after_a_kill_only_the_missing_clips_are_captioned(fresh_corpus, settings):
    some = [f"clip-{index}" for index in fresh_corpus.uncaptioned[:4]]
    caption_clips(fresh_corpus.root, some, settings, "run-1")
    assert caption_clips(fresh_corpus.root, None, settings, "run-1").num_stale == 2
    assert len(synthetic(fresh_corpus)) == 6


def test_media_that_changed_make_a_caption_stale(fresh_corpus):
    dataset, clip = fresh_corpus.dataset, f"clip-{fresh_corpus.uncaptioned[0]}"
    row = {"clip_id": clip, "origin": "synthetic", "recipe_id": "r", "status": "ok"}
    dataset.append("captions", [row | {"caption_id": "1", "media_sha256": "before"}])
    assert clip in stale(dataset, "r")["clip_id"].to_pylist()


def test_a_failed_caption_is_no_caption(fresh_corpus):
    dataset, clip = fresh_corpus.dataset, f"clip-{fresh_corpus.uncaptioned[0]}"
    [sha] = stale(dataset, "r", [clip])["media_sha256"].to_pylist()
    row = {"clip_id": clip, "origin": "synthetic", "recipe_id": "r", "media_sha256": sha}
    dataset.append("captions", [row | {"caption_id": "1", "status": "refused"}])
    assert len(stale(dataset, "r", [clip])) == 1
    dataset.append("captions", [row | {"caption_id": "2", "status": "ok"}])
    assert len(stale(dataset, "r", [clip])) == 0


@pytest.mark.usefixtures("ray_local")
def test_a_run_with_too_many_failures_is_refused_and_leaves_the_reasons(fresh_corpus, settings):
    mute = settings.model_copy(update={"max_new_tokens": 2})
    with pytest.raises(DataError, match=r"captioning\.max_failed_share"):
        caption_clips(fresh_corpus.root, None, mute, "run-1")
    assert {row["status"] for row in synthetic(fresh_corpus)} == {"truncated"}


@pytest.mark.usefixtures("ray_local")
def test_a_lost_shard_becomes_an_error_row(fresh_corpus, settings):
    dataset = fresh_corpus.dataset
    lost = {"clip_id": "lost", "media_sha256": "0", "media_file": "media/gone.parquet"}
    place = {"media_row": 0, "media_offset": 0, "media_length": 4, "media_crc32c": 0}
    dataset.append("clips", [lost | place])
    assert caption_clips(dataset.root, None, settings, "run-1").by_status == {"ok": 6, "error": 1}
    [row] = [row for row in synthetic(fresh_corpus) if row["clip_id"] == "lost"]
    assert "gone.parquet" in row["error"]


@pytest.mark.usefixtures("ray_local")
def test_a_model_that_is_not_there_is_refused_before_workers_start(fresh_corpus, settings):
    with pytest.raises(ConfigError, match=r"captioning\.model"):
        caption_clips(
            fresh_corpus.root, None, settings.model_copy(update={"model": "no/such"}), "r"
        )
    assert fresh_corpus.dataset.version("recipes") == -1
