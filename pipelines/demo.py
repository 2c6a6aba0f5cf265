"""The demo: the embedded settings, the held-out prompts, and where to look at the end."""

import random
import shlex
import shutil
import sys
from pathlib import Path

from infra import storage
from pipelines.config import RunConfig
from pipelines.runtime import Runtime
from train.metrics.attributes import caption, combinations

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
NUM_PROMPTS = 48


def on_corpus(config: RunConfig, runtime: Runtime) -> RunConfig:
    """Return the settings with the rendered corpus as source and held-out prompts to sample."""
    facts = runtime.manifest("corpus").outputs
    samples = config.samples.model_copy(update={"prompts": held_out_prompts(config.seed)})
    return config.model_copy(
        update={"source": facts["source_uri"], "truth": facts["truth_uri"], "samples": samples}
    )


def held_out_prompts(seed: int, number: int = NUM_PROMPTS) -> tuple[str, ...]:
    """Return prompts for combinations of attributes that the corpus never shows."""
    texts = [caption(one) for one in combinations(held_out=True)]
    return tuple(random.Random(seed).sample(sorted(texts), number))


def say_where(config: RunConfig, runtime: Runtime) -> None:
    """Write the last lines of a run: what to open, and how."""
    report = storage.join(runtime.workspace, "report.html")
    lines = [
        "",
        f"report      {report}",
        f"numbers     {storage.join(runtime.workspace, 'report.json')}",
        f"MLflow      {_program('mlflow')} ui --backend-store-uri {shlex.quote(config.mlflow_uri)}",
        "            then open http://127.0.0.1:5000",
        f"serve       {_program('snapvideo')} serve {config.flags}",
        f"            then open http://127.0.0.1:{config.serve.port}/docs;",
        "Ray         while a run or a server is up, at the address that its first line logs;",
        f"            it asks for the token that `{_program('ray')} get-auth-token` prints",
        "",
    ]
    sys.stdout.write("\n".join(lines))


def _program(name: str) -> str:
    """Return how this shell finds a program of the environment: by its name, or by its path."""
    if shutil.which(name):
        return name
    path, here = Path(sys.executable).with_name(name), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
