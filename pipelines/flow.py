"""The whole pipeline, read in one screen: from a folder of media to videos over HTTP.

Each stage names the stages it reads, the settings its result depends on, and whether it works
partition by partition. `lineage` does the rest: what has a manifest is not done again.
"""

from pipelines.config import RunConfig
from pipelines.lineage import Stage
from pipelines.scores.versions import VERSIONS
from pipelines.stages import (
    captions,
    corpus,
    filtering,
    ingest,
    release,
    reporting,
    sampling,
    scoring,
    texts,
    training,
)

RENDER: list[Stage[RunConfig]] = [Stage("corpus", corpus.render, identity=("corpus", "seed"))]
"""What the demo does first: make a source folder."""

STAGES: list[Stage[RunConfig]] = [
    Stage(
        "ingest",  # sources -> clips, images, captions, scores, quarantine
        ingest.bring_in,
        identity=("ingest.accept", "ingest.cut"),
        partitioned=True,
    ),
    Stage(
        "score",  # clips -> signal scores that are missing, scores and vectors of models
        scoring.score,
        after=("ingest",),
        identity=("scores",),
        neutral=scoring.NEUTRAL,
        version=sum(map(int, VERSIONS.values())),  # rises with that of any signal
    ),
    Stage(
        "filter",  # scores -> which clips count, why the others do not, near doubles
        filtering.filter_clips,
        after=("ingest", "score"),
        identity=("filter",),
        neutral=filtering.NEUTRAL,
    ),
    Stage(
        "captioner",  # human captions -> a small captioner, where no model is named
        captions.build_captioner,
        after=("ingest", "filter"),
        identity=("captioning.model", "captioner"),
        neutral=captions.CAPTIONER_NEUTRAL,
    ),
    Stage(
        "caption",  # clips without a caption -> captions with a recipe
        captions.write_captions,
        after=("ingest", "filter", "captioner"),
        identity=("captioning",),
        neutral=captions.NEUTRAL,
        partitioned=True,
    ),
    Stage(
        "encoder",  # human captions -> a tiny text encoder, where no model is named
        texts.build_encoder,
        after=("ingest", "filter"),
        identity=("text", "text_width", "seed"),
        neutral=texts.NEUTRAL,
    ),
    Stage(
        "embed",  # captions -> text embeddings
        texts.embed,
        after=("ingest", "filter", "caption", "encoder"),
        identity=("text",),
        neutral=texts.NEUTRAL,
    ),
    Stage(
        "release",  # table versions -> what a training run reads, pinned
        release.pin,
        after=("ingest", "filter", "caption", "embed"),
    ),
    Stage(
        "stage1",  # release -> the low-resolution model
        training.train_stage1,
        after=("release", "encoder"),
        identity=("stage1", "text"),
        neutral=(*training.neutral("stage1"), *texts.NEUTRAL),
    ),
    Stage(
        "stage2",  # release and the first stage's EMA -> the upsampler
        training.train_stage2,
        after=("release", "encoder", "stage1"),
        identity=("stage2", "text"),
        neutral=(*training.neutral("stage2"), *texts.NEUTRAL),
    ),
    Stage(
        "samples",  # prompts -> videos, through the served models
        sampling.sample,
        after=("release", "encoder", "stage1", "stage2"),
        identity=("samples",),
    ),
    Stage(
        "report",  # everything -> one page
        reporting.report_run,
        after=("ingest", "filter", "caption", "release", "stage1", "stage2", "samples"),
        identity=("name", "truth"),
    ),
]
"""The flow. Its order is the order of work."""


def until(name: str) -> list[Stage[RunConfig]]:
    """Return the flow up to and with the stage of this name."""
    names = [stage.name for stage in STAGES]
    return STAGES[: names.index(name) + 1]
