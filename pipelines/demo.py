"""The demo: the embedded settings, the held-out prompts, and where to look at the end."""

import random
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
    again = f"--name {config.name} --output {config.output}"
    lines = [
        "",
        f"report      {report}",
        f"numbers     {storage.join(runtime.workspace, 'report.json')}",
        f"MLflow      mlflow ui --backend-store-uri {config.mlflow_uri}",
        "            then open http://127.0.0.1:5000",
        f"serve       snapvideo serve {again}",
        f"            then open http://127.0.0.1:{config.serve.port}/docs;",
        "Ray         http://127.0.0.1:8265 while a run or a server is up;",
        "            it asks for the token that `ray get-auth-token` prints",
        "",
    ]
    sys.stdout.write("\n".join(lines))
