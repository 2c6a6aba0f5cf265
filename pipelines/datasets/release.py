"""Pin what counts now under a name."""

from infra.errors import ConfigError
from infra.store import release as releases
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.datasets.actions import Answer


def pin(root: str, name: str, selection: Selection) -> Answer:
    """Pin all captioned clips of a selection under a name and return its digest.

    Raises:
        ConfigError: No name is given.
        DataError: The name is taken by other content, or there is nothing to pin.
    """
    if not name:
        raise ConfigError("dataset release: a name is needed, such as `dataset release 2026-11`")
    made = releases.create(Dataset.open(root), name, selection)
    tree = {
        "name": made.name,
        "digest": made.digest,
        "num_clips": made.num_clips,
        "versions": dict(made.versions),
    }
    return Answer(f"release {made.name}: {made.num_clips} clips, digest {made.digest}", tree)
