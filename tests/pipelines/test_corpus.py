"""The demo's source folder: real files, the same for the same seed, broken where it says so."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from infra import storage, video
from pipelines import corpus_faults
from pipelines.corpus import (
    PARTITIONS,
    FilePlan,
    by_source,
    file_bytes,
    frames_of,
    plan,
    read_truth,
    render,
)
from pipelines.corpus_config import CorpusSettings
from pipelines.ingest_config import IngestSettings
from pipelines.sources.config import SourceSettings
from pipelines.sources.listing import list_sources
from pipelines.steps.known import Known, prefixes
from pipelines.steps.source import Planned, Work, examine
from train.metrics.attributes import Attributes, is_held_out, parse

SETTINGS = CorpusSettings(
    num_videos=24, num_images=8, num_faulty=9, num_duplicates=2, num_cuts=1, num_frames=6
)
RED = Attributes("red", "circle", "large", "left", "quickly", "plain charcoal")


@pytest.fixture(scope="module")
def rendered(ray_local, tmp_path_factory):
    return render(str(tmp_path_factory.mktemp("corpus")), SETTINGS, seed=3)


def test_every_planned_file_is_written_once(rendered):
    written = [one.uri for one in storage.list_files(rendered.source_uri)]
    media = [uri for uri in written if not uri.endswith(".txt")]
    assert len(media) == rendered.num_files == 24 + 8 + 9 + 2 + 1


def test_files_lie_in_two_partitions(rendered):
    written = [one.uri for one in storage.list_files(rendered.source_uri)]
    tops = {uri.removeprefix(rendered.source_uri + "/").partition("/")[0] for uri in written}
    assert tops == set(PARTITIONS)


def test_the_truth_lies_outside_the_source_folder_and_knows_every_file(rendered):
    assert not rendered.truth_uri.startswith(rendered.source_uri)
    for one in read_truth(rendered.truth_uri):
        data = storage.read_bytes(storage.join(rendered.source_uri, one.path))
        assert hashlib.sha256(data).hexdigest() == one.source_id


def test_captions_say_what_the_truth_says(rendered):
    captioned = [one for one in read_truth(rendered.truth_uri) if one.captioned]
    assert len(captioned) == 16 == rendered.num_captioned
    for one in captioned:
        text = storage.join(rendered.source_uri, one.path.rpartition(".")[0] + ".txt")
        assert parse(storage.read_text(text)) == one.shots[0]


def test_rendering_again_writes_the_same_bytes():
    for one in plan(SETTINGS, seed=3):
        assert file_bytes(one, SETTINGS) == file_bytes(one, SETTINGS)


def test_another_seed_shows_other_clips():
    assert [p.seed for p in plan(SETTINGS, seed=3)] != [p.seed for p in plan(SETTINGS, seed=4)]


def test_held_out_combinations_are_never_planned():
    whole = plan(CorpusSettings(), seed=0)
    assert not any(is_held_out(shot) for one in whole for shot in one.shots)


def test_the_default_corpus_is_balanced():
    shots = [p.shots[0] for p in plan(CorpusSettings(), seed=0)]
    directions = Counter(shot.direction for shot in shots if shot.direction)
    assert max(directions.values()) < 1.1 * min(directions.values())


@pytest.mark.parametrize("ending", ["mp4", "webm", "png", "jpg"])
def test_a_decoded_file_shows_the_drawn_frames(ending):
    one = FilePlan(f"shelf-1/x.{ending}", (RED,), 5, None)
    drawn, seen = frames_of(one, SETTINGS), video.decode(file_bytes(one, SETTINGS)).frames
    assert seen.shape == drawn.shape
    assert np.abs(seen.astype(int) - drawn).mean() < 6  # of 255; 4:2:0 colour blurs the edges


@pytest.mark.parametrize("fault", corpus_faults.FAULTS.values(), ids=lambda fault: fault.name)
def test_a_fault_spoils_the_file_in_its_way(fault):
    one = FilePlan(f"shelf-1/x.{fault.ending}", (RED,), 5, None, fault.name)
    data = file_bytes(one, SETTINGS)
    if not corpus_faults.refuses_file(fault.name):
        assert len(video.decode(data).frames) == SETTINGS.num_frames
        with pytest.raises(UnicodeDecodeError):
            corpus_faults.caption_bytes(fault.name, None).decode()
    elif fault.reason == "truncated":
        assert len(video.decode(data).frames) in range(1, SETTINGS.num_frames)
    else:
        with pytest.raises(video.VideoError) as refusal:
            video.decode(data)
        assert refusal.value.reason == fault.reason


@pytest.mark.parametrize("fault", corpus_faults.FAULTS.values(), ids=lambda fault: fault.name)
def test_the_ingest_gives_each_fault_its_reason(fault, tmp_path):
    one = FilePlan(f"x.{fault.ending}", (RED,), 5, None, fault.name)
    path = tmp_path / one.path
    path.write_bytes(file_bytes(one, SETTINGS))
    if text := corpus_faults.caption_bytes(fault.name, None):
        path.with_suffix(".txt").write_bytes(text)
    (entry,) = list_sources(str(tmp_path), SourceSettings())
    work = Work(Known(prefixes([])), IngestSettings(), SourceSettings())
    *clips, outcome = examine(Planned(entry), work)
    assert [refusal.reason for refusal in outcome.refusals] == [fault.reason]
    assert bool(clips) != corpus_faults.refuses_file(fault.name)


def test_a_cut_shows_its_two_shots_one_after_the_other():
    blue = Attributes("blue", "square", "small", "up", "slowly", "grey checkered")
    frames = frames_of(FilePlan("shelf-1/x.mp4", (RED, blue), 5, None), SETTINGS)
    assert len(frames) == 2 * SETTINGS.num_frames
    jumps = np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))
    assert jumps.argmax() == SETTINGS.num_frames - 1


def test_duplicates_are_the_same_source_twice(rendered):
    ids = Counter(one.source_id for one in read_truth(rendered.truth_uri) if one.kind == "video")
    assert sorted(ids.values())[-3:] == [1, 2, 2]
    assert set(ids) <= set(by_source(read_truth(rendered.truth_uri)))
