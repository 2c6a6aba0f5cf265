"""Models that score a clip: a head on CLIP's image vector, prompts, a classifier; or the vector.

Weights come from safetensors only and no code comes with them. A scorer's version is a hash of
all that its values depend on: weights, preprocessing, head, prompts, frames.

    score = Scorer(ModelScorer(name="nsfw", how="label", model="folder", label="nsfw"), "auto")
    score.values([frames])             # frames uint8 [F,H,W,3] -> [0.03]
"""

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from captioning.frames import Batch, frames_of
from infra import storage, weights
from infra.device import torch_device
from infra.errors import ConfigError, DataError
from infra.stills import Frames
from pipelines.scores.config import ModelScorer

log = logging.getLogger(__name__)


_CODE_VERSION = "1"
"""Raised by hand when the same settings come to give other values."""
_MAX_HEAD_BYTES = 256 << 20
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "gelu": functional.gelu,
}
_FOLDS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "most": torch.amax,
    "least": torch.amin,
}


def version_of(scorer: ModelScorer) -> str:
    """Return the identity of what a scorer gives; a folder counts by its content."""
    words = scorer.model_dump(mode="json", exclude={"name", "model", "revision", "head"})
    words["weights"] = weights.revision(scorer.model, scorer.revision)
    words["model"] = "" if weights.is_folder(scorer.model) else scorer.model
    words["head"] = hashlib.sha256(_head_bytes(scorer)).hexdigest() if scorer.head else ""
    text = json.dumps([_CODE_VERSION, words], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check(scorer: ModelScorer) -> None:
    """Find a mistake before workers start; reads configs and the head only.

    Raises:
        ConfigError: There is no such model, label or head.
    """
    if not scorer.model:
        raise ConfigError(
            f"scores.models {scorer.name!r}: model is empty; give a hub id, a folder or an s3:// "
            "prefix with safetensors"
        )
    config = _loaded(transformers.AutoConfig, scorer)
    if scorer.how == "label":
        _label_index(config, scorer)
    if scorer.how == "head":
        _head(scorer)


class Scorer:
    """A loaded scorer; call it with a batch of rows, or ask for the values of frames."""

    def __init__(self, scorer: ModelScorer, device: str) -> None:
        """Load the model.

        Raises:
            ConfigError: It cannot be loaded, or a GPU is asked for and absent.
        """
        self._settings, self._device = scorer, torch_device("scores.device", device)
        self._images = _loaded(transformers.AutoImageProcessor, scorer)
        family = (
            transformers.AutoModelForImageClassification
            if scorer.how == "label"
            else transformers.AutoModel
        )
        self._model = _loaded(family, scorer, use_safetensors=True).to(self._device).eval()
        if scorer.how == "label":
            self._index = _label_index(self._model.config, scorer)
        elif not hasattr(self._model, "get_image_features"):
            raise ConfigError(
                f"scores.models {scorer.name!r}: {scorer.model!r} has no image vectors "
                f"(type {self._model.config.model_type}); give a CLIP model, or how: label"
            )
        self._layers = _head(scorer) if scorer.how == "head" else []
        self._texts = self._text_vectors() if scorer.how == "prompts" else torch.empty(0)

    def values(self, clips: Sequence[Frames]) -> list[float]:
        """Return the score of each clip [F,H,W,3]."""
        with torch.inference_mode():
            scored = self._of_frames(self._pixels(clips)).float().cpu()
        fold, parts = _FOLDS[self._settings.over_frames], _parted(scored, clips)
        return [float(fold(part)) for part in parts]

    def vectors(self, clips: Sequence[Frames]) -> npt.NDArray[np.float16]:
        """Return the image vector of each clip, the mean over its frames, [n, width], length 1."""
        with torch.inference_mode():
            found = self._vectors(self._pixels(clips)).float().cpu()
        means = torch.stack([part.mean(dim=0) for part in _parted(found, clips)])
        means = functional.normalize(means, dim=-1)
        return means.numpy().astype("<f2")

    def __call__(self, batch: Batch) -> Batch:
        """Return `value` or `vector` of rows with `frames`, `shape` and `error`.

        A clip whose frames could not be read keeps its error and is not shown to the model.
        """
        good = [index for index, error in enumerate(batch["error"]) if not error]
        clips = [frames_of(batch, index) for index in good]
        num = len(batch["error"])
        scored, vectors = np.zeros(num), np.full(num, b"", object)
        if clips and self._settings.how == "vectors":
            for index, vector in zip(good, self.vectors(clips), strict=True):
                vectors[index] = vector.tobytes()
        elif clips:
            scored[good] = self.values(clips)
        kept = {name: batch[name] for name in ("clip_id", "error")}
        return kept | {"value": scored, "vector": vectors}

    def _pixels(self, clips: Sequence[Frames]) -> Tensor:
        """Return what the model sees of all frames, one after the other, [N,3,h,w]."""
        every = [frame for frames in clips for frame in frames]
        pixels: Tensor = self._images(every, return_tensors="pt")["pixel_values"]
        return pixels.to(self._device, self._model.dtype)

    def _of_frames(self, pixels: Tensor) -> Tensor:
        """Return the score of each frame, [N]."""
        if self._settings.how == "label":
            logits: Tensor = self._model(pixel_values=pixels).logits
            return logits.float().softmax(dim=-1)[:, self._index]
        found = self._vectors(pixels)
        if self._settings.how == "prompts":
            scale = self._model.logit_scale.exp().float()
            shares: Tensor = (scale * found @ self._texts.T).softmax(dim=-1)
            return shares[:, : len(self._settings.prompts)].sum(dim=-1)
        return self._through_head(found)

    def _vectors(self, pixels: Tensor) -> Tensor:
        """Return the image vector of each frame, of length 1, [N, width]."""
        return functional.normalize(
            _tensor(self._model.get_image_features(pixel_values=pixels)).float(), dim=-1
        )

    def _through_head(self, found: Tensor) -> Tensor:
        between = _ACTIVATIONS[self._settings.activation]
        first = self._layers[0][0]
        if first.shape[1] != found.shape[1]:
            raise ConfigError(
                f"scores.models {self._settings.name!r}: the head takes vectors of width "
                f"{first.shape[1]}, the model gives {found.shape[1]}; take the model it was made on"
            )
        for number, (matrix, bias) in enumerate(self._layers):
            found = between(found) if number else found
            found = functional.linear(found, matrix.to(found), bias.to(found))
        return found[:, 0]

    def _text_vectors(self) -> Tensor:
        tokenizer = _loaded(transformers.AutoTokenizer, self._settings)
        words = [*self._settings.prompts, *self._settings.against]
        tokens = tokenizer(words, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            found = _tensor(self._model.get_text_features(**tokens.to(self._device)))
        return functional.normalize(found.float(), dim=-1)


def _loaded(family: Any, scorer: ModelScorer, **more: Any) -> Any:  # noqa: ANN401 - transformers chooses the class
    try:
        folder = weights.fetch(scorer.model)
        return family.from_pretrained(
            folder, revision=scorer.revision, trust_remote_code=False, **more
        )
    except (OSError, ValueError, ImportError, KeyError, safetensors.SafetensorError) as fault:
        raise ConfigError(
            f"scores.models {scorer.name!r}: {scorer.model!r} cannot be loaded as {family.__name__}"
            f" from safetensors ({fault}); give a hub id with revision, a folder or an s3:// prefix"
        ) from fault


def _parted(found: Tensor, clips: Sequence[Frames]) -> Sequence[Tensor]:
    """Return what was found of the frames of each clip."""
    return torch.split(found, [len(frames) for frames in clips])


def _tensor(found: Any) -> Tensor:  # noqa: ANN401 - a tensor or an output object, by version of transformers
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return vectors


def _label_index(config: Any, scorer: ModelScorer) -> int:  # noqa: ANN401 - a config of any family
    labels = {str(label): int(index) for label, index in (config.label2id or {}).items()}
    if scorer.label not in labels:
        raise ConfigError(
            f"scores.models {scorer.name!r}: label {scorer.label!r} is not one of the model's; it "
            f"has {sorted(labels)[:50]}"
        )
    return labels[scorer.label]


def _head(scorer: ModelScorer) -> list[tuple[Tensor, Tensor]]:
    """Return the head's matrices [out, in] and biases [out], in the order of their names.

    Raises:
        ConfigError: They do not make one number of a vector.
    """
    try:
        found = safetensors.torch.load(_head_bytes(scorer))
    except safetensors.SafetensorError as fault:
        raise ConfigError(
            f"scores.models {scorer.name!r}: head {scorer.head!r} is no safetensors file ({fault})"
        ) from fault
    names = sorted((n for n, w in found.items() if w.ndim == 2), key=_natural)
    layers = [
        (found[name], found.get(_bias_of(name), torch.zeros(len(found[name])))) for name in names
    ]
    widths = [matrix.shape for matrix, _ in layers]
    chained = all(a[0] == b[1] for a, b in itertools.pairwise(widths))
    if not layers or not chained or widths[-1][0] != 1:
        raise ConfigError(
            f"scores.models {scorer.name!r}: the matrices in {scorer.head!r} have shapes "
            f"{[tuple(shape) for shape in widths]}; each must take what the one before gives, and "
            "the last must give one number"
        )
    return layers


def _head_bytes(scorer: ModelScorer) -> bytes:
    try:
        files, path = storage.filesystem(scorer.head)
        size_bytes = files.get_file_info(path).size or 0
        if size_bytes > _MAX_HEAD_BYTES:
            raise ConfigError(
                f"scores.models {scorer.name!r}: head {scorer.head!r} has {size_bytes} bytes, at "
                f"most {_MAX_HEAD_BYTES}"
            )
        return storage.read_bytes(scorer.head)
    except (DataError, OSError) as fault:
        raise ConfigError(
            f"scores.models {scorer.name!r}: head {scorer.head!r} cannot be read ({fault})"
        ) from fault


def _bias_of(name: str) -> str:
    return "bias" if name == "weight" else name.removesuffix(".weight") + ".bias"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort layer 10 behind layer 2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
