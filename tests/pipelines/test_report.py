"""The report: nothing beside the page is needed, and the numbers are those on the page."""

import json
import re

import numpy as np
import pytest

from infra import storage, video
from pipelines.report import ClipView, ReportData, SampleView, numbers, page, write
from pipelines.report_figures import Curve, contact_sheet, line_chart
from train.metrics import shapes
from train.metrics.attributes import Attributes, caption
from train.metrics.detector import accuracy, detect

WANTED = Attributes("red", "circle", "large", "left", "quickly", "plain charcoal")
FRAMES = shapes.clip(WANTED, seed=1, num_frames=8, width=32, height=24)
STILL = Attributes("blue", "square", "small", None, None, "black gradient")


@pytest.fixture(scope="module")
def data():
    backwards = video.encode_video(FRAMES[::-1], fps=4)
    seen = detect(video.decode(backwards).frames).attributes
    still = video.encode_image(shapes.clip(STILL, 0, 1)[0], kind="jpeg")
    return ReportData(
        title="A <test> & its page",
        created_at="today",
        counts={"clips": 1200},
        samples=[SampleView(backwards, caption(WANTED), WANTED, seen, is_held_out=True)],
        clips=[
            ClipView(video.encode_video(FRAMES, 4), caption(WANTED), "human"),
            ClipView(still, "a red <b>square</b>", "synthetic", STILL, Attributes("red", "square")),
        ],
        curves=[Curve("stage1.loss", "Loss", [0, 1, 2], [1.0, float("nan"), 0.5])],
        captions=accuracy([(STILL, STILL)] * 3),
        sampled=accuracy([(WANTED, seen)]),
        judged=accuracy([(WANTED, WANTED)]),
        quarantine={"truncated": 2},
        seconds={"ingest": 61.24},
    )


def test_the_page_loads_nothing_from_elsewhere(data):
    links = re.findall(r'(?:src|href)="([^"]{5})', page(data))
    assert len(links) == 4
    assert set(links) == {"data:"}
    assert "url(" not in page(data)


def test_text_of_others_is_escaped(data):
    assert "A &lt;test&gt; &amp; its page" in page(data)
    assert "<b>square" not in page(data)


def test_a_wrong_sample_shows_what_was_seen_instead(data):
    assert re.search(r'<span class="chip wrong">direction: right</span>', page(data))
    assert re.search(r'<span class="chip">colour</span>', page(data))


def test_a_wrong_caption_shows_the_truth(data):
    assert "colour is blue" in page(data)


def test_numbers_lie_under_the_promised_keys(data):
    tree = numbers(data)
    assert tree["captions"]["accuracy"]["colour"] == 1.0
    assert tree["samples"]["accuracy"]["colour"] == 1.0
    assert tree["samples"]["accuracy"]["direction"] == 0.0
    assert tree["samples"]["interval"]["direction"] == [0.0, 0.7935]
    assert tree["samples"]["chance"]["direction"] == 0.25
    assert tree["detector"]["accuracy"]["direction"] == 1.0
    assert tree["quarantine"]["truncated"] == 2
    assert tree["seconds"]["ingest"] == 61.2
    assert tree["final"]["stage1.loss"] == 0.5


def test_page_and_numbers_are_written_side_by_side(data, tmp_path):
    write(str(tmp_path / "run"), data)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["counts"] == {"clips": 1200}
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_the_report_can_be_written_to_s3(data, s3):
    write(f"{s3}/runs/demo", data)
    assert storage.exists(f"{s3}/runs/demo/report.html")


def test_a_run_without_truth_or_samples_has_a_page_too():
    bare = ReportData(title="Bare", created_at="today")
    assert "Samples" not in page(bare)
    assert "captions" not in numbers(bare)


def test_a_contact_sheet_shows_every_frame_in_rows():
    sheet = video.decode_image(contact_sheet(FRAMES, 8, columns=4))
    assert sheet.shape == (24 * 2 + 1, 32 * 4 + 3, 3)
    assert np.array_equal(sheet[25:, :32], FRAMES[4])


def test_a_curve_that_is_not_finite_anywhere_says_so():
    chart = line_chart(Curve("x", "x", [0, 1], [float("nan")] * 2))
    assert "no values" in chart
