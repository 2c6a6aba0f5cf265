"""The preview page: what it shows, that it filters, and that nothing in it can act."""

import io
import json
import re

import pytest
from PIL import Image

from infra import storage
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.selection import Selection
from pipelines.datasets import preview as previews
from pipelines.datasets.config import DatasetSettings
from pipelines.datasets.filmstrip import filmstrip
from pipelines.datasets.preview import preview
from tests.pipelines.datasets.browser import CHROMIUM, Page
from tests.pipelines.datasets.corpora import HOSTILE, clip_rows, name

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def written(dataset, out, **over):
    preview(dataset.root, str(out), DatasetSettings(**over), Selection())
    return storage.read_text(str(out))


def facts(text):
    return json.loads(re.search(r'id="facts">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_clips_captions_scores_and_quarantine(corpus, tmp_path):
    found = facts(written(corpus, tmp_path / "page.html"))
    assert (found["num_clips"], len(found["clips"])) == (8, 8)
    assert {clip["partition"] for clip in found["clips"]} == {"part0", "part1"}
    assert all(clip["image"].startswith("data:image/webp;base64,") for clip in found["clips"])
    several = [clip for clip in found["clips"] if len(clip["captions"]) > 1]
    assert [[one["origin"] for one in clip["captions"]] for clip in several] == [
        ["human", "synthetic"]
    ]
    assert [one["name"] for one in found["scorers"]] == ["motion"]
    assert sum(found["scorers"][0]["bins"]) == 8
    reasons = [(one["reason"], one["num"], len(one["rows"])) for one in found["quarantine"]]
    assert reasons == [("unreadable", 3, 3), ("too_short", 1, 1)]


def test_the_same_clips_are_drawn_every_time_and_of_every_partition_alike(local, tmp_path):
    first = facts(written(local, tmp_path / "a.html", limit=4))
    again = facts(written(local, tmp_path / "b.html", limit=4))
    assert [clip["id"] for clip in first["clips"]] == [clip["id"] for clip in again["clips"]]
    assert sorted(clip["partition"] for clip in first["clips"]) == ["part0"] * 2 + ["part1"] * 2


def test_a_release_is_previewed_as_it_was_pinned(local, tmp_path):
    local.append("clips", clip_rows(local, 8, 2))
    assert len(facts(written(local, tmp_path / "now.html"))["clips"]) == 10
    pinned = facts(written(local, tmp_path / "then.html", release="first"))
    assert (pinned["release"], len(pinned["clips"])) == ("first", 8)


def test_doubles_are_not_shown_where_they_do_not_count(local, tmp_path):
    one, other = local.read("clips", columns=["clip_id"])["clip_id"].to_pylist()[:2]
    local.append("duplicates", [{"clip_id": one, "of_clip_id": other, "version": "v"}])
    selection = Selection(duplicate_versions=("v",))
    preview(local.root, str(tmp_path / "page.html"), DatasetSettings(), selection)
    ids = {clip["id"] for clip in facts((tmp_path / "page.html").read_text())["clips"]}
    assert len(ids) == 7
    assert one not in ids


def test_a_clip_that_cannot_be_shown_says_why(local, tmp_path):
    storage.delete(local.uri(local.read("clips").to_pylist()[0]["media_file"]))
    clips = facts(written(local, tmp_path / "page.html"))["clips"]
    assert {bool(clip["image"]) for clip in clips} == {True, False}
    assert all("no such file" in clip["fault"] for clip in clips if not clip["image"])


def test_a_dataset_with_nothing_in_it_is_refused(tmp_path):
    empty = Dataset.open(str(tmp_path / "empty"), create=True)
    with pytest.raises(DataError, match="ingest first"):
        written(empty, tmp_path / "page.html")


def test_a_film_strip_shows_moments_in_order(local):
    row = local.read("clips").to_pylist()[1]
    strip = Image.open(io.BytesIO(filmstrip(read_media(local.root, row), row["num_frames"])))
    assert strip.size == (6 * 64 + 5 * 2, 48)
    balls = [
        max(range(64), key=lambda x, i=i: strip.getpixel((66 * i + x, 24))[0]) for i in range(6)
    ]
    assert balls == sorted(balls)
    assert balls[0] < 20 < 40 < balls[-1]


def test_an_image_is_one_frame(local):
    row = local.read("clips").to_pylist()[7]
    strip = Image.open(io.BytesIO(filmstrip(read_media(local.root, row), 1)))
    assert strip.size == (64, 48)


def test_text_cannot_leave_its_place_in_the_page():
    text = previews.page(
        {
            "title": HOSTILE, "root": HOSTILE, "release": HOSTILE, "created_at": HOSTILE,
            "num_clips": 0, "clips": [], "scorers": [], "quarantine": [],
        }
    )  # fmt: skip
    assert HOSTILE not in text
    assert "<img src=x" not in text


@needs_browser
def test_filters_hide_what_does_not_fit(local, tmp_path):
    written(local, tmp_path / "page.html")
    with Page(f"file://{tmp_path}/page.html") as page:
        shown = "[...document.querySelectorAll('.card')].filter((one) => !one.hidden).length"
        assert page.run(shown) == 8
        page.press("/")
        page.type("SOURCE 3.mp4")
        assert page.run(shown) == 2
        assert "q=SOURCE" in page.run("location.hash")
        page.press("Escape")
        assert page.run(shown) == 8
        page.run("const kind = document.getElementById('kind'); kind.value = 'image';"
                 "kind.dispatchEvent(new Event('change'))")  # fmt: skip
        assert page.run(shown) == 1
        page.click("#clear")
        assert page.run(shown) == 8
        slider = "document.querySelector('[aria-label=\"motion at least\"]')"
        page.run(f"{slider}.focus()")
        for _ in range(100):
            page.press("ArrowRight")
        assert page.run(f"{slider}.value") == "100"
        assert page.run(shown) == 4  # scores 4, 5, 6, 7 of 0..7


@needs_browser
def test_an_address_with_filters_opens_the_same_view(local, tmp_path):
    written(local, tmp_path / "page.html")
    words = "#partition=%3Dpart1&score.motion=5%3A6&sort=-motion"
    with Page(f"file://{tmp_path}/page.html{words}") as page:
        ids = page.run("[...document.querySelectorAll('.card')].filter((one) => !one.hidden)"
                       ".map((one) => one.querySelector('.caption').textContent)")  # fmt: skip
        assert ids == ["a ball number 6human", "a ball number 5human"]


@needs_browser
@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("partition=%3Dpart0", "0123"),
        ("split=test", "01"),
        ("origin=%3Dsynthetic", "0"),
        ("origin=none", "8"),
        ("sort=%2Bmotion", "012345678"),
        ("sort=-motion", "765432108"),
        ("sort=shortest&kind=image", "7"),
        ("sort=largest&q=source+3.mp4", "67"),
    ],
)
def test_every_filter_and_order_of_the_page_does_what_it_says(local, tmp_path, words, numbers):
    silent = clip_rows(local, 8, 1)
    local.append("clips", silent)  # without caption, score or partition
    names = {row["clip_id"]: str(row["number"]) for row in numbered(local)}
    written(local, tmp_path / "page.html")
    with Page(f"file://{tmp_path}/page.html#{words}") as page:
        ids = page.run("[...document.querySelectorAll('.card')].filter((one) => !one.hidden)"
                       ".map((one) => one.id.slice(5))")  # fmt: skip
    found = [names[one] for one in ids]
    assert (found if "sort" in words else sorted(found)) == list(numbers)


def numbered(dataset):
    rows = dataset.read("clips", columns=["clip_id"]).to_pylist()
    wanted = {name(f"clip {number}")[:32]: number for number in range(9)}
    return [row | {"number": wanted[row["clip_id"]]} for row in rows]


@needs_browser
def test_quarantine_is_filtered_by_reason_and_text(local, tmp_path):
    written(local, tmp_path / "page.html")
    with Page(f"file://{tmp_path}/page.html") as page:
        page.click("#tab-quarantine")
        blocks = "[...document.querySelectorAll('.reason')].filter((one) => !one.hidden).length"
        rows = ("[...document.querySelectorAll('.reason:not([hidden]) tbody tr')]"
                ".filter((one) => !one.hidden).length")  # fmt: skip
        assert (page.run(blocks), page.run(rows)) == (2, 4)
        page.run("const one = document.getElementById('reason'); one.value = 'scan: too_short';"
                 "one.dispatchEvent(new Event('change'))")  # fmt: skip
        assert (page.run(blocks), page.run(rows)) == (1, 1)
        page.press("Escape")
        page.press("/")
        page.type("bad 1.mp4")
        assert (page.run(blocks), page.run(rows)) == (1, 1)


@needs_browser
def test_hostile_text_is_shown_and_does_nothing(local, tmp_path):
    written(local, tmp_path / "page.html")
    with Page(f"file://{tmp_path}/page.html") as page:
        texts = page.run("[...document.querySelectorAll('.caption')].map((one) => one.textContent)")
        assert HOSTILE + "human" in texts
        assert page.run("document.title") == "data: preview"
        assert page.run("document.querySelectorAll('img[src=x]').length") == 0
        assert page.run("document.querySelectorAll('script').length") == 2
        assert page.said == []


@needs_browser
def test_the_page_asks_no_network_and_its_policy_forbids_more(local, tmp_path):
    written(local, tmp_path / "page.html")
    with Page(f"file://{tmp_path}/page.html") as page:
        page.run(
            "[...document.querySelectorAll('img')].forEach((one) => { one.loading = 'eager' })"
        )
        page.until("[...document.querySelectorAll('img')].every((one) => one.complete)")
        widths = page.run("[...document.querySelectorAll('img')].map((one) => one.naturalWidth)")
        assert len(widths) == 8
        assert min(widths) > 0
        asked = [url for url in page.requests if not url.startswith(("file:", "data:", "about:"))]
        assert asked == []
        page.run("const late = document.createElement('script'); late.textContent = "
                 "\"document.title = 'stolen'\"; document.body.append(late)")  # fmt: skip
        assert page.run("document.title") == "data: preview"


@needs_browser
def test_keys_walk_from_clip_to_clip_and_enlarge(local, tmp_path):
    written(local, tmp_path / "page.html")
    with Page(f"file://{tmp_path}/page.html") as page:
        page.press("j")
        page.press("j")
        second = "document.activeElement === document.querySelectorAll('.card')[1]"
        assert page.run(second)
        page.press("Enter")
        assert page.run("document.activeElement.classList.contains('wide')")
        page.press("k")
        assert page.run("document.activeElement === document.querySelectorAll('.card')[0]")
