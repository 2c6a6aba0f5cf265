"""Embed texts once: an anti-join, then the text encoder -> the embeddings table on Ray Data.

Embeddings are keyed by (text hash, encoder id), so the same caption on two clips is embedded
once, and a changed encoder leaves the old rows alone. Texts are committed block by block: a
killed run repeats at most one block, a repeated run writes nothing twice.

    embed_captions("s3://bucket/corpus", texts, TextSettings(), run_id="2026-11-20")
"""

import contextlib
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from infra.errors import DataError, SnapvideoError
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.texts import text_hash
from train.text import TextEncoder, check_encoder, encoder_id, pack
from train.text_config import TextSettings

log = logging.getLogger(__name__)

_BLOCK = 10_000

Batch = dict[str, np.ndarray[Any, Any]]


class Embedder:
    """A text encoder as a Ray Data actor: texts in, rows of the embeddings table out.

    A row also says whether its text was `cut`, which the table does not keep.
    """

    def __init__(self, settings: TextSettings, name: str, run_id: str) -> None:
        """Load the encoder whose id is `name`."""
        self._encoder = TextEncoder(settings)
        self._constant = {"encoder_id": name, "run_id": run_id}

    def __call__(self, batch: Batch) -> Batch:
        """Return one row per text, its embedding as bfloat16 bytes."""
        texts = [str(text) for text in batch["text"]]
        embeddings = self._encoder.states(texts)
        cut = set(self._encoder.cut(texts, embeddings))
        constant = {name: np.full(len(embeddings), value) for name, value in self._constant.items()}
        return constant | {
            "text_hash": batch["text_hash"],
            "num_tokens": np.array([len(one) for one in embeddings]),
            "width": np.array([one.shape[1] for one in embeddings]),
            "values": np.array([pack(one) for one in embeddings], dtype=object),
            "cut": np.array([text in cut for text in texts]),
        }


def embed_captions(
    dataset_root: str,
    texts: Iterable[str],
    settings: TextSettings,
    run_id: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the embedding of every text that has none from this encoder; return how many.

    Args:
        dataset_root: Of an existing dataset.
        texts: Captions; repeats count once.
        settings: The encoder, and how to run it.
        run_id: Written into each row.
        on_progress: Called with (texts done, texts in all) after each commit.

    Raises:
        ConfigError: The encoder cannot be loaded.
        DataError: The table cannot be written.
    """
    started_s = time.monotonic()
    dataset, name = Dataset.open(dataset_root), encoder_id(settings)
    done = cut = 0
    with _missing(dataset, texts, name) as missing:
        num_texts = missing.metadata.num_rows
        if num_texts:
            check_encoder(settings)
            for commit in _committed(missing, dataset, settings, name, run_id).iter_rows():
                if commit["fault"]:
                    raise DataError(commit["fault"])
                done += commit["num_texts"]
                cut += commit["num_cut"]
                log.info("embedded texts=%d of=%d", done, num_texts)
                if on_progress:
                    on_progress(done, num_texts)
    if cut:
        log.warning(
            "captions longer than the text encoder reads: %d of %d, cut at %d tokens "
            "(text.max_tokens)", cut, done, settings.max_tokens,
        )  # fmt: skip
    log.info("embedded texts=%d encoder=%s seconds=%.1f", done, name, time.monotonic() - started_s)
    return done


@contextlib.contextmanager
def _missing(dataset: Dataset, texts: Iterable[str], name: str) -> Iterator[pq.ParquetFile]:
    """Give a file of the texts that have no embedding, each once, sorted by hash."""
    schema = pa.schema({"text_hash": pa.string(), "text": pa.string()})
    sql = (
        "SELECT text_hash, min(text) AS text FROM given ANTI JOIN "
        "(SELECT text_hash FROM embeddings WHERE encoder_id = ?) AS held USING (text_hash) "
        "GROUP BY text_hash ORDER BY text_hash"
    )
    with tempfile.TemporaryDirectory() as scratch:
        given, wanted = (Path(scratch, f"{part}.parquet") for part in ("given", "wanted"))
        with pq.ParquetWriter(given, schema) as sink:
            source = iter(texts)
            while block := list(itertools.islice(source, _BLOCK)):
                sink.write_table(pa.table([list(map(text_hash, block)), block], schema=schema))
        with (
            query(dataset, sql, relations={"given": given}, parameters=[name]) as rows,
            pq.ParquetWriter(wanted, schema) as sink,
        ):
            for batch in rows:
                sink.write_batch(batch)
        with pq.ParquetFile(wanted) as file:
            yield file


def _committed(
    missing: pq.ParquetFile, dataset: Dataset, settings: TextSettings, name: str, run_id: str
) -> ray.data.Dataset:
    """Turn texts into committed embeddings; what comes out are counts."""
    blocks = missing.iter_batches(settings.texts_per_commit)
    refs: list[Any] = [ray.put(pa.Table.from_batches([block])) for block in blocks]
    texts = ray.data.from_arrow_refs(refs)
    embedded = texts.map_batches(
        Embedder,
        fn_constructor_args=(settings, name, run_id),
        batch_size=settings.batch,
        compute=ray.data.ActorPoolStrategy(size=settings.num_workers),
        num_gpus=settings.gpus_per_worker,
    )
    return embedded.map_batches(  # one committer, so that commits do not race
        partial(_commit, dataset=dataset),
        batch_size=settings.texts_per_commit,
        batch_format="pyarrow",
        compute=ray.data.TaskPoolStrategy(size=1),
    )


def _commit(batch: Any, dataset: Dataset) -> Batch:  # noqa: ANN401 - an Arrow table, which Ray types as Any
    """Append a block of embeddings in one commit; return how many, or what was in the way."""
    fault, rows = "", batch.to_pylist()
    num_cut = sum(row.pop("cut") for row in rows)
    try:
        dataset.append_new("embeddings", rows, key=("text_hash", "encoder_id"))
    except SnapvideoError as error:
        fault = str(error)
    counts = {"num_texts": np.array([len(rows)]), "num_cut": np.array([num_cut])}
    return counts | {"fault": np.array([fault])}
