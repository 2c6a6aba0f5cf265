"""What each sub-command does once its settings are parsed."""

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from infra import cluster, doctor, storage, tracking
from infra.config import from_yaml, to_yaml
from infra.errors import ConfigError
from infra.provenance import code_version
from pipelines import demo as demos
from pipelines import lineage
from pipelines.config import RunConfig
from pipelines.lineage import Stage
from pipelines.runlock import run_lock
from pipelines.runtime import Runtime, Task

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pipelines.prepare import Prepared

log = logging.getLogger(__name__)


def defaults(command: str) -> RunConfig:
    """Return the settings that hold where neither file nor flags speak."""
    return from_yaml(RunConfig, str(demos.CONFIG)) if command == "demo" else RunConfig()


def run(config: RunConfig, operands: Sequence[str]) -> int:
    """Do whatever is stale, up to the report."""
    _no_operands(operands)
    runtime = _flow(config, "report")
    if not config.refresh.dry_run:
        demos.say_where(config, runtime)
    return 0


def ingest(config: RunConfig, operands: Sequence[str]) -> int:
    """Do whatever is stale, up to ingest."""
    _no_operands(operands)
    _flow(config, "ingest")
    return 0


def caption(config: RunConfig, operands: Sequence[str]) -> int:
    """Do whatever is stale, up to the captions."""
    _no_operands(operands)
    _flow(config, "caption")
    return 0


def train(config: RunConfig, operands: Sequence[str]) -> int:
    """Do whatever is stale, up to the named training stage."""
    target = operands[0] if operands else "stage2"
    if target not in ("stage1", "stage2") or len(operands) > 1:
        raise ConfigError(f"train: expected stage1 or stage2, got {' '.join(operands)!r}")
    _flow(config, target)
    return 0


def demo(config: RunConfig, operands: Sequence[str]) -> int:
    """Render the corpus, then run everything on it."""
    _no_operands(operands)
    from pipelines import flow
    from pipelines.stages import training

    training.check_cascade(config)
    with _cluster(config):
        rendered = _run(config, flow.RENDER)
        config = demos.on_corpus(config, rendered)
        with _prepared(config) as found:
            runtime = _run(config, flow.STAGES, found, rendered.tasks)
    demos.say_where(config, runtime)
    return 0


def sample(config: RunConfig, operands: Sequence[str]) -> int:
    """Make one video per prompt and seed with a trained model, without a server."""
    from pipelines import offline

    for uri in offline.sample(config, operands):
        sys.stdout.write(f"{uri}\n")
        sys.stdout.flush()
    return 0


def serve(config: RunConfig, operands: Sequence[str]) -> int:
    """Answer the videos API until interrupted."""
    _no_operands(operands)
    from pipelines import serving

    with _cluster(config):
        serving.serve_until_interrupted(config)
    return 0


def dataset(config: RunConfig, operands: Sequence[str]) -> int:
    """Look at the run's dataset, or the one named; check it, pin it, tidy it, hand it on."""
    from pipelines.datasets import actions
    from pipelines.datasets.counting import counting

    action, *rest = operands or ["show"]
    root = config.dataset.root or storage.join(config.workspace, "dataset")
    selection = functools.partial(
        counting, root, config.scores, config.filter, config.refresh.partitions
    )
    beside = config.workspace if not config.dataset.root else "."
    asked = actions.Asked(root, config.dataset, tuple(rest), selection, beside)
    text, code = actions.run(asked, action)
    sys.stdout.write(text + "\n")
    return code


def model(config: RunConfig, operands: Sequence[str]) -> int:
    """List the presets, or say what one costs."""
    from pipelines import models

    sys.stdout.write(models.answer(config.describe, operands) + "\n")
    return 0


def examine(config: RunConfig, operands: Sequence[str]) -> int:
    """Say what this machine lacks; 1 if something that is needed is missing."""
    _no_operands(operands)
    findings = doctor.examine(
        ports={"serve.port": config.serve.port},
        uris={"output": config.output, "source": config.source},
        num_gpus=config.cluster.num_gpus,
    )
    sys.stdout.write(doctor.render(findings) + "\n")
    return int(any(finding.verdict == "missing" for finding in findings))


def _flow(config: RunConfig, target: str) -> Runtime:
    from pipelines import flow
    from pipelines.stages import training

    if not config.source:
        raise ConfigError("source: empty; say --source DIR or --source s3://bucket/prefix")
    stages = flow.until(target)
    if any(stage.name == "stage2" for stage in stages):
        training.check_cascade(config)
    with _prepared(config) as found:  # an empty folder is refused before anything starts
        if config.refresh.dry_run:
            return _foretell(config, stages, found)
        if all(task.fresh for task in _planned(config, stages, found).tasks):
            return _run(config, stages, found)  # says so, without a cluster
        trains = any(stage.name in ("stage1", "stage2") for stage in stages)
        with _cluster(config, tracks=trains):
            return _run(config, stages, found)


def _run(
    config: RunConfig,
    stages: list[Stage[RunConfig]],
    found: "Prepared | None" = None,
    before: Sequence[Task] = (),
) -> Runtime:
    """Plan and run a flow over the partitions of the source."""
    runtime = _planned(config, stages, found, before)
    storage.write_bytes(storage.join(config.workspace, "config.yaml"), to_yaml(config).encode())
    lineage.run(stages, runtime.tasks[len(before) :], config, runtime)
    return runtime


def _foretell(config: RunConfig, stages: list[Stage[RunConfig]], found: "Prepared") -> Runtime:
    """Say what a run would do."""
    from pipelines.sources.plan import describe

    runtime = _planned(config, stages, found)
    stale = [
        f"{task.stage} {task.partition}: {task.why}" for task in runtime.tasks if not task.fresh
    ]
    sys.stdout.write("\n".join([describe(found.plan), "", *(stale or ["nothing to do"]), ""]))
    return runtime


def _planned(
    config: RunConfig,
    stages: list[Stage[RunConfig]],
    found: "Prepared | None",
    before: Sequence[Task] = (),
) -> Runtime:
    runtime = Runtime(config.workspace, config, code_version(), {"prepared": found})
    digests = found.digests if found else {}
    runtime.tasks = [*before, *lineage.plan(stages, config, digests, runtime.store)]
    return runtime


def _prepared(config: RunConfig) -> "AbstractContextManager[Prepared]":
    """Give what the source holds and what is new there."""
    from pipelines.prepare import prepared

    root = storage.join(config.workspace, "dataset")
    return prepared(root, config.source, config.sources, config.ingest, config.refresh)


@contextlib.contextmanager
def _cluster(config: RunConfig, *, tracks: bool = True) -> Iterator[None]:
    """Hold the run's lock and a Ray cluster; `tracks`: what runs there needs MLflow."""
    with run_lock(config.workspace):
        if tracks:
            tracking.connect(config.tracking, config.workspace)  # a silent one is refused at once
        with cluster.running(config.cluster):
            yield


def _no_operands(operands: Sequence[str]) -> None:
    if operands:
        raise ConfigError(f"unexpected '{' '.join(operands)}'; settings are given as --section.key")
