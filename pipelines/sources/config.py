"""Settings of the sources: how they are listed, what a manifest's columns mean, what HTTP may."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from infra.config import Settings


class ManifestSettings(Settings):
    """What the columns of a Parquet, CSV or JSONL manifest mean; others become metadata."""

    uri_column: str = "uri"
    """Column with the address of the media; relative ones lie below the manifest's folder."""
    caption_columns: tuple[str, ...] = ()
    """Columns with captions, one text or a list of them; empty: `caption`, where there is one."""
    caption_origin: Literal["human", "alt_text", "asr", "synthetic"] = "human"
    """Who wrote these captions."""
    lang_column: str = ""
    """Column with the captions' language; empty: not known."""
    partition_column: str = ""
    """Column with the partition of a row; empty: as `sources.partition_by` says."""
    date_column: str = ""
    """Column with the day (YYYY-MM-DD...) for `sources.partition_by: date`."""
    stamp_column: str = ""
    """Column that changes when the media does, such as an ETag; empty: see `check_changes`."""
    allow_outside: bool = False
    """Whether rows may lead out of the manifest's folder by `..`, and rows of a manifest that
    lies in S3 or on the web may name files of this machine."""
    max_row_kib: PositiveInt = 1024
    """Longest row of a list or manifest, KiB."""
    max_mib: PositiveInt = 16384
    """Largest list or manifest that is fetched from S3 or the web, MiB."""
    max_group_mib: PositiveInt = 1024
    """Largest row group of a Parquet manifest, unpacked, MiB."""


class HttpSettings(Settings):
    """What may be fetched over HTTP, and how long it may take."""

    hosts: tuple[str, ...] = ()
    """Hosts that may be asked, `*.example.org` for all below one, `*` for any; empty: none."""
    schemes: tuple[Literal["http", "https"], ...] = ("https",)
    """Schemes that may be used."""
    allow_private: bool = False
    """Whether addresses of this machine and of private networks may be asked."""
    max_redirects: NonNegativeInt = 5
    """Redirects that are followed for one address."""
    read_timeout_s: PositiveFloat = 30.0
    """Longest wait for a connection or for the next bytes, seconds."""
    total_timeout_s: PositiveFloat = 600.0
    """Longest time for one address, redirects included, seconds."""


class SourceSettings(Settings):
    """How sources are listed and read."""

    partition_by: Literal["folder", "date", "shard"] = "folder"
    """What a partition is: the first folder below the source, a day, or a share of the names."""
    num_shards: int = Field(default=64, ge=1, le=100_000)
    """Partitions for `partition_by: shard`; the members of a tar form one each."""
    caption_key: str = "caption"
    """Key of the caption in .json files beside the media; other keys become metadata."""
    max_caption_kib: PositiveInt = 256
    """Largest .txt or .json beside the media, and largest metadata of one source, KiB."""
    max_attempts: PositiveInt = 5
    """Runs that try a source which is refused for a reason that may pass."""
    attempts: PositiveInt = 3
    """Tries within one run, of a source that changes while it is read or does not answer."""
    retry_wait_s: float = Field(default=1.0, ge=0)
    """Wait before the second try, seconds; it doubles each time."""
    check_changes: bool = False
    """Whether each address of a list or manifest in S3 or on the web is asked for changes."""
    parallel_checks: int = Field(default=16, ge=1, le=256)
    """Requests at once for `check_changes`, and tars that are listed at once."""
    memory_mib: PositiveInt = 64
    """Sources up to this size are read into memory, others into a temporary file, MiB."""
    manifest: ManifestSettings = ManifestSettings()
    """Lists and manifests."""
    http: HttpSettings = HttpSettings()
    """The web."""

    @model_validator(mode="after")
    def _dates_are_somewhere(self) -> Self:
        if self.manifest.date_column and self.partition_by != "date":
            raise ValueError(
                f"manifest.date_column ({self.manifest.date_column!r}) is read only with "
                f"partition_by: date, got {self.partition_by}"
            )
        return self
