"""Which clips count by the settings, where no release says it."""

from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.scores.alike import methods
from pipelines.scores.config import FilterSettings, ScoreSettings
from pipelines.scores.doubles import known_version
from pipelines.scores.versions import VERSIONS


def counting(
    root: str,
    scores: ScoreSettings,
    filters: FilterSettings,
    partitions: tuple[str, ...],
) -> Selection:
    """Return what the thresholds and the newest search for doubles leave of some partitions.

    Args:
        root: The dataset's root URI.
        scores: Which models score.
        filters: What must hold.
        partitions: Which partitions; empty: all.

    Raises:
        ConfigError: A filter speaks of a scorer that is not set up.
    """
    versions = dict(VERSIONS)
    if scores.models and (filters.models or filters.doubles.vectors):
        from pipelines.scores.scorers import version_of  # reads the model's files

        versions |= {one.name: version_of(one) for one in scores.models}
    searches = [
        known_version(Dataset.open(root), one) for one in methods(filters.doubles, versions)
    ]
    return Selection(
        partitions=partitions,
        bounds=filters.bounds(versions),
        duplicate_versions=tuple(version for version in searches if version),
    )
