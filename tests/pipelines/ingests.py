"""Ingests of small folders, as the flow runs them, and what they leave in the tables."""

import json
import subprocess
import sys

from infra import storage
from infra.store.dataset import Dataset
from infra.video import encode_image, encode_video
from pipelines.datasets import actions
from pipelines.datasets.config import DatasetSettings
from pipelines.ingest import ingest
from pipelines.ingest_config import IngestSettings
from pipelines.prepare import prepared
from pipelines.refresh_config import RefreshSettings
from pipelines.sources.config import SourceSettings
from tests.infra.videos import moving, sound, video
from tests.pipelines.test_shots import TWO_SHOTS

SMALL = IngestSettings(files_per_task=4, max_refused_share=0.7)


def fill(root):
    """A folder with captioned, uncaptioned, doubled and broken files."""
    plain = encode_video(moving(), 8)
    files = {
        "red.mp4": plain,
        "red.txt": b"\xef\xbb\xbfa red square moves right\n",
        "again.mp4": plain,
        "blue #1 \u00fc.webm": encode_video(moving(colour=(0, 0, 255)), 8, "webm", "libvpx-vp9"),
        "blue #1 \u00fc.txt": "\u00e9t\u00e9".encode("latin-1"),
        "still.png": encode_image(moving(1)[0]),
        "still.txt": b"a red square",
        "two.mp4": encode_video(TWO_SHOTS, 8),
        "two.txt": b"which of the two?",
        "long.mp4": encode_video(moving(25, colour=(0, 200, 0)), 1),
        "empty.mp4": b"",
        "page.mp4": b"<html></html>",
        "sound.mp4": sound(),
        "short.mp4": encode_video(moving(1), 8),
        "codec.mp4": plain.replace(b"avc1", b"zzzz"),
        "hdr.mp4": video(transfer=16),
    }
    for name, data in files.items():
        storage.write_bytes(storage.join(root, name), data)


def bring_in(source, root, settings=SMALL, run_id="run-1", code="", **refresh):
    """Ingest a source as the flow does it; return the counts of its only partition."""
    (counts,) = bring_in_all(source, root, settings, run_id, code, **refresh).values()
    return counts


def bring_in_all(source, root, settings=SMALL, run_id="run-1", code="", **refresh):
    wanted = RefreshSettings(**refresh)
    with prepared(root, str(source), SourceSettings(), settings, wanted) as found:
        return ingest(root, found, settings, SourceSettings(), run_id, code)


def state(root):
    """What tables hold, without what differs from run to run."""
    dataset = Dataset.open(root)
    clips = dataset.read("clips", columns=["clip_id", "media_sha256", "split_bucket"])
    captions = dataset.read("captions", columns=["clip_id", "text", "media_sha256"])
    refused = dataset.read("quarantine", columns=["source_id", "stage", "reason"])
    return [
        sorted(json.dumps(row) for row in rows.to_pylist()) for rows in (clips, captions, refused)
    ]


def verified(root):
    """Return the exit code of `snapvideo dataset verify`."""
    return actions.run(actions.Asked(root, DatasetSettings()), "verify")[1]


def clips_of(root):
    return Dataset.open(root).read("clips").to_pylist()


PROGRAM = """
import dataclasses, json, sys
from infra import cluster, logs
logs.setup()
cluster.start(cluster.ClusterSettings(num_cpus=2, dashboard=False, object_store_mib=128))
from pipelines.ingest import ingest
from pipelines.ingest_config import IngestSettings
from pipelines.prepare import prepared
from pipelines.sources.config import SourceSettings
source, root = sys.argv[1:]
settings = IngestSettings(files_per_task=2, max_refused_share=0.7)
with prepared(root, source, SourceSettings(), settings) as found:
    (counts,) = ingest(root, found, settings, SourceSettings(), "run-1").values()
print(json.dumps(dataclasses.asdict(counts)))
"""


def start(source, root):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, source, root], stdout=subprocess.PIPE, text=True
    )
