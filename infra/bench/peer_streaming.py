"""The same clips through mosaicml-streaming; runs in an environment of its own.

    PEER/bin/python -m infra.bench.peer_streaming FOLDER OUT write    # clips of FOLDER as MDS
    PEER/bin/python -m infra.bench.peer_streaming FOLDER OUT read     # prints the rate

`infra.bench.reader --peer-python` starts it; the README beside this file says how to make the
environment. Its decoding is ours, called in its data set, so that only the reading differs. It
keeps no texts, so it does a little less.
"""

import json
import sys
import types
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.bench.reader_loops import (
    BATCH,
    PROCESSES,
    RELEASE,
    SHOWN,
    WARM_BATCHES,
    Preads,
    Rate,
    Window,
    settings,
)
from infra.store import release
from train.decode import Decoder
from train.order import sample_seed

# Its picture data sets want a torchvision that fits this torch; nothing here uses them.
sys.modules["streaming.vision"] = types.ModuleType("streaming.vision")

from streaming import (  # type: ignore[import-not-found]  # noqa: E402 - only the peer has it
    MDSWriter,
    StreamingDataset,
)

_COLUMNS = {"clip_id": "str", "media": "bytes"}


class Given:
    """Stands where our reader fetches: the bytes have come with the sample."""

    def get(self, row: Mapping[str, Any]) -> bytes:
        """Return the bytes."""
        return bytes(row["media"])


class Clips(StreamingDataset):  # type: ignore[misc]  # its class has no types here
    """Clips as frames."""

    def __init__(self, local: Path) -> None:
        super().__init__(local=str(local), shuffle=True, shuffle_seed=0, batch_size=BATCH)
        self._decoder = Decoder(Given(), settings(BATCH).reader, SHOWN, keeps=False)

    def __getitem__(self, number: int) -> Any:  # noqa: ANN401 - frames
        row = super().__getitem__(number) | {"kind": "video", "crop": None}
        return self._decoder.shown(row, sample_seed(0, "video", number)).frames


def write(folder: Path, out: Path) -> None:
    """Copy every clip of the release into MDS shards of 64 MiB."""
    files = Preads(folder)
    with (
        MDSWriter(out=str(out), columns=_COLUMNS, size_limit=64 << 20) as sink,
        release.load(str(folder), RELEASE).rows(
            ["clip_id", "media_file", "media_offset", "media_length"]
        ) as rows,
    ):
        for batch in rows:
            for row in batch.to_pylist():
                sink.write({"clip_id": row["clip_id"], "media": files.get(row)})


def collated(frames: list[np.ndarray[Any, Any]]) -> torch.Tensor:
    """Return clips as training wants them: [-1, 1], [batch, 3, t, h, w]."""
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 4, 1, 2, 3)
    return (pixels.float() / 127.5 - 1).contiguous()


def read(out: Path) -> Rate:
    """Read one epoch."""
    window = Window()
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        Clips(out), batch_size=BATCH, num_workers=PROCESSES, collate_fn=collated
    )
    batches = len(loader)
    for number, clips in enumerate(loader):
        assert clips.shape == (BATCH, 3, 16, 36, 64)
        if number == WARM_BATCHES - 1:
            window.begin()
        if number == batches - 1:
            return window.end((batches - WARM_BATCHES) * BATCH)
    raise AssertionError("the last batch ends the loop")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[3] == "write":
        write(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        sys.stdout.write(json.dumps(asdict(read(Path(sys.argv[2])))) + "\n")
