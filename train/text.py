"""Text encoder: captions in, T5 embeddings out.

T5-11B in a real run and a tiny T5 in the demo walk the same path: `from_pretrained` on a hub
id or a folder, at most 128 tokens, padding masked, embeddings in bfloat16 (the form in which
the embeddings table keeps them, so that cached and fresh ones agree). What is beyond the limit
is said in a warning, once a text.

    encoder = TextEncoder(TextSettings(model="out/t5"))
    [embedding] = encoder.encode(["a red circle moves left"])     # [num_tokens, width]
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from infra import weights
from infra.device import torch_device
from infra.errors import ConfigError
from train.text_config import TextSettings

log = logging.getLogger(__name__)

_REMEMBERED, _SHOWN_CHARS = 4096, 200
_BYTES = [f"<0x{value:02X}>" for value in range(256)]
_WORD = re.compile(r"\S+")


class TextEncoder:
    """A frozen T5 encoder with its tokenizer."""

    def __init__(self, settings: TextSettings) -> None:
        """Load the encoder.

        Raises:
            ConfigError: The model cannot be loaded, or a GPU is asked for and absent.
        """
        self.settings = settings
        self.device = torch_device("text.device", settings.device)
        folder = weights.fetch(settings.model)
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, revision=settings.revision
            )
            model = transformers.T5EncoderModel.from_pretrained(
                folder,
                revision=settings.revision,
                dtype=getattr(torch, settings.dtype),
                use_safetensors=True,
            )
        except (OSError, ValueError) as fault:
            raise _unloadable(settings, fault) from fault
        self.width = int(model.config.d_model)
        self._model = _frozen(model, self.device)
        self.encoder_id = encoder_id(settings)
        self._warn = functools.lru_cache(_REMEMBERED)(self._warn_of)  # once a text

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Return what `states` does, and log a warning for each text that is cut."""
        embeddings = self.states(texts)
        for text in self.cut(texts, embeddings):
            self._warn(text)
        return embeddings

    @torch.inference_mode()
    def states(self, texts: Sequence[str]) -> list[Tensor]:
        """Return one bfloat16 CPU tensor [num_tokens, width] per text, padding removed.

        The empty text is one token, the end of text; it serves as the null condition.
        """
        embeddings: list[Tensor] = []
        for start in range(0, len(texts), self.settings.batch):
            words = self._tokenizer(
                list(texts[start : start + self.settings.batch]),
                truncation=True,
                max_length=self.settings.max_tokens,
                padding=True,
                return_tensors="pt",
            ).to(self.device)
            states = self._model(
                input_ids=words["input_ids"], attention_mask=words["attention_mask"]
            ).last_hidden_state.to("cpu", torch.bfloat16)
            lengths = words["attention_mask"].sum(dim=1).tolist()
            embeddings += [row[:n].clone() for row, n in zip(states, lengths, strict=True)]
        return embeddings

    def num_tokens(self, text: str) -> int:
        """Return the tokens of a whole text with the end token, however many are read."""
        return len(self._whole(text)["input_ids"])

    def cut(self, texts: Sequence[str], embeddings: Sequence[Tensor]) -> list[str]:
        """Return the texts that were too long, given what `states` made of all."""
        most = self.settings.max_tokens
        full = [text for text, each in zip(texts, embeddings, strict=True) if len(each) == most]
        return [text for text in full if self.num_tokens(text) > most]

    def _warn_of(self, text: str) -> None:
        words, kept = self._whole(text), self.settings.max_tokens
        lost = text[words["offset_mapping"][kept - 1][0] :]  # the last token kept is the end
        log.warning(
            "the text encoder reads %d of the %d tokens of %r; cut off: %r; say it shorter",
            kept, len(words["input_ids"]), _shortened(text), _shortened(lost),
        )  # fmt: skip

    def _whole(self, text: str) -> transformers.BatchEncoding:
        words: transformers.BatchEncoding = self._tokenizer(
            text, return_offsets_mapping=True, verbose=False
        )
        return words


def check_encoder(settings: TextSettings) -> None:
    """Read the encoder's config only, so a driver finds a mistake before workers start.

    Raises:
        ConfigError: There is no such model.
    """
    folder = weights.fetch(settings.model)
    try:
        transformers.AutoConfig.from_pretrained(folder, revision=settings.revision)
    except (OSError, ValueError) as fault:
        raise _unloadable(settings, fault) from fault


def encoder_id(settings: TextSettings) -> str:
    """Return what the embeddings depend on: weights, tokenizer, length limit, arithmetic.

    A local folder counts by the hash of its content, not by its path, so a copy elsewhere
    shares the cached embeddings; a hub model counts by its commit.
    """
    name = weights.revision(settings.model, settings.revision)
    if not weights.is_folder(settings.model):
        name = f"{settings.model}@{name}"
    return f"{name}/{settings.max_tokens}/{settings.dtype}"


def pack(embedding: Tensor) -> bytes:
    """Return the bytes of a bfloat16 embedding [num_tokens, width], row by row."""
    return embedding.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()


def unpack(values: bytes, num_tokens: int, width: int) -> Tensor:
    """Return the bfloat16 embedding [num_tokens, width] whose bytes `pack` returned."""
    return torch.frombuffer(bytearray(values), dtype=torch.bfloat16).view(num_tokens, width)


def build_tiny_t5(out_dir: Path, texts: Iterable[str], width: int = 64, seed: int = 0) -> None:
    """Save an untrained T5 encoder and a tokenizer of the texts' words into `out_dir`.

    Weights are random, yet what comes out is informative: each word keeps a direction of its
    own, and the position biases are drawn wide, so that a word also knows its neighbours
    ("a red circle over blue" differs from "a blue circle over red" at every word).
    The same texts, width and seed give the same files.
    """
    tokenizer = _word_tokenizer(texts)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=16,
        num_heads=max(2, width // 16),
        d_ff=2 * width,
        num_layers=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.T5EncoderModel(config)
        for name, weight in model.named_parameters():
            if "relative_attention_bias" in name:
                torch.nn.init.normal_(weight, std=3.0)
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)


def _word_tokenizer(texts: Iterable[str]) -> transformers.PreTrainedTokenizerFast:
    """Whole words as pieces, single bytes for everything else; no text is unknown.

    A Unigram vocabulary trained on templated captions would collapse to characters, so the
    pieces are written down, not trained.
    """
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    specials = ["<pad>", "</s>", "<unk>"]
    vocabulary = [(piece, 0.0) for piece in specials]
    vocabulary += [(piece, -10.0) for piece in _BYTES]
    vocabulary += [("▁", -5.0)] + [("▁" + word, -1.0) for word in words]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _unloadable(settings: TextSettings, fault: Exception) -> ConfigError:
    return ConfigError(
        f"text.model {settings.model!r}: no T5 encoder with safetensors can be loaded ({fault}); "
        "give a hub id with text.revision, or a folder"
    )


def _frozen(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    return model.requires_grad_(False).to(device)
