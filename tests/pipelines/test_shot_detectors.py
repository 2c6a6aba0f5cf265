"""The detector of shots against PySceneDetect's, on scenes whose cuts are known."""

import collections
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from scenedetect import AdaptiveDetector, ContentDetector, HashDetector, HistogramDetector
from scenedetect.common import FrameTimecode

from pipelines.ingest_config import CutSettings
from pipelines.steps.changes import Changes, measured
from pipelines.steps.found import THUMB_PX
from pipelines.steps.shots import Borders, cuts
from tests.pipelines.scenes import kinds, scene

_NEAR = {"fades through black": 8, "dissolves": 8}


def thumbs_of(frames):
    size = (THUMB_PX, THUMB_PX)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def ours(frames):
    return cuts(measured(thumbs_of(frames)), CutSettings())


def library(make):
    def found(frames):
        detector, borders = make(min_scene_len=4), set()
        for index, frame in enumerate(frames):
            bgr = np.ascontiguousarray(frame[..., ::-1])
            borders |= {
                cut.frame_num for cut in detector.process_frame(FrameTimecode(index, fps=25.0), bgr)
            }
        last = FrameTimecode(len(frames) - 1, fps=25.0)
        return sorted(borders | {cut.frame_num for cut in detector.post_process(last)})

    return found


DETECTORS = {
    "ours": ours,
    "Adaptive": library(AdaptiveDetector),
    "Content": library(ContentDetector),
    "Histogram": library(HistogramDetector),
    "Hash": library(HashDetector),
}


@pytest.fixture(scope="module")
def table():
    """{kind: {detector: (found, missed, false)}}."""
    sums = collections.defaultdict(lambda: collections.defaultdict(lambda: np.zeros(3, int)))
    for kind, frames, truth in kinds():
        near = _NEAR.get(kind, 1)
        for name, find in DETECTORS.items():
            got = find(frames)
            hits = sum(any(abs(at - true) <= near for at in got) for true in truth)
            false = sum(all(abs(at - true) > near for true in truth) for at in got)
            sums[kind][name] += (hits, len(truth) - hits, false)
    return sums


def f1(found, missed, false):
    return 2 * found / max(1, 2 * found + missed + false)


@pytest.mark.slow
def test_no_detector_of_the_library_is_better_on_the_whole(table):
    scores = {
        name: f1(*sum(table[kind][name] for kind in table if kind != "dissolves"))
        for name in DETECTORS
    }
    assert scores["ours"] == max(scores.values())
    assert scores["ours"] > 0.97


def test_nothing_but_dissolves_fools_it():
    for kind, frames, truth in kinds():
        got, near = ours(frames), _NEAR.get(kind, 1)
        assert all(any(abs(at - true) <= near for true in truth) for at in got), kind
        if kind != "dissolves":
            assert len(got) == len(truth), kind


@pytest.mark.slow
def test_the_table_in_the_readme_is_what_was_measured(table):
    readme = Path(__file__).parents[2] / "pipelines" / "steps" / "README.md"
    text = readme.read_text(encoding="utf-8")
    for line in lines(table):
        assert line in text


def lines(table):
    """The table's rows as the README has them."""
    for kind, row in table.items():
        cells = []
        for name in DETECTORS:
            found, missed, false = row[name]
            of = f"{found}/{found + missed}" if found + missed else ""
            cells.append(" ".join(part for part in (of, f"+{false}" if false else "") if part))
        yield f"| {kind} | " + " | ".join(cell or "0" for cell in cells) + " |"


@pytest.mark.parametrize("num_frames", [1, 2, 7, 64, 69, 70, 200])
def test_changes_are_the_same_in_blocks_and_at_once(num_frames):
    thumbs = thumbs_of(scene(3, num_frames, 0.5))
    changes = Changes()
    rows = [changes.add(thumb) for thumb in thumbs]
    assert np.allclose(np.concatenate([*rows, changes.finish()]), measured(thumbs))


def test_borders_are_the_same_row_by_row_and_at_once():
    for _, frames, _ in list(itertools.islice(kinds(), 6)):
        rows = measured(thumbs_of(frames))
        borders = Borders(CutSettings())
        found = [at for row in rows for at in borders.add(row[None])]
        assert found + borders.finish() == cuts(rows, CutSettings())
