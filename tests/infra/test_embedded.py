"""Text embeddings of a release, copied once a node and mapped by every process."""

import pickle

import numpy as np
import pytest

from infra.errors import DataError
from infra.store import embedded, index, release
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from infra.store.texts import text_hash

TEXTS = ["a red square", "a blue square", "a still"]


def row(text, tokens, encoder="e", first=0):
    bits = np.arange(first, first + tokens * 3, dtype="<u2")
    return {
        "text_hash": text_hash(text), "encoder_id": encoder, "num_tokens": tokens, "width": 3,
        "values": bits.tobytes(),
    }  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """A release of four clips with three texts."""
    dataset = Dataset.open(str(tmp_path / "d"), create=True)
    names = "abcd"
    dataset.append("clips", [{"clip_id": n, "kind": "image"} for n in names])
    dataset.append("captions", [
        {"clip_id": n, "text": TEXTS[i % 3], "origin": "human", "status": "ok"}
        for i, n in enumerate(names)
    ])  # fmt: skip
    return release.create(dataset, "r", Selection())


def opened(made, folder):
    return embedded.opened(made, index.opened(made, folder), "e", folder)


def test_embeddings_come_back_as_their_bits(made, tmp_path):
    dataset = Dataset(made.root)
    dataset.append("embeddings", [row(TEXTS[0], 2), row("of no clip", 9), row(TEXTS[2], 5, "f")])
    dataset.append("embeddings", [row(TEXTS[1], 4, first=50), row(TEXTS[2], 1, first=90)])
    found = opened(made, tmp_path)
    assert found[text_hash(TEXTS[0])].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found[text_hash(TEXTS[1])].tolist() == np.arange(50, 62).reshape(4, 3).tolist()
    assert found[text_hash(TEXTS[2])].tolist() == [[90, 91, 92]]
    assert (found.width, found.max_tokens) == (3, 4)


def test_texts_that_are_not_embedded_are_counted_and_nothing_is_left(made, tmp_path):
    Dataset(made.root).append("embeddings", [row(TEXTS[0], 2), row(TEXTS[1], 2)])
    with pytest.raises(DataError, match="1 of 3 texts are not embedded by encoder e"):
        opened(made, tmp_path)
    Dataset(made.root).append("embeddings", [row(TEXTS[2], 2)])
    assert opened(made, tmp_path).max_tokens == 2
    assert not list((tmp_path / "embeddings").glob("*.tmp"))


def test_what_a_killed_process_left_is_cleared_away(made, tmp_path):
    Dataset(made.root).append("embeddings", [row(text, 2) for text in TEXTS])
    folder = opened(made, tmp_path).folder
    folder.rename(folder.with_suffix(".tmp"))
    assert opened(made, tmp_path).max_tokens == 2
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_a_text_that_was_embedded_twice_counts_once(made, tmp_path):
    Dataset(made.root).append("embeddings", [row(text, 2) for text in (*TEXTS, *TEXTS)])
    assert opened(made, tmp_path).width == 3


def test_it_is_copied_once_and_travels_as_its_folder(made, tmp_path):
    Dataset(made.root).append("embeddings", [row(text, 2) for text in TEXTS])
    first = opened(made, tmp_path)
    before = (first.folder / "values").stat().st_mtime_ns
    second = opened(made, tmp_path)
    assert (second.folder / "values").stat().st_mtime_ns == before
    sent = pickle.dumps(second)
    assert len(sent) < 500
    assert pickle.loads(sent)[text_hash(TEXTS[1])].shape == (2, 3)


def test_a_damaged_copy_is_named(made, tmp_path):
    Dataset(made.root).append("embeddings", [row(text, 2) for text in TEXTS])
    (opened(made, tmp_path).folder / "values").unlink()
    with pytest.raises(DataError, match="delete the folder"):
        opened(made, tmp_path)


def test_a_text_that_is_not_there_is_not_another_one(tmp_path):
    np.array(["a" * 64, "c" * 64], "S64").tofile(tmp_path / "keys")
    np.array([[0, 1], [2, 1]], np.int64).tofile(tmp_path / "spans")
    np.arange(4, dtype="<u2").tofile(tmp_path / "values")
    texts = embedded.Embedded(tmp_path)
    assert texts["c" * 64].tolist() == [[2, 3]]
    for unknown in ("b" * 64, "d" * 64):
        with pytest.raises(AssertionError, match="not one of the release's"):
            texts[unknown]
