"""The captioner: one actor that looks at frames and writes a line.

Any image-text model that transformers can load works: a chat model through its processor and
template, or a video encoder with a text decoder (the small one that `captioning/local.py`
trains). Weights come from safetensors only, and no code comes with them.

    captioner = Captioner(CaptionSettings(model="out/captioner"))
    captioner.write([frames])          # frames uint8 [F,H,W,3] -> [Answer]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from PIL import Image

from captioning.clean import clean, verdict
from captioning.config import CaptionSettings
from captioning.frames import Batch, fit_count, frames_of
from captioning.prompt import load_prompt
from infra import weights
from infra.device import torch_device
from infra.errors import ConfigError
from infra.stills import Frames


@dataclass(frozen=True)
class Answer:
    """What a model wrote about one clip, cleaned and judged."""

    text: str
    status: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Words:
    """The tokens of an answer up to its end token, if it came to its end."""

    tokens: list[int]
    ended: bool
    prompt_tokens: int


class Backend(Protocol):
    """A loaded model of one family."""

    def generate(self, clips: Sequence[Frames]) -> list[Words]:
        """Return what is said about each clip."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""


class Captioner:
    """A loaded captioning model; call it with a batch of rows, or `write` about frames."""

    def __init__(self, settings: CaptionSettings) -> None:
        """Load the model.

        Raises:
            ConfigError: It cannot be loaded or cannot be asked, or a GPU is asked for and absent.
        """
        device = torch_device("captioning.device", settings.device)
        folder, small = weights.fetch(settings.model), check_model(settings)
        try:
            self._backend: Backend = (_VideoDecoder if small else _Chat)(folder, settings, device)
        except (OSError, ValueError) as fault:
            raise _unloadable(settings, fault) from fault

    def write(self, clips: Sequence[Frames]) -> list[Answer]:
        """Return an answer for each clip [F,H,W,3]."""
        with torch.inference_mode():
            return [self._judged(words) for words in self._backend.generate(clips)]

    def __call__(self, batch: Batch) -> Batch:
        """Return rows of the captions table for rows with `frames`, `shape` and `error`.

        A clip whose frames could not be read keeps its error and is not shown to the model.
        """
        good = [index for index, error in enumerate(batch["error"]) if not error]
        answers = self.write([frames_of(batch, index) for index in good]) if good else []
        found = dict(zip(good, answers, strict=True))
        failed = Answer("", "error", 0, 0)
        rows = [asdict(found.get(index, failed)) for index in range(len(batch["error"]))]
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        kept = {name: batch[name] for name in ("clip_id", "media_sha256", "error")}
        return kept | columns

    def _judged(self, words: Words) -> Answer:
        text = clean(self._backend.decode(words.tokens))
        status = verdict(text, truncated=not words.ended)
        return Answer(text, status, words.prompt_tokens, len(words.tokens))


def check_model(settings: CaptionSettings) -> bool:
    """Return whether the model is a video encoder with a decoder, and not one to chat with.

    Reads its config only, so a driver can find a mistake before workers start.

    Raises:
        ConfigError: There is no such model.
    """
    folder = weights.fetch(settings.model)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, revision=settings.revision)
    except (OSError, ValueError) as fault:
        raise _unloadable(settings, fault) from fault
    return bool(config.model_type == "vision-encoder-decoder")


class _VideoDecoder:
    """A video encoder of a fixed number of frames with a text decoder; it is asked nothing."""

    def __init__(self, folder: str, settings: CaptionSettings, device: torch.device) -> None:
        self._images = _load(transformers.AutoImageProcessor, folder, settings)
        self._tokenizer = _load(transformers.AutoTokenizer, folder, settings)
        self._model = _load_model(transformers.VisionEncoderDecoderModel, folder, settings, device)
        self._max_new_tokens = settings.max_new_tokens

    def generate(self, clips: Sequence[Frames]) -> list[Words]:
        num_frames = self._model.config.encoder.num_frames
        videos = [list(fit_count(frames, num_frames)) for frames in clips]
        pixels = self._images(videos, return_tensors="pt")["pixel_values"]
        limit = min(self._max_new_tokens, self._model.config.decoder.n_positions - 1)
        out = self._model.generate(
            pixel_values=pixels.to(self._model.device, self._model.dtype),
            max_new_tokens=limit,
            do_sample=False,
        )
        ends = _end_ids(self._model.generation_config.eos_token_id)
        return [_until_end(row, ends, prompt_tokens=0) for row in out[:, 1:].tolist()]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


class _Chat:
    """A model that is shown frames as images in a chat and is asked the prompt."""

    def __init__(self, folder: str, settings: CaptionSettings, device: torch.device) -> None:
        self._processor = _load(transformers.AutoProcessor, folder, settings)
        if not getattr(self._processor, "chat_template", None):
            raise ConfigError(
                f"captioning.model {settings.model!r}: its processor has no chat template, so it "
                "cannot be asked; take an instruction-tuned model"
            )
        self._processor.tokenizer.padding_side = "left"
        family = transformers.AutoModelForImageTextToText
        self._model = _load_model(family, folder, settings, device)
        self._prompt = load_prompt(settings.prompt_file)
        self._max_new_tokens = settings.max_new_tokens

    def generate(self, clips: Sequence[Frames]) -> list[Words]:
        asked = self._processor.apply_chat_template(
            [self._conversation(frames) for frames in clips],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self._model.device, self._model.dtype)
        out = self._model.generate(**asked, max_new_tokens=self._max_new_tokens, do_sample=False)
        new = out[:, asked["input_ids"].shape[1] :].tolist()
        ends = _end_ids(self._model.generation_config.eos_token_id)
        lengths = asked["attention_mask"].sum(dim=1).tolist()
        return [_until_end(row, ends, n) for row, n in zip(new, lengths, strict=True)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._processor.decode(tokens, skip_special_tokens=True))

    def _conversation(self, frames: Frames) -> list[dict[str, Any]]:
        seen = [{"type": "image", "image": Image.fromarray(frame)} for frame in frames]
        return [{"role": "user", "content": [*seen, {"type": "text", "text": self._prompt}]}]


def _load(family: Any, folder: str, settings: CaptionSettings) -> Any:  # noqa: ANN401 - transformers chooses the class
    return family.from_pretrained(folder, revision=settings.revision)


def _load_model(family: Any, folder: str, settings: CaptionSettings, device: torch.device) -> Any:  # noqa: ANN401 - as above
    model = family.from_pretrained(
        folder,
        revision=settings.revision,
        dtype=getattr(torch, settings.dtype),
        use_safetensors=True,
    )
    return model.to(device)


def _unloadable(settings: CaptionSettings, fault: Exception) -> ConfigError:
    return ConfigError(
        f"captioning.model {settings.model!r}: no image-text model with safetensors can be loaded "
        f"({fault}); give a hub id with captioning.revision, a folder, or `local`"
    )


def _until_end(tokens: list[int], ends: set[int], prompt_tokens: int) -> Words:
    """Cut padding: what follows the end token is nothing that was said."""
    for index, token in enumerate(tokens):
        if token in ends:
            return Words(tokens[:index], True, prompt_tokens)
    return Words(tokens, False, prompt_tokens)


def _end_ids(eos: int | list[int] | None) -> set[int]:
    if eos is None:
        return set()
    return set(eos) if isinstance(eos, list) else {eos}
