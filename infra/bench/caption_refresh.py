"""How many bytes a refresh of few captions writes, beside the size of the dataset.

    python -m infra.bench.caption_refresh [--clips 2000] [--share 0.01]

Clips of about 200 KB each lie in media shards and all have a caption. A small captioner, built
here, then writes new ones for a share of them, by the same call as `snapvideo caption`. Counted is
every byte below the dataset's root that was not there before. For comparison: what is rewritten
where captions lie in the same files as the media, one file per shard.
"""

import argparse
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from captioning.config import CaptionSettings, LocalCaptionerSettings
from captioning.local import train_local
from infra import cluster, storage
from infra.bench.timing import commit, say
from infra.store.dataset import Dataset
from infra.store.media import write_shard
from infra.video import encode_video

GOAL = 0.001
"""Of the dataset's bytes, for one clip in a hundred."""
_CLIPS_PER_SHARD = 250
_SMALL = LocalCaptionerSettings(
    num_frames=2, side_px=16, width=32, encoder_layers=1, decoder_layers=1, steps=20
)


def build(root: str, num_clips: int) -> list[str]:
    """Lay a dataset of captioned clips, about 200 KB each; return the ids of its clips."""
    dataset = Dataset.open(root, create=True)
    looks = [_encoded(seed) for seed in range(8)]
    clip_ids = [f"{index:032x}" for index in range(num_clips)]
    for start in range(0, num_clips, _CLIPS_PER_SHARD):
        numbers = range(start, min(num_clips, start + _CLIPS_PER_SHARD))
        # A box that decoders pass over makes the bytes of every clip its own.
        media = [looks[n % 8] + struct.pack(">I4sQ", 16, b"free", n) for n in numbers]
        refs = write_shard(dataset, [(clip_ids[n], m) for n, m in zip(numbers, media, strict=True)])
        described = list(zip(numbers, refs, strict=True))
        dataset.append(
            "clips",
            [{"clip_id": clip_ids[n], "kind": "video"} | ref.columns() for n, ref in described],
        )
        dataset.append(
            "captions", [_first_caption(clip_ids[n], r.media_sha256) for n, r in described]
        )
    return clip_ids


def refresh(root: str, clip_ids: list[str], scratch: Path) -> tuple[int, int]:
    """Write new captions for the clips; return bytes before and bytes written."""
    from captioning.refresh import caption_clips  # imports Ray, whose settings come first

    before = _sizes(root)
    settings = CaptionSettings(model=_captioner(scratch), batch=8, max_failed_share=1.0)
    counts = caption_clips(root, clip_ids, settings, run_id="refresh")
    assert counts.num_stale == len(clip_ids), "every clip of the share was to be captioned"
    after = _sizes(root)
    written = sum(size for name, size in after.items() if before.get(name) != size)
    return sum(before.values()), written


def _encoded(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 96, 160, 3), np.uint8)
    return encode_video(noise, fps=12, crf=20)


def _first_caption(clip_id: str, media_sha256: str) -> dict[str, str]:
    words = f"a scene that was described before, number {clip_id}"
    constant = {"origin": "synthetic", "recipe_id": "before", "model": "before", "status": "ok"}
    same = {"clip_id": clip_id, "caption_id": f"{clip_id}-1", "media_sha256": media_sha256}
    return constant | same | {"text": words}


def _captioner(scratch: Path) -> str:
    """Build a small captioner on a few captioned clips of its own."""
    dataset = Dataset.open(str(scratch / "lesson"), create=True)
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    lesson = [(f"clip-{i}", encode_video(frames + 8 * i, fps=2)) for i in range(16)]
    refs = write_shard(dataset, lesson)
    rows = [
        {"clip_id": i, "kind": "video"} | r.columns()
        for (i, _), r in zip(lesson, refs, strict=True)
    ]
    dataset.append("clips", rows)
    told = [
        _first_caption(str(r["clip_id"]), "") | {"origin": "human", "text": "a shade"} for r in rows
    ]
    dataset.append("captions", told)
    folder = str(scratch / "captioner")
    train_local(dataset.root, [i for i, _ in lesson], _SMALL, folder)
    return folder


def _sizes(root: str) -> dict[str, int]:
    return {info.uri: info.size_bytes for info in storage.list_files(root)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.bench.caption_refresh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=int, default=2000, help="clips in all (default 2000)")
    parser.add_argument("--share", type=float, default=0.01, help="share of them (default 0.01)")
    parser.add_argument("--quick", action="store_true", help="40 clips: does it run at all?")
    words = parser.parse_args(arguments)
    num_clips = 40 if words.quick else words.clips
    with tempfile.TemporaryDirectory() as scratch, cluster.running(cluster.ClusterSettings()):
        root = str(Path(scratch, "dataset"))
        clip_ids = build(root, num_clips)
        chosen = clip_ids[:: max(1, round(1 / words.share))]
        total, written = refresh(root, chosen, Path(scratch))
        shard = total / max(1, -(-num_clips // _CLIPS_PER_SHARD))
    say(f"commit {commit()}")
    say(f"dataset       {num_clips} clips, {total / 2**20:.1f} MiB, every clip captioned")
    say(f"refreshed     {len(chosen)} captions, {written / 2**10:.1f} KiB written")
    touched = min(num_clips / _CLIPS_PER_SHARD, len(chosen)) * shard
    say(f"beside media  {touched / 2**20:.1f} MiB would be rewritten, the shards of those clips")
    say(f"bytes written against the dataset: {written / total:.4%} (goal at most {GOAL:.1%})")


if __name__ == "__main__":
    main()
