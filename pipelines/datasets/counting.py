"""Which clips count by the settings, where no release says it."""

from collections.abc import Mapping

from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.scores.config import DoubleSettings, FilterSettings, ScoreSettings
from pipelines.scores.versions import VERSIONS


def counting(
    root: str,
    scores: ScoreSettings,
    filters: FilterSettings,
    partitions: tuple[str, ...],
) -> Selection:
    """Return what the thresholds and the newest search for doubles leave of some partitions.

    Of sources that have vanished or changed, and of cuts that were replaced, nothing counts.

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
    return Selection(
        partitions=partitions,
        present=True,
        bounds=filters.bounds(versions),
        duplicate_versions=_doubles(root, filters.doubles, versions),
    )


def _doubles(root: str, settings: DoubleSettings, versions: Mapping[str, str]) -> tuple[str, ...]:
    if not settings.phash and not settings.vectors:
        return ()
    from pipelines.scores.alike import methods  # brings the search for neighbours
    from pipelines.scores.doubles import known_version

    searches = [known_version(Dataset.open(root), one) for one in methods(settings, versions)]
    return tuple(version for version in searches if version)
