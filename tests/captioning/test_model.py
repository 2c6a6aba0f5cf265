"""Captioners of both families, saved and loaded through from_pretrained."""

import shutil

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from captioning.config import CaptionSettings
from captioning.model import Captioner
from infra.errors import ConfigError

TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image> {% else %}{{ c.text + ' ' }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A tiny, untrained LLaVA with its processor."""
    folder = tmp_path_factory.mktemp("llava")
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "red", "circle", "moves", "left"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=["<image>"], **specials
    )
    side = {"height": 16, "width": 16}
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**size, **heads, image_size=16, patch_size=8),
        text_config=transformers.LlamaConfig(**size, **heads, vocab_size=len(words)),
        image_token_index=4,
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    return folder


def settings(folder):
    return CaptionSettings(model=str(folder), max_new_tokens=12)


def test_a_chat_model_is_shown_every_frame_and_the_prompt(chat_model, corpus):
    answers = Captioner(settings(chat_model)).write([corpus.draw(0, 3), corpus.draw(1, 2)])
    prompt_words = answers[0].prompt_tokens - 3 * 4  # a frame is four patches
    assert prompt_words > 40
    assert answers[1].prompt_tokens == 2 * 4 + prompt_words


def test_greedy_answers_repeat(chat_model, corpus):
    writer = Captioner(settings(chat_model))
    assert writer.write([corpus.draw(0, 3)]) == writer.write([corpus.draw(0, 3)])


def test_a_chat_model_without_a_template_is_refused(chat_model, tmp_path):
    shutil.copytree(chat_model, tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="chat template"):
        Captioner(settings(tmp_path / "mute"))


def test_an_answer_without_an_end_counts_as_truncated(captioner, corpus):
    writer = Captioner(CaptionSettings(model=captioner, max_new_tokens=2))
    [answer] = writer.write([corpus.draw(0)])
    assert (answer.status, answer.output_tokens) == ("truncated", 2)


def test_the_trained_captioner_describes_clips_it_has_not_seen(captioner, corpus):
    answers = Captioner(settings(captioner)).write([corpus.draw(i) for i in corpus.uncaptioned])
    pairs = zip(answers, corpus.uncaptioned, strict=True)
    assert np.mean([answer.text == corpus.caption(index) for answer, index in pairs]) >= 0.9


def test_direction_is_read_from_the_order_of_frames(captioner, corpus):
    writer = Captioner(settings(captioner))
    forward, backward = writer.write([corpus.draw(0), corpus.draw(0)[::-1].copy()])
    assert forward.text == "a red square moves left"
    assert backward.text == "a red square moves right"


def test_a_clip_that_could_not_be_read_keeps_its_error(captioner, corpus):
    frames = corpus.draw(0)
    batch = {
        "clip_id": np.array(["a", "b"]),
        "media_sha256": np.array(["1", "2"]),
        "frames": np.array([b"", frames.tobytes()], dtype=object),
        "shape": np.array([[0, 0, 0, 0], frames.shape]),
        "error": np.array(["corrupt", ""]),
    }
    rows = Captioner(settings(captioner))(batch)
    assert rows["status"].tolist() == ["error", "ok"]
    assert rows["error"].tolist() == ["corrupt", ""]


def test_a_folder_without_a_model_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"captioning\.model"):
        Captioner(settings(tmp_path))


def test_pickled_weights_are_refused(captioner, tmp_path):
    folder = shutil.copytree(captioner, tmp_path / "pickled")
    model = transformers.VisionEncoderDecoderModel.from_pretrained(captioner)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        Captioner(settings(folder))
