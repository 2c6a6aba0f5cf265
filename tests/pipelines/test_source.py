"""One source file: what its sidecar caption may be."""

from infra import storage
from infra.video import encode_image
from pipelines.ingest_config import IngestSettings
from pipelines.steps.source import examine
from tests.infra.videos import moving


def test_a_caption_that_cannot_be_read_is_refused_and_its_clip_kept(tmp_path):
    uri = str(tmp_path / "still #1 \u00fc.png")
    storage.write_bytes(uri, encode_image(moving(1)[0]))
    (tmp_path / "still #1 \u00fc.txt").mkdir()
    found = examine(uri, frozenset(), IngestSettings())
    assert (len(found.clips), found.caption) == (1, None)
    assert [(r.stage, r.reason, r.retryable) for r in found.refusals] == [
        ("caption", "caption_unreadable", True)
    ]


def test_a_caption_that_is_a_link_to_nowhere_was_not_written(tmp_path):
    uri = str(tmp_path / "still.png")
    storage.write_bytes(uri, encode_image(moving(1)[0]))
    (tmp_path / "still.txt").symlink_to("/nowhere.txt")
    found = examine(uri, frozenset(), IngestSettings())
    assert (found.caption, found.refusals) == (None, [])
