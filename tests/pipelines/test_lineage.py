from collections.abc import Sequence

import pytest

from infra import storage
from infra.config import Settings
from infra.store import manifest as manifests
from pipelines import lineage
from pipelines.lineage import Stage
from pipelines.runtime import Runtime, Task


class Model(Settings):
    """Section."""

    name: str = "v1"
    workers: int = 1
    unrelated: int = 0


class Config(Settings):
    """Root."""

    model: Model = Model()
    source: str = ""


class Recorder:
    """Stages that note what they ran and saw."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail_at = ""

    def __call__(self, tasks: Sequence[Task], config: Config, runtime: Runtime) -> None:
        for task in tasks:
            if task.stage == self.fail_at:
                raise RuntimeError("killed")
            self.ran.append(f"{task.stage}/{task.partition}")
            storage.write_bytes(storage.join(runtime.folder(task), "out"), b"x")
            runtime.commit(task, {"model": config.model.name, "unrelated": config.model.unrelated})


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def flow(recorder):
    return [
        Stage("ingest", recorder, identity=("source",), partitioned=True),
        Stage(
            "caption",
            recorder,
            after=("ingest",),
            identity=("model.name", "model.workers"),
            neutral=("model.workers",),
            partitioned=True,
        ),
        Stage("train", recorder, after=("caption",)),
    ]


PARTS = {"a": "1", "b": "1"}


def go(flow, tmp_path, config=None, parts=PARTS):
    config = config or Config()
    runtime = Runtime(str(tmp_path), config, "test")
    tasks = lineage.plan(flow, config, parts, runtime.store)
    lineage.run(flow, tasks, config, runtime)
    return tasks


def test_a_second_run_does_nothing(flow, recorder, tmp_path):
    go(flow, tmp_path)
    assert recorder.ran == ["ingest/a", "ingest/b", "caption/a", "caption/b", "train/all"]
    recorder.ran.clear()
    go(flow, tmp_path)
    assert recorder.ran == []


def test_one_changed_partition_reruns_only_what_hangs_on_it(flow, recorder, tmp_path):
    go(flow, tmp_path)
    recorder.ran.clear()
    go(flow, tmp_path, parts={"a": "1", "b": "2"})
    assert recorder.ran == ["ingest/b", "caption/b", "train/all"]


def test_a_folder_may_have_the_name_that_stands_for_everything(flow, tmp_path):
    tasks = go(flow, tmp_path, parts={"a": "1", lineage.WHOLE: "1"})
    reads = {(task.stage, task.partition): set(task.inputs) for task in tasks}
    assert reads["caption", "a"] == {"ingest/a", "source"}
    assert reads["caption", lineage.WHOLE] == {f"ingest/{lineage.WHOLE}", "source"}


def test_a_changed_setting_is_explained_old_to_new(flow, recorder, tmp_path):
    go(flow, tmp_path)
    recorder.ran.clear()
    tasks = go(flow, tmp_path, Config(model=Model(name="v2")))
    assert recorder.ran == ["caption/a", "caption/b", "train/all"]
    why = {f"{task.stage}/{task.partition}": task.why for task in tasks}
    assert why["caption/a"] == "stale: model.name 'v1' -> 'v2'"
    assert why["ingest/a"] == "fresh"
    assert "new input from caption/a, caption/b" in why["train/all"]


def test_a_neutral_setting_reruns_nothing(flow, recorder, tmp_path):
    go(flow, tmp_path)
    recorder.ran.clear()
    go(flow, tmp_path, Config(model=Model(workers=8)))
    assert recorder.ran == []


def test_a_stage_sees_only_the_settings_it_declares(flow, tmp_path):
    tasks = go(flow, tmp_path, Config(model=Model(name="v3", unrelated=7)))
    caption = next(task for task in tasks if task.stage == "caption")
    store = str(tmp_path / "flow")
    done = manifests.load(store, "caption", "a", caption.key)
    assert done is not None
    assert done.outputs == {"model": "v3", "unrelated": 0}
    assert done.files == {"out": 1}


def test_a_killed_run_resumes_at_the_stage_that_died(flow, recorder, tmp_path):
    recorder.fail_at = "train"
    with pytest.raises(RuntimeError, match="killed"):
        go(flow, tmp_path)
    recorder.ran.clear()
    recorder.fail_at = ""
    go(flow, tmp_path)
    assert recorder.ran == ["train/all"]


def test_of_two_overlapping_attempts_one_counts(flow, recorder, tmp_path):
    config = Config()
    first, second = (Runtime(str(tmp_path), config, "test") for _ in range(2))
    task = lineage.plan(flow, config, PARTS, first.store)[0]
    first.started["ingest"] = second.started["ingest"] = 0.0
    first.commit(task, {"by": "first"})
    second.commit(task, {"by": "second"})
    done = manifests.load(first.store, task.stage, task.partition, task.key)
    assert done is not None
    assert done.outputs == {"by": "first"}


def test_a_stage_that_forgets_to_commit_is_caught(tmp_path):
    flow = [Stage("lazy", lambda tasks, config, runtime: None)]
    with pytest.raises(AssertionError, match="without finishing"):
        go(flow, tmp_path)
