"""The small captioner's parts: VideoMAE over the frames, GPT-2 over the words, a vocabulary.

Frames as a video, not as images: tokens span two frames, and direction is seen. All parts are
standard transformers classes, saved and loaded by `from_pretrained` like any large model.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from captioning.config import LocalCaptionerSettings

PAD, START, END, UNKNOWN = range(4)
MEAN, STD = 0.5, 0.25
"""Of pixel values in [0, 1], all channels; what the image processor subtracts and divides by."""

_SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
_MAX_WORDS = 64  # positions of the decoder


def build_tokenizer(texts: Iterable[str]) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer whose pieces are the words of the texts; it adds an end token."""
    counts = Counter(word for text in texts for word in text.split())
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    vocabulary = {word: index for index, word in enumerate([*_SPECIALS, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", END)]
    )
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=_MAX_WORDS,
    )


def build_image_processor(settings: LocalCaptionerSettings) -> transformers.BaseImageProcessor:
    """Return what turns frames of any size into the model's pixels."""
    side = {"height": settings.side_px, "width": settings.side_px}
    return transformers.VideoMAEImageProcessor(
        size=side, do_center_crop=False, image_mean=[MEAN] * 3, image_std=[STD] * 3
    )


def build_model(
    num_words: int, settings: LocalCaptionerSettings
) -> transformers.VisionEncoderDecoderModel:
    """Return an untrained captioner; the same settings give the same weights."""
    heads = max(2, settings.width // 32)
    encoder = transformers.VideoMAEConfig(
        image_size=settings.side_px,
        patch_size=8,
        num_frames=settings.num_frames,
        tubelet_size=2,
        hidden_size=settings.width,
        num_hidden_layers=settings.encoder_layers,
        num_attention_heads=heads,
        intermediate_size=2 * settings.width,
        use_mean_pooling=False,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=settings.init_std,
    )
    decoder = transformers.GPT2Config(
        vocab_size=num_words,
        n_positions=_MAX_WORDS,
        n_embd=settings.width,
        n_layer=settings.decoder_layers,
        n_head=heads,
        n_inner=2 * settings.width,
        add_cross_attention=True,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=settings.init_std,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    both = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = transformers.VisionEncoderDecoderModel(config=both)
    _set_special_tokens(model)
    return model


def labels(tokenizer: transformers.PreTrainedTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """Return what the decoder must say, [N, words]: token ids, -100 after the end."""
    words = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    ids: torch.Tensor = words["input_ids"]
    return ids.masked_fill(words["attention_mask"] == 0, -100)


def _set_special_tokens(model: transformers.VisionEncoderDecoderModel) -> None:
    model.config.decoder_start_token_id = START
    model.config.pad_token_id = PAD
    generation = model.generation_config
    generation.decoder_start_token_id = generation.bos_token_id = START
    generation.eos_token_id, generation.pad_token_id = END, PAD
