"""Training the small captioner: it ends the same however often it is interrupted."""

import pytest
import safetensors.torch
import torch

from captioning import examples, local, small
from infra import storage
from infra.errors import DataError


def weights(folder):
    return safetensors.torch.load_file(f"{folder}/model.safetensors")


@pytest.fixture
def short(tiny):
    return tiny.model_copy(update={"steps": 12, "save_every": 5, "report_every": 4})


class _KilledError(Exception):
    """Stands for a kill in the middle of training."""


def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one(
    corpus, short, tmp_path, monkeypatch
):
    local.train_local(corpus.root, corpus.clips, short, str(tmp_path / "whole"))

    def die_after_saving(step, *rest):
        if step > 5:
            raise _KilledError

    monkeypatch.setattr(local, "_report", die_after_saving)
    with pytest.raises(_KilledError):
        local.train_local(corpus.root, corpus.clips, short, str(tmp_path / "broken"))
    monkeypatch.undo()
    assert [i.uri for i in storage.list_files(str(tmp_path / "broken"))] != []
    local.train_local(corpus.root, corpus.clips, short, str(tmp_path / "broken"))
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_finished_training_leaves_no_state_behind(captioner):
    assert not [i.uri for i in storage.list_files(captioner) if "unfinished" in i.uri]


def test_a_state_of_other_settings_is_not_used(corpus, tiny):
    images = small.build_image_processor(tiny)
    found = examples.load_examples(corpus.dataset, corpus.clips, tiny, images)
    other = tiny.model_copy(update={"lr": 1e-3})
    threads = tiny.model_copy(update={"num_threads": 2})
    assert local._identity(found, tiny) != local._identity(found, other)
    assert local._identity(found, tiny) == local._identity(found, threads)


def test_only_clips_with_a_human_caption_are_learned_from(corpus, tiny):
    images = small.build_image_processor(tiny)
    found = examples.load_examples(corpus.dataset, corpus.clips, tiny, images)
    assert sorted(found.clip_ids) == sorted(f"clip-{index}" for index in corpus.captioned)
    assert found.frames.shape == (48, 8, 3, 16, 16)
    fewer = examples.load_examples(corpus.dataset, corpus.clips[:30], tiny, images)
    assert fewer.clip_ids == [clip for clip in found.clip_ids if clip in corpus.clips[:30]]


def test_too_few_captions_are_refused_with_a_way_out(corpus, tiny, tmp_path):
    with pytest.raises(DataError, match=r"captioner\.min_clips"):
        local.train_local(corpus.root, corpus.clips[:12], tiny, str(tmp_path))


def test_a_varied_view_keeps_the_order_of_time():
    """A ramp of brightness over time stays a ramp."""
    ramp = torch.arange(0, 240, 15, dtype=torch.uint8).view(1, 16, 1, 1, 1).expand(4, 16, 3, 8, 8)
    view = examples.varied(ramp, 8, torch.Generator().manual_seed(0))
    assert view.shape == (4, 8, 3, 8, 8)
    assert (view.mean(dim=(2, 3, 4)).diff(dim=1) > 0).all()


def test_the_vocabulary_is_the_words_of_the_captions():
    tokenizer = small.build_tokenizer(["a red circle", "a blue circle"])
    ids = tokenizer(["a blue circle"])["input_ids"][0]
    assert len(tokenizer) == 4 + 4
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a blue circle"
    assert ids[-1] == small.END
