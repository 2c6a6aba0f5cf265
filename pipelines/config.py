"""The settings tree of every command: one section per stage, one YAML for all of them."""

import shlex
from functools import cached_property

from pydantic import Field, NonNegativeInt, PositiveInt

from captioning.config import CaptionSettings, LocalCaptionerSettings
from infra import storage
from infra.cluster import ClusterSettings
from infra.config import Settings
from infra.tracking import TrackingSettings, tracking_uri
from pipelines.corpus_config import CorpusSettings
from pipelines.datasets.config import DatasetSettings
from pipelines.ingest_config import IngestSettings
from pipelines.models_config import DescribeSettings
from pipelines.refresh_config import RefreshSettings
from pipelines.samples_config import DrawSettings, SampleSettings
from pipelines.scores.config import FilterSettings, ScoreSettings
from pipelines.sources.config import SourceSettings
from serve.config import ServeSettings
from train.config import TrainSettings
from train.text_config import TextSettings

LOCAL = "local"
"""As `captioning.model` or `text.model`: build a small one from the corpus's own captions."""


class StorageSettings(Settings):
    """How object storage is reached; credentials come from the usual AWS variables."""

    s3_endpoint: str = ""
    """URL of another S3-speaking server, such as http://127.0.0.1:9000; empty is AWS."""


class RunConfig(Settings):
    """Everything that a run, or any one command of it, reads."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its folder is <output>/<name>."""
    output: str = "runs"
    """Local folder or s3://bucket/prefix that holds the runs."""
    source: str = ""
    """What to ingest: a folder, file or glob, s3://bucket/prefix, a tar of media or a folder of
    them, a list (.txt) or manifest (.parquet, .csv, .jsonl), a URL."""
    truth: str = ""
    """File that says what the sources really show; only the report reads it."""
    seed: NonNegativeInt = 0
    """Seed of what is rendered and of the small models built here."""
    text_width: PositiveInt = 32
    """Width of the tiny text encoder that `text.model: local` builds."""
    corpus: CorpusSettings = CorpusSettings()
    """What `snapvideo demo` renders."""
    sources: SourceSettings = SourceSettings()
    """How sources are listed, grouped and read."""
    refresh: RefreshSettings = RefreshSettings()
    """Which part of the source is looked at."""
    ingest: IngestSettings = IngestSettings()
    """Probing, validation, cutting."""
    scores: ScoreSettings = ScoreSettings()
    """What is measured of each clip."""
    filter: FilterSettings = FilterSettings()
    """Which clips count."""
    captioner: LocalCaptionerSettings = LocalCaptionerSettings()
    """How `captioning.model: local` is trained."""
    captioning: CaptionSettings = CaptionSettings()
    """Which model writes the missing captions, and how."""
    text: TextSettings = TextSettings()
    """Which encoder reads captions and prompts."""
    stage1: TrainSettings = TrainSettings()
    """Training of the low-resolution model."""
    stage2: TrainSettings = TrainSettings()
    """Training of the upsampler."""
    samples: SampleSettings = SampleSettings()
    """What is sampled: at the end of a run, and by `snapvideo sample`."""
    draw: DrawSettings = DrawSettings()
    """From which weights `snapvideo sample` makes that, and into which files."""
    dataset: DatasetSettings = DatasetSettings()
    """What `snapvideo dataset` looks at, and how."""
    describe: DescribeSettings = DescribeSettings()
    """What the figures of `snapvideo model describe` hold for."""
    serve: ServeSettings = ServeSettings()
    """The HTTP API."""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow."""
    storage: StorageSettings = StorageSettings()
    """Object storage."""
    cluster: ClusterSettings = ClusterSettings()
    """Ray."""

    @cached_property
    def workspace(self) -> str:
        """The run's folder, as an absolute URI."""
        return storage.absolute(storage.join(self.output, self.name))

    @property
    def flags(self) -> str:
        """The flags by which another command finds this run, quoted for a shell."""
        found = ["--name", self.name, "--output", self.output]
        if self.tracking.uri:
            found += ["--tracking.uri", self.tracking.uri]
        if self.storage.s3_endpoint:
            found += ["--storage.s3-endpoint", self.storage.s3_endpoint]
        return shlex.join(found)

    @property
    def mlflow_uri(self) -> str:
        """MLflow's address, for a person to open."""
        return tracking_uri(self.tracking, self.workspace)
