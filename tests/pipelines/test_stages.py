"""What a stage reads of a dataset that earlier runs have filled."""

import pytest

from infra.store.choose import chosen_clips
from infra.store.dataset import Dataset
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.stages.ingest import chosen

INGESTED = {"source_root": "/videos", "transform_id": "now"}


@pytest.fixture
def runtime(tmp_path):
    made = Runtime(str(tmp_path), RunConfig(), "test")
    made.started["ingest"] = made.started["filter"] = 0.0
    return made


def test_a_task_reads_the_clips_of_its_own_sources_and_cut_alone(runtime):
    clips = {
        "mine": ("a", "now"),
        "cut otherwise": ("a", "before"),
        "source gone": ("b", "now"),
        "another shelf": ("c", "now"),
        "another source": ("d", "now"),
    }
    dataset = Dataset.open(runtime.dataset, create=True)
    dataset.append(
        "clips",
        [
            {"clip_id": name, "kind": "image", "source_id": source, "transform_id": cut}
            for name, (source, cut) in clips.items()
        ],
    )
    dataset.append(
        "sources", [row("a"), row("b"), row("c", partition="box"), row("d", root="/elsewhere")]
    )
    dataset.append("sources", [row("b", status="vanished")])
    runtime.commit(Task("ingest", "shelf", "key", {}, {}, False, ""), INGESTED)
    task = Task("caption", "shelf", "k", {}, {"ingest/shelf": "key", "source": "1"}, False, "")
    with chosen_clips(dataset, chosen(runtime, task), columns=["clip_id"]) as rows:
        assert rows.read_all()["clip_id"].to_pylist() == ["mine"]


def row(source_id, root="/videos", partition="shelf", status="ok"):
    return {
        "source_uri": f"{root}/{source_id}.mp4",
        "source_root": root,
        "partition": partition,
        "source_id": source_id,
        "status": status,
        "transform_id": "now",
    }


def test_a_task_of_the_whole_flow_reads_every_partition_that_counts(runtime):
    for name in ("one", "two"):
        runtime.commit(Task("ingest", name, name, {}, {}, False, ""), INGESTED)
    limits = {
        "bounds": [{"scorer": "motion", "version": "1", "least": 0.1}],
        "duplicate_versions": ["v"],
    }
    runtime.commit(Task("filter", "all", "f", {}, {}, False, ""), limits)
    inputs = {"ingest/one": "one", "ingest/two": "two", "filter/all": "f"}
    found = chosen(runtime, Task("release", "all", "k", {}, inputs, False, ""))
    assert (found.partitions, found.duplicate_versions) == ((), ("v",))
    assert (found.bounds[0].least, found.bounds[0].most) == (0.1, float("inf"))
