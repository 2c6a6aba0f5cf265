"""A real, small corpus: squares that move left or right, half of them with captions."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest

from captioning.config import LocalCaptionerSettings
from captioning.local import train_local
from infra import video
from infra.store.dataset import Dataset
from infra.store.media import write_shard

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 230)}
DIRECTIONS = ("left", "right")


@dataclass(frozen=True)
class Corpus:
    """Clips `clip-0`, `clip-1`, ... in a dataset; every other six have a human caption."""

    root: str
    num_clips: int

    @property
    def dataset(self):
        return Dataset.open(self.root)

    @property
    def clips(self):
        return [f"clip-{index}" for index in range(self.num_clips)]

    @property
    def captioned(self):
        return [index for index in range(self.num_clips) if index % 12 < 6]

    @property
    def uncaptioned(self):
        return [index for index in range(self.num_clips) if index % 12 >= 6]

    @staticmethod
    def caption(index):
        colour, direction = list(COLOURS)[index % 3], DIRECTIONS[index // 3 % 2]
        return f"a {colour} square moves {direction}"

    @staticmethod
    def draw(index, num_frames=8):
        """Return what the clip shows, uint8 [T,24,32,3]."""
        colour, direction = list(COLOURS)[index % 3], DIRECTIONS[index // 3 % 2]
        chance = np.random.default_rng(index)
        top, start = chance.integers(0, 14), chance.integers(0, 4)
        frames = np.full((num_frames, 24, 32, 3), 120, np.uint8)
        for time in range(num_frames):
            x = start + round(18 * time / (num_frames - 1))
            x = x if direction == "right" else 22 - x
            frames[time, top : top + 10, x : x + 10] = COLOURS[colour]
        return frames


def make_corpus(folder, num_clips):
    """Write real H.264 clips into a new dataset."""
    corpus = Corpus(Dataset.open(str(folder), create=True).root, num_clips)
    clips = {f"clip-{i}": video.encode_video(corpus.draw(i), fps=8) for i in range(num_clips)}
    refs = write_shard(corpus.dataset, list(clips.items()))
    described = zip(clips, refs, strict=True)
    rows = [{"clip_id": clip, "kind": "video"} | ref.columns() for clip, ref in described]
    corpus.dataset.append("clips", rows)
    human = [
        {
            "clip_id": f"clip-{index}",
            "caption_id": hashlib.sha256(f"{index}".encode()).hexdigest(),
            "text": corpus.caption(index),
            "origin": "human",
            "status": "ok",
            "media_sha256": refs[index].media_sha256,
        }
        for index in corpus.captioned
    ]
    corpus.dataset.append("captions", human)
    return corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Ninety-six clips; read only."""
    return make_corpus(tmp_path_factory.mktemp("corpus") / "dataset", 96)


@pytest.fixture
def fresh_corpus(tmp_path):
    """Thirteen clips, to be written to."""
    return make_corpus(tmp_path / "dataset", 13)


@pytest.fixture(scope="session")
def tiny():
    """Settings of a captioner that learns the corpus in seconds."""
    return LocalCaptionerSettings(
        num_frames=4, side_px=16, width=64, encoder_layers=2, steps=150, batch=24, num_threads=1
    )


@pytest.fixture(scope="session")
def captioner(corpus, tiny, tmp_path_factory):
    """The folder of a captioner that was trained on the corpus's captions."""
    folder = str(tmp_path_factory.mktemp("captioner"))
    train_local(corpus.root, corpus.clips, tiny, folder)
    return folder
