"""Text: build a tiny encoder where none is named, and embed every caption once."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra import storage
from infra.store.choose import selected_sql
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.selection import Selection
from pipelines.config import LOCAL, RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.stages.ingest import chosen
from train.text_config import TextSettings

_MAX_TEXTS = 200_000  # whose words a tiny encoder knows

log = logging.getLogger(__name__)

NEUTRAL = tuple(
    f"text.{name}"
    for name in ("batch", "device", "gpus_per_worker", "num_workers", "texts_per_commit")
)


def build_encoder(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Name the text encoder: the configured one, or a tiny one over the corpus's own words."""
    from train.text import build_tiny_t5

    (task,) = tasks
    if config.text.model != LOCAL:
        runtime.commit(task, {"model": config.text.model})
        return
    with tempfile.TemporaryDirectory() as scratch:
        texts = _human_captions(Dataset.open(runtime.dataset), chosen(runtime, task))
        build_tiny_t5(Path(scratch), texts, width=config.text_width, seed=config.seed)
        storage.upload_folder(Path(scratch), storage.join(runtime.folder(task), "t5"))
    log.info("built a tiny text encoder captions=%d width=%d", len(texts), config.text_width)
    runtime.commit(task, {"model": storage.join(runtime.folder(task), "t5")})


def embed(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Write the embedding of every caption text that has none from this encoder."""
    from train.embed import embed_captions

    (task,) = tasks
    settings = text_settings(config, runtime, task)
    dataset, clips = Dataset.open(runtime.dataset), chosen(runtime, task)
    counts = embed_captions(runtime.dataset, _ok_texts(dataset, clips), settings, run_id=task.key)
    runtime.commit(task, {"num_embedded": counts})


def text_settings(config: RunConfig, runtime: Runtime, task: Task) -> TextSettings:
    """Return the text settings with the model that the encoder stage named."""
    (encoder,) = runtime.inputs(task, "encoder")
    return config.text.model_copy(update={"model": encoder.outputs["model"]})


def _human_captions(dataset: Dataset, clips: Selection) -> list[str]:
    """Return some of the distinct texts that people wrote about the clips, sorted."""
    taken, values = selected_sql(clips)
    sql = (
        f"SELECT DISTINCT text FROM captions WHERE origin = 'human' AND status = 'ok' "
        f"AND clip_id IN (SELECT clip_id FROM ({taken})) ORDER BY hash(text), text LIMIT ?"
    )
    with query(dataset, sql, parameters=[*values, _MAX_TEXTS]) as rows:
        return sorted(str(text) for text in rows.read_all()["text"].to_pylist())


def _ok_texts(dataset: Dataset, clips: Selection) -> Iterator[str]:
    """Yield the distinct texts that are usable of the clips."""
    taken, values = selected_sql(clips)
    sql = (
        "SELECT DISTINCT text FROM captions WHERE status = 'ok' AND text IS NOT NULL "
        f"AND clip_id IN (SELECT clip_id FROM ({taken}))"
    )
    with query(dataset, sql, parameters=values) as rows:
        for batch in rows:
            yield from map(str, batch["text"].to_pylist())
