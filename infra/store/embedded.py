"""Text embeddings of a release as files that every process of a node maps into memory.

The table holds the embeddings of all texts and encoders; a release needs some of them, at random
and in every process. They are copied once a node into a folder of the cache:

    keys      hashes of the release's texts, sorted, 64 letters each
    spans     int64 [texts, 2]: where a text's numbers begin in `values`, and its number of tokens
    values    bfloat16, little-endian

    texts = opened(release, index, encoder_id, cache_folder)
    texts[text_hash]                      # [tokens, width] of bfloat16 bit patterns
"""

import hashlib
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from infra.errors import DataError
from infra.store.cache import locked
from infra.store.dataset import Dataset
from infra.store.index import Index
from infra.store.query import query
from infra.store.release import Release

log = logging.getLogger(__name__)

Bits = npt.NDArray[np.uint16]

_HASH = "S64"


@dataclass
class Embedded:
    """The embeddings of a release's texts; pickles as its folder."""

    folder: Path
    _keys: npt.NDArray[np.bytes_] = field(init=False, repr=False)
    _spans: npt.NDArray[np.int64] = field(init=False, repr=False)
    _values: Bits = field(init=False, repr=False)
    width: int = field(init=False)
    """Numbers per token."""
    max_tokens: int = field(init=False)
    """Tokens of the longest text."""

    def __post_init__(self) -> None:
        try:
            self._keys = np.memmap(self.folder / "keys", _HASH, mode="r")
            self._spans = np.memmap(self.folder / "spans", np.int64, mode="r").reshape(-1, 2)
            self._values = np.memmap(self.folder / "values", "<u2", mode="r")
        except (OSError, ValueError) as fault:
            raise DataError(
                f"{self.folder}: cannot be read as embeddings ({fault}); delete the folder, it is "
                "made again"
            ) from fault
        tokens = self._spans[:, 1]
        self.width, self.max_tokens = len(self._values) // int(tokens.sum()), int(tokens.max())

    def __reduce__(self) -> tuple[type["Embedded"], tuple[Path]]:
        return type(self), (self.folder,)

    def __getitem__(self, text_hash: str) -> Bits:
        """Return the bit patterns of one text [tokens, width].

        In torch: `torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)`.
        """
        place = int(np.searchsorted(self._keys, np.bytes_(text_hash)))
        held = place < len(self._keys) and self._keys[place] == text_hash.encode()
        assert held, f"text {text_hash} is not one of the release's"
        begin, tokens = self._spans[place].tolist()
        return np.array(self._values[begin : begin + tokens * self.width]).reshape(tokens, -1)


def opened(release: Release, index: Index, encoder_id: str, cache_folder: Path) -> Embedded:
    """Return the embeddings of a release's texts by one encoder, copied now where needed.

    Embeddings are a cache keyed by content whose rows never change, so the newest version is read,
    also if they were made after the release.

    Raises:
        DataError: A text of the release is not embedded by this encoder, or the disk is full.
    """
    name = hashlib.sha256(f"{release.digest}/{encoder_id}".encode()).hexdigest()[:24]
    folder = cache_folder / "embeddings" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            _make(release, index, encoder_id, folder)
    return Embedded(folder)


def _make(release: Release, index: Index, encoder_id: str, folder: Path) -> None:
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed; the lock is ours
    try:
        temporary.mkdir()
        num_texts = _write_keys(Dataset(release.root), index, temporary / "keys")
        missing = num_texts - _write_values(Dataset(release.root), encoder_id, temporary)
        if missing:
            raise DataError(
                f"release {release.name}: {missing} of {num_texts} texts are not embedded by "
                f"encoder {encoder_id}; run `snapvideo caption`, which embeds"
            )
        temporary.rename(folder)
    except OSError as fault:
        raise DataError(
            f"{folder}: cannot be written ({fault}); free space, or name another folder "
            "(reader.disk_cache)"
        ) from fault
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("embeddings copied texts=%d folder=%s", num_texts, folder)


def _write_keys(dataset: Dataset, index: Index, path: Path) -> int:
    """Write the sorted hashes of a release's texts; return how many there are."""
    num_texts = 0
    sql = "SELECT DISTINCT text_hash FROM rows_of_release ORDER BY text_hash"
    relations = {"rows_of_release": index.table(["text_hash"])}
    with query(dataset, sql, relations=relations) as rows, path.open("wb") as sink:
        for batch in rows:
            sink.write(np.array(batch.column(0).to_pylist(), _HASH).tobytes())
            num_texts += len(batch)
    return num_texts


def _write_values(dataset: Dataset, encoder_id: str, folder: Path) -> int:
    """Copy the embeddings of the texts in `keys`; return how many were found."""
    keys = np.memmap(folder / "keys", _HASH, mode="r")
    spans = np.memmap(folder / "spans", np.int64, mode="w+", shape=(len(keys), 2))
    found = begin = 0
    columns = ["text_hash", "num_tokens", "width", "values"]
    where = pc.field("encoder_id") == encoder_id
    with (folder / "values").open("wb") as sink:
        for batch in dataset.batches("embeddings", columns=columns, where=where):
            places = np.searchsorted(keys, np.array(batch["text_hash"].to_pylist(), _HASH))
            for number, place in enumerate(places.tolist()):
                row = {name: batch[name][number].as_py() for name in columns[:3]}
                if place == len(keys) or keys[place] != row["text_hash"].encode():
                    continue
                if spans[place, 1]:
                    continue  # embedded twice, by writers that did not see each other
                sink.write(batch["values"][number].as_buffer())
                spans[place] = begin, row["num_tokens"]
                begin += row["num_tokens"] * row["width"]
                found += 1
    spans.flush()
    return found
