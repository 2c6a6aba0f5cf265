"""Cut and shrink local files with video2dataset 1.3; runs in an environment of its own.

    PEER/bin/python infra/bench/peer_video2dataset.py FOLDER OUT CLIP_S CLIPS_PER_FILE HEIGHT

It imports nothing of ours. `infra.bench.ingest --peer-python` starts it; the README beside this
file says how to make the environment. Two things of that release are mended from outside: the
folder that it forgets to make, and an attribute that its resolution step lacks.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from video2dataset import video2dataset  # type: ignore[import-not-found]  # only the peer has it
from video2dataset.subsamplers.resolution_subsampler import (  # type: ignore[import-not-found]
    ResolutionSubsampler,
)

ResolutionSubsampler.encode_formats = {"video": "mp4"}  # also in its processes, which import this


def main(folder: str, out: str, clip_s: int, clips_per_file: int, height: int) -> None:
    """Write the clips of every file below a folder into tars, with two processes."""
    files = sorted(Path(folder).glob("*.mp4"))
    spans = [[float(i * clip_s), float((i + 1) * clip_s)] for i in range(clips_per_file)]
    table = Path(out).with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist([{"url": str(p), "clips": spans} for p in files]), table)
    Path(out, "_tmp").mkdir(parents=True)
    settings = {
        "subsampling": {
            "ClippingSubsampler": {"args": {"max_length": 999999.0}},
            "ResolutionSubsampler": {"args": {"height": height, "resize_mode": "scale"}},
        },
        "reading": {"yt_args": {"download_size": 360, "download_audio_rate": 44100,
                                "yt_metadata_args": None}, "timeout": 60, "sampler": None},
        "storage": {"number_sample_per_shard": max(1, len(files) // 8), "oom_shard_count": 5,
                    "captions_are_subtitles": False},
        "distribution": {"processes_count": 2, "thread_count": 1, "subjob_size": 1000,
                         "distributor": "multiprocessing"},
    }  # fmt: skip
    video2dataset(
        url_list=str(table),
        input_format="parquet",
        output_folder=out,
        output_format="webdataset",
        url_col="url",
        clip_col="clips",
        encode_formats={"video": "mp4"},
        config=settings,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(word) for word in sys.argv[3:6]))
