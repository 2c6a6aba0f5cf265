"""The text encoder on a tiny T5 that is built, saved and loaded for real."""

import pytest
import torch

from infra.errors import ConfigError
from train.text import TextEncoder, build_tiny_t5, encoder_id, pack, unpack
from train.text_config import TextSettings

CAPTIONS = [
    "a red circle moves left over a plain blue background",
    "a blue circle moves right over a plain red background",
    "a large green square stands still over a plain charcoal background",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("t5")
    build_tiny_t5(path, CAPTIONS, width=64, seed=0)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder(TextSettings(model=str(folder)))


def test_a_known_caption_costs_one_token_a_word_and_the_end(encoder):
    [embedding] = encoder.encode([CAPTIONS[0]])
    assert embedding.shape == (len(CAPTIONS[0].split()) + 1, 64)
    assert embedding.dtype == torch.bfloat16


def test_the_empty_text_is_one_token(encoder):
    assert encoder.encode([""])[0].shape == (1, 64)


def test_an_unknown_word_is_spelled_in_bytes_and_not_lost(encoder):
    new, other = encoder.encode(["a ζ circle", "a ξ circle"])
    assert len(new) > 4
    assert not torch.equal(new, other)


def test_long_texts_are_cut_to_the_limit(folder):
    encoder = TextEncoder(TextSettings(model=str(folder), max_tokens=5))
    assert len(encoder.encode([CAPTIONS[0]])[0]) == 5


def test_tokens_are_counted_beyond_the_limit(folder):
    encoder = TextEncoder(TextSettings(model=str(folder), max_tokens=5))
    assert encoder.num_tokens(CAPTIONS[0]) == len(CAPTIONS[0].split()) + 1


def test_a_cut_text_is_said_once_with_what_was_cut_off(folder, caplog):
    encoder = TextEncoder(TextSettings(model=str(folder), max_tokens=5))
    for _ in range(2):
        encoder.encode([CAPTIONS[0]])
    [line] = [record.getMessage() for record in caplog.records]
    assert "reads 5 of the 11 tokens" in line
    assert "cut off: ' left over a plain blue background'" in line


def test_a_text_that_just_fits_is_not_called_cut(folder, caplog):
    encoder = TextEncoder(TextSettings(model=str(folder), max_tokens=5))
    encoder.encode(["a red circle moves"])
    assert not caplog.records


def test_distinct_words_have_distinct_embeddings(encoder):
    words = ["red", "blue", "green", "left", "right", "circle", "square"]
    states = torch.stack([encoder.encode([word])[0][0].float() for word in words])
    cosine = torch.nn.functional.cosine_similarity(states[:, None], states[None], dim=-1)
    assert (cosine - torch.eye(len(words))).max() < 0.8


def test_a_word_knows_its_place(encoder):
    """Which colour is the circle's must be readable from the states, not only the word set."""
    red_circle, blue_circle = encoder.encode(["red circle over blue", "blue circle over red"])
    circle, other = red_circle[1].float(), blue_circle[1].float()
    assert torch.nn.functional.cosine_similarity(circle, other, dim=0) < 0.95


def test_batching_does_not_change_an_embedding(encoder):
    together = encoder.encode(CAPTIONS)
    for text, embedding in zip(CAPTIONS, together, strict=True):
        torch.testing.assert_close(encoder.encode([text])[0], embedding, rtol=0.02, atol=0.02)


def test_the_same_seed_builds_the_same_encoder(folder, tmp_path):
    build_tiny_t5(tmp_path / "again", CAPTIONS, width=64, seed=0)
    build_tiny_t5(tmp_path / "other", CAPTIONS, width=64, seed=1)
    ids = [encoder_id(TextSettings(model=str(p))) for p in (folder, tmp_path / "again")]
    assert ids[0] == ids[1]
    assert encoder_id(TextSettings(model=str(tmp_path / "other"))) != ids[0]


def test_the_id_of_a_hub_model_is_its_commit():
    settings = TextSettings(model="google-t5/t5-11b", revision="abc")
    assert encoder_id(settings) == "google-t5/t5-11b@abc/128/float32"


def test_packed_embeddings_come_back_equal(encoder):
    [embedding] = encoder.encode([CAPTIONS[1]])
    values = pack(embedding)
    assert len(values) == embedding.numel() * 2
    assert torch.equal(unpack(values, *embedding.shape), embedding)


def test_a_folder_without_a_model_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"text\.model"):
        TextEncoder(TextSettings(model=str(tmp_path)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_asked_for_and_absent_is_refused_by_name(folder):
    with pytest.raises(ConfigError, match=r"text\.device"):
        TextEncoder(TextSettings(model=str(folder), device="cuda"))
