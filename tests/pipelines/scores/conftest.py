"""Datasets whose clips have scores and hashes but no media: what is decided needs no decoding."""

import pytest

from infra.store.dataset import Dataset
from pipelines.scores.versions import VERSIONS


class Corpus:
    """A dataset that rows are put into."""

    def __init__(self, root):
        self.dataset = Dataset.open(str(root), create=True)

    def clips(self, *rows):
        """Add clips; what a row leaves out is that of a plain video."""
        usual = {"kind": "video", "width": 640, "height": 360, "duration_s": 4.0}
        usual |= {"fps_num": 25, "fps_den": 1, "num_frames": 100, "source_uri": "u"}
        ids = [{"source_id": f"of-{row['clip_id']}"} for row in rows]
        self.dataset.append(
            "clips", [usual | own | row for own, row in zip(ids, rows, strict=True)]
        )

    def score(self, scorer, values, version=None):
        """Add a score of each clip in `values`."""
        version = version or VERSIONS[scorer]
        constant = {"scorer": scorer, "version": version, "run_id": "r"}
        self.dataset.append(
            "scores", [constant | {"clip_id": c, "value": v} for c, v in values.items()]
        )

    def hashed(self, marks, detail=0.2, **more):
        """Add clips with these perceptual hashes, each of a source of its own."""
        self.clips(*({"clip_id": clip, "phash": mark} | more for clip, mark in marks.items()))
        self.score("detail", dict.fromkeys(marks, detail))

    def left_out(self, version):
        """Return doubles to what each doubles; a clip that was looked up and stays is not here."""
        rows = [r for r in self.dataset.read("duplicates").to_pylist() if r["version"] == version]
        return {r["clip_id"]: r["of_clip_id"] for r in rows if r["clip_id"] != r["of_clip_id"]}


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path / "dataset")
