"""What a stage reads of a dataset that earlier runs have filled."""

from infra.config import Settings
from infra.store.dataset import Dataset
from pipelines.runtime import Runtime, Task
from pipelines.stages.ingest import own_clips


def test_a_task_reads_the_clips_of_its_own_sources_and_cut_alone(tmp_path):
    runtime = Runtime(str(tmp_path), Settings(), "test")
    runtime.started["ingest"] = 0.0
    rows = [
        {"clip_id": "mine", "source_id": "a", "transform_id": "now"},
        {"clip_id": "cut otherwise", "source_id": "a", "transform_id": "before"},
        {"clip_id": "source gone", "source_id": "b", "transform_id": "now"},
    ]
    Dataset.open(runtime.dataset, create=True).append("clips", rows)
    done = Task("ingest", "shelf", "key", {}, {}, False, "")
    runtime.commit(done, {"source_ids": ["a"], "transform_id": "now"})
    caption = Task("caption", "shelf", "k", {}, {"ingest/shelf": "key", "source": "1"}, False, "")
    assert own_clips(runtime, caption) == ["mine"]
