"""Settings of `snapvideo dataset`: one section for all of its actions, each of which reads a few.

An empty or zero value means what suits the action; its help says what that is.
"""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from infra.config import Settings

Split = Literal["train", "validation", "test"]
ExportFormat = Literal["webdataset", "parquet", "huggingface"]


class DatasetSettings(Settings):
    """What the actions on a dataset look at, write and leave alone."""

    root: str = ""
    """Root of the dataset, a folder or s3://bucket/prefix; empty: the run's (--name, --output)."""
    json_: bool = False
    """Answer in JSON, for a program."""
    release: str = ""
    """Name of the release that is meant; empty: everything that counts now."""
    limit: NonNegativeInt = 0
    """Most rows or clips shown; 0: history 50, diff 20, preview 300."""
    quick: bool = False
    """Verify sizes and footers of the media, and read no clip."""
    threads: PositiveInt = 8
    """Files that are read at once."""
    older_than_h: NonNegativeFloat = 72.0
    """Hours for which what nothing refers to is left alone: longer than any ingest's block and
    any reader's run."""
    apply: bool = False
    """Really delete; without it, vacuum only says what it would."""
    target_mib: PositiveInt = 128
    """Size of a table's data file after compaction, MiB."""
    format: ExportFormat = "webdataset"
    """What an export is made of."""
    out: str = ""
    """Where to: a folder or s3://bucket/prefix of an export, the file of a preview (else
    preview.html in the run's folder, or here where --root is given)."""
    splits: tuple[Split, ...] = ("train", "validation", "test")
    """Which splits are exported."""
    shard_mib: PositiveInt = 512
    """Size of an export's shard, MiB."""
