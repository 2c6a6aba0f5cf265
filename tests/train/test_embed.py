"""The embed stage on real tables, a real tiny T5 and local Ray."""

import pathlib

import pyarrow.compute as pc
import pytest
import torch

from infra.errors import ConfigError, DataError
from infra.store.dataset import Dataset
from infra.store.texts import text_hash
from train.embed import embed_captions
from train.text import TextEncoder, build_tiny_t5, encoder_id, unpack
from train.text_config import TextSettings

TEXTS = ["a red circle moves left", "a blue square rests", "a green triangle moves up slowly"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    build_tiny_t5(folder, TEXTS, width=32)
    return TextSettings(model=str(folder), batch=2)


@pytest.fixture
def root(tmp_path):
    return Dataset.open(str(tmp_path / "dataset"), create=True).root


@pytest.mark.usefixtures("ray_local")
def test_each_text_is_embedded_once_as_the_encoder_says(settings, root):
    assert embed_captions(root, [*TEXTS, TEXTS[0]], settings, "run-1") == 3
    rows = Dataset.open(root).read("embeddings", where=pc.field("text_hash") == text_hash(TEXTS[1]))
    [row] = rows.to_pylist()
    stored = unpack(row["values"], row["num_tokens"], row["width"])
    [fresh] = TextEncoder(settings).encode([TEXTS[1]])
    torch.testing.assert_close(stored, fresh, rtol=0.02, atol=0.02)
    assert (row["encoder_id"], row["run_id"]) == (encoder_id(settings), "run-1")


@pytest.mark.usefixtures("ray_local")
def test_only_what_is_missing_is_embedded(settings, root):
    assert embed_captions(root, TEXTS[:2], settings, "run-1") == 2
    assert embed_captions(root, TEXTS, settings, "run-2") == 1
    assert embed_captions(root, TEXTS, settings, "run-3") == 0
    assert len(Dataset.open(root).read("embeddings")) == 3


@pytest.mark.usefixtures("ray_local")
def test_another_encoder_embeds_anew(settings, root, tmp_path):
    embed_captions(root, TEXTS, settings, "run-1")
    build_tiny_t5(tmp_path / "t5", TEXTS, width=32, seed=1)
    other = settings.model_copy(update={"model": str(tmp_path / "t5")})
    assert embed_captions(root, TEXTS, other, "run-2") == 3


@pytest.mark.usefixtures("ray_local")
def test_captions_that_are_cut_are_counted_in_one_line(settings, root, caplog):
    short = settings.model_copy(update={"max_tokens": 6})
    assert embed_captions(root, TEXTS, short, "run-1") == 3
    [line] = [one.getMessage() for one in caplog.records if "longer than" in one.getMessage()]
    assert ": 1 of 3, cut at 6 tokens" in line


def test_an_encoder_that_is_not_there_is_refused_before_workers_start(root):
    with pytest.raises(ConfigError, match=r"text\.model"):
        embed_captions(root, TEXTS, TextSettings(model="no/such"), "run-1")


@pytest.mark.usefixtures("ray_local")
def test_a_table_that_cannot_be_written_is_named(settings, root):
    (pathlib.Path(root) / "embeddings").write_bytes(b"a file where the table should lie")
    with pytest.raises(DataError, match="embeddings"):
        embed_captions(root, TEXTS, settings, "run-1")
