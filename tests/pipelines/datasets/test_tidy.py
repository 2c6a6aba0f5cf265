"""Vacuum and compact as commands: nothing is deleted unless it is said."""

import os
import time

from infra import storage
from infra.store import release
from pipelines.datasets.tidy import compact, vacuum
from pipelines.datasets.verify import verify


def orphan(dataset):
    storage.write_bytes(dataset.uri("media", "0123.parquet"), b"left by a killed task")


def test_a_dry_run_tells_and_deletes_nothing(local):
    orphan(local)
    time.sleep(0.02)
    done = vacuum(local.root, older_than_h=0, apply=False)
    assert done.tree["num_files"] == {"media": 1}
    assert done.tree["size_bytes"] == {"media": len("left by a killed task")}
    assert "--apply" in done.text
    assert storage.exists(local.uri("media", "0123.parquet"))


def test_apply_deletes_what_the_dry_run_told(corpus):
    orphan(corpus)
    time.sleep(1.1)  # moto stamps whole seconds
    told = vacuum(corpus.root, older_than_h=0, apply=False).tree
    done = vacuum(corpus.root, older_than_h=0, apply=True).tree
    assert (done["num_files"], done["first"]) == (told["num_files"], told["first"])
    assert vacuum(corpus.root, older_than_h=0, apply=False).tree["num_files"] == {}
    assert verify(corpus.root, 2, quick=False).code == 0


def test_release_compact_vacuum_and_the_release_is_the_same(corpus):
    before = release.load(corpus.root, "first")
    for index in range(3):
        corpus.append("scores", [{"clip_id": "x", "scorer": f"{index}", "value": 0.0}])
    done = compact(corpus.root, (), 128).tree
    assert {one["table"]: one["num_files"] for one in done["tables"]}["scores"] == 1
    time.sleep(1.1)
    vacuum(corpus.root, older_than_h=0, apply=True)
    assert release.digest_of(release.load(corpus.root, "first")) == (before.digest, 8)


def test_a_day_is_the_default_so_that_an_ingest_loses_nothing(local):
    orphan(local)
    assert vacuum(local.root, older_than_h=24, apply=True).tree["num_files"] == {}
    path = storage.local_path(local.uri("media", "0123.parquet"))
    os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert vacuum(local.root, older_than_h=24, apply=True).tree["num_files"] == {"media": 1}
    assert not path.exists()
