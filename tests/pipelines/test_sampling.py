"""What the samples of a run are made with."""

from infra.config import Settings
from pipelines.runtime import Runtime, Task
from pipelines.stages.sampling import own_models
from serve.config import ModelSettings


def test_a_run_is_sampled_with_its_own_versions_wherever_the_alias_points(tmp_path):
    runtime = Runtime(str(tmp_path), Settings(), "test")
    inputs = {}
    for stage, version in (("stage1", 4), ("stage2", 2)):
        runtime.started[stage] = 0.0
        task = Task(stage, "all", f"key-{stage}", {}, {}, False, "")
        runtime.commit(task, {"model": f"snapvideo-{stage}", "version": version})
        inputs[f"{stage}/all"] = task.key
    samples = Task("samples", "all", "key", {}, inputs, False, "")
    models = own_models(runtime, samples, ModelSettings(name="mine"))
    assert (models.stage1, models.stage2) == ("snapvideo-stage1@4", "snapvideo-stage2@2")
    assert models.name == "mine"
