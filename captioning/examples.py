"""What the small captioner learns from: clips with human captions, held in memory."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BaseImageProcessor

from captioning.chosen import Chosen, chosen_sql
from captioning.config import FrameSettings, LocalCaptionerSettings
from captioning.frames import fit_count, load
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.query import query
from infra.video import VideoError

log = logging.getLogger(__name__)

FRAMES_KEPT = 2
"""Frames kept of a clip for each frame shown, so that the times shown can vary."""

_DESCRIBED = """
WITH wanted AS ({taken}), said AS (
  SELECT clip_id, text FROM captions WHERE origin = 'human' AND status = 'ok'
  QUALIFY row_number() OVER (
    PARTITION BY clip_id ORDER BY commit_seq DESC, created_at DESC, caption_id DESC
  ) = 1
)
SELECT wanted.*, said.text FROM wanted JOIN said USING (clip_id) ORDER BY clip_id LIMIT ?
"""
_TRIMMED = 0.12  # of a clip's length, at either end: what moves still moves the same way
_WOBBLE = 0.3  # of the spacing of kept frames, around each time
_SHIFT_PX = 2
_GAIN = 0.15
_OFFSET = 0.05


@dataclass(frozen=True)
class Examples:
    """Captioned clips in a fixed order: frames uint8 [N,F,3,S,S], one text and id for each."""

    frames: Tensor
    texts: list[str]
    clip_ids: list[str]


def load_examples(
    dataset: Dataset,
    chosen: Chosen,
    settings: LocalCaptionerSettings,
    images: BaseImageProcessor,
) -> Examples:
    """Return those of the clips that have a human caption.

    Args:
        dataset: Whose clips.
        chosen: Which clips.
        settings: How many clips and frames, and their side.
        images: The image processor that will also prepare frames when the model is used.

    Raises:
        DataError: Fewer than `min_clips` clips have a readable picture and a human caption.
    """
    chosen_rows, texts = _described(dataset, chosen, settings.max_clips)
    shown = FrameSettings(num_frames=settings.num_frames * FRAMES_KEPT)
    frames, shown_ids = [], []
    for row in chosen_rows:
        try:
            clip = load(read_media(dataset.root, row), shown)
        except (VideoError, DataError) as fault:
            log.warning("clip is not learned from clip=%s fault=%s", row["clip_id"], fault)
            continue
        frames.append(_squeezed(fit_count(clip, shown.num_frames), images))
        shown_ids.append(row["clip_id"])
    if len(frames) < settings.min_clips:
        raise DataError(
            f"captioning.model local: {len(frames)} clips with a human caption, at least "
            f"captioner.min_clips = {settings.min_clips} are needed to learn from; put captions "
            "beside the media (same name, .txt), or name a model in captioning.model"
        )
    return Examples(torch.stack(frames), [texts[clip] for clip in shown_ids], shown_ids)


def varied(frames: Tensor, num_frames: int, generator: torch.Generator) -> Tensor:
    """Return a random view of clips, float in [0, 1], for which their captions stay true.

    Times are trimmed and wobble a little, the picture shifts by some pixels, brightness and
    contrast change. Mirroring, turning and hues would make captions lie.

    Args:
        frames: uint8 [B,F,3,S,S].
        num_frames: Frames of the view.
        generator: Where chance comes from.
    """
    count, kept = frames.shape[:2]
    trimmed = torch.rand(count, 2, generator=generator) * _TRIMMED * (kept - 1)
    share = torch.linspace(0, 1, num_frames)[None]
    times = trimmed[:, :1] * (1 - share) + (kept - 1 - trimmed[:, 1:]) * share
    times = times + (torch.rand(count, num_frames, generator=generator) * 2 - 1) * _WOBBLE
    index = times.round().clamp(0, kept - 1).long()
    view = frames[torch.arange(count)[:, None], index].float() / 255
    gain = 1 + _GAIN * (2 * torch.rand(count, 1, 1, 1, 1, generator=generator) - 1)
    offset = _OFFSET * (2 * torch.rand(count, 1, 1, 1, 1, generator=generator) - 1)
    return _shifted(view, generator) * gain + offset


def _shifted(view: Tensor, generator: torch.Generator) -> Tensor:
    """Move each clip by up to `_SHIFT_PX` pixels; the edge is repeated."""
    count, _, _, height, width = view.shape
    padded = functional.pad(view.flatten(0, 1), [_SHIFT_PX] * 4, mode="replicate")
    padded = padded.view(count, -1, *padded.shape[1:])
    moves = torch.randint(0, 2 * _SHIFT_PX + 1, (count, 2), generator=generator).tolist()
    return torch.stack(
        [
            clip[:, :, y : y + height, x : x + width]
            for clip, (y, x) in zip(padded, moves, strict=True)
        ]
    )


def _squeezed(frames: np.ndarray[Any, Any], images: BaseImageProcessor) -> Tensor:
    """Return uint8 [F,3,S,S], resized as the model's own processor does it."""
    raw = images(list(frames), do_rescale=False, do_normalize=False, return_tensors="pt")
    squeezed: Tensor = raw["pixel_values"][0]
    return squeezed.round().clamp(0, 255).to(torch.uint8)


def _described(
    dataset: Dataset, chosen: Chosen, max_clips: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the first clips that a person described, and the newest text of each."""
    taken, values = chosen_sql(chosen)
    sql = _DESCRIBED.format(taken=taken)
    with query(dataset, sql, parameters=[*values, max_clips]) as found:
        rows = found.read_all().to_pylist()
    return rows, {row["clip_id"]: row["text"] for row in rows}
