"""A little dataset through the real store: coloured clips and stills, captions, T5 embeddings."""

from pathlib import Path

import numpy as np

from infra import video
from infra.store import media, release
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from infra.store.texts import text_hash
from train.text import TextEncoder, build_tiny_t5, encoder_id, pack
from train.text_config import TextSettings

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


def make(
    folder: Path,
    num_videos: int = 6,
    num_images: int = 3,
    poisoned: int | None = None,
    per_shard: int = 100,
) -> tuple[str, TextSettings]:
    """Return the root of a dataset with release `r1`, and the text encoder's settings.

    The caption of clip number `poisoned` has an embedding that is not a number.
    """
    dataset = Dataset.open(str(folder / "dataset"), create=True)
    names = list(COLOURS)
    texts = [f"a {names[i % 3]} block" for i in range(num_videos + num_images)]
    if poisoned is not None:
        texts[poisoned] = "a poisoned block"
    data = [_video(names[i % 3], i) for i in range(num_videos)]
    data += [_image(names[i % 3]) for i in range(num_images)]
    ids = [f"{i:04d}" for i in range(len(data))]
    named = list(zip(ids, data, strict=True))
    parts = (named[first : first + per_shard] for first in range(0, len(named), per_shard))
    refs = [ref for part in parts for ref in media.write_shard(dataset, part)]
    dataset.append("clips", [
        {"clip_id": name, "kind": "video" if i < num_videos else "image", "source_id": name,
         "num_frames": 12, "width": 64, "height": 48, "split_bucket": 999, **ref.columns()}
        for i, (name, ref) in enumerate(zip(ids, refs, strict=True))
    ])  # fmt: skip
    dataset.append("captions", [
        {"clip_id": name, "caption_id": name, "text": text, "origin": "human", "status": "ok"}
        for name, text in zip(ids, texts, strict=True)
    ])  # fmt: skip
    build_tiny_t5(folder / "t5", texts, width=16)
    settings = TextSettings(model=str(folder / "t5"))
    distinct = sorted(set(texts))
    spoil = {text: float("nan") if "poisoned" in text else 1 for text in distinct}
    dataset.append("embeddings", [
        {"text_hash": text_hash(text), "encoder_id": encoder_id(settings),
         "num_tokens": len(values), "width": values.shape[1], "values": pack(values * spoil[text])}
        for text, values in zip(distinct, TextEncoder(settings).encode(distinct), strict=True)
    ])  # fmt: skip
    release.create(dataset, "r1", Selection(validation_share=0, test_share=0))
    return dataset.root, settings


def _video(colour: str, index: int) -> bytes:
    """Twelve frames at 12 fps of a block that moves to the right."""
    frames = np.full((12, 48, 64, 3), 128, np.uint8)
    for i in range(12):
        frames[i, 16:32, 4 * i : 4 * i + 14 + index % 3] = COLOURS[colour]
    return video.encode_video(frames, fps=12)


def _image(colour: str) -> bytes:
    frame = np.full((48, 64, 3), 128, np.uint8)
    frame[16:32, 20:40] = COLOURS[colour]
    return video.encode_image(frame, kind="png")
