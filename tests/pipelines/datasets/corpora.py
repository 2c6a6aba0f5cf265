"""A small dataset with real clips, captions, scores, refusals and a release."""

import hashlib
from fractions import Fraction

import numpy as np

from infra import encoding, stills
from infra.store import release
from infra.store.dataset import Dataset
from infra.store.media import write_shard
from infra.store.selection import Selection

NUM_CLIPS = 8
HOSTILE = "</script><script>document.title='stolen'</script><img src=x onerror=alert(1)>"


def picture(index, num_frames=12):
    frames = np.full((num_frames, 48, 64, 3), 30 * index % 256, np.uint8)
    for at in range(num_frames):
        frames[at, 8:40, 4 * at : 4 * at + 16] = (255, 80, 20 * index % 256)
    return frames


def name(text):
    return hashlib.sha256(text.encode()).hexdigest()


def clip_rows(dataset, first=0, num=NUM_CLIPS):
    """Rows of clips whose bytes lie in a new shard; the last is an image."""
    made = []
    for index in range(first, first + num):
        image = index == NUM_CLIPS - 1
        data = (
            stills.encode_image(picture(index)[0])
            if image
            else encoding.encode_video(picture(index), fps=Fraction(8))
        )
        made.append((name(f"clip {index}")[:32], data, image))
    refs = write_shard(dataset, [(clip_id, data) for clip_id, data, _ in made])
    return [
        {
            "clip_id": clip_id,
            "kind": "image" if image else "video",
            "source_id": name(f"source {index // 2}"),
            "source_uri": f"/videos/part{index // 4}/source {index // 2}.mp4",
            "shot_index": index % 2,
            "transform_id": "t",
            "container": "png" if image else "mov,mp4,m4a,3gp,3g2,mj2",
            "codec": "png" if image else "h264",
            "encode_mode": "original",
            "width": 64,
            "height": 48,
            "num_frames": 1 if image else 12,
            "fps_num": 8,
            "fps_den": 1,
            "duration_s": 0.0 if image else 1.5,
            "split_bucket": 10 if index // 2 == 0 else 500,
        }
        | ref.columns()
        for index, ((clip_id, _, image), ref) in enumerate(zip(made, refs, strict=True), first)
    ]


def caption(clip_id, text, **over):
    return {
        "clip_id": clip_id,
        "caption_id": name(clip_id + text)[:32],
        "text": text,
        "origin": "human",
        "status": "ok",
    } | over


def fill(root):
    """Lay the dataset and return it."""
    dataset = Dataset.open(root, create=True)
    clips = clip_rows(dataset, 0, 5) + clip_rows(dataset, 5, 3)
    dataset.append("clips", clips)
    texts = [caption(row["clip_id"], f"a ball number {i}") for i, row in enumerate(clips)]
    texts[2]["text"] = HOSTILE
    synthetic = {"origin": "synthetic", "model": "captioner", "recipe_id": "r1"}
    dataset.append("captions", [*texts, caption(clips[0]["clip_id"], "made up", **synthetic)])
    dataset.append(
        "scores",
        [
            {"clip_id": row["clip_id"], "scorer": "motion", "version": "1", "value": float(i)}
            for i, row in enumerate(clips)
        ],
    )
    dataset.append(
        "sources",
        [
            {
                "source_uri": f"/videos/part{index // 2}/source {index}.mp4",
                "source_root": "/videos",
                "partition": f"part{index // 2}",
                "source_id": name(f"source {index}"),
                "status": "ok",
                "transform_id": "t",
                "num_clips": 2,
                "size_bytes": 1000,
            }
            for index in range(NUM_CLIPS // 2)
        ],
    )
    dataset.append(
        "quarantine",
        [
            {"source_uri": f"/videos/bad {i}.mp4", "stage": "scan", "reason": reason}
            | {"message": f"moov atom of {HOSTILE} not found", "retryable": False}
            for i, reason in enumerate(["unreadable"] * 3 + ["too_short"])
        ],
    )
    release.create(dataset, "first", Selection())
    return dataset
