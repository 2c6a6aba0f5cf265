"""Settings of a refresh: which partitions are looked at, and whether anything is done."""

from infra.config import Settings


class RefreshSettings(Settings):
    """What a command that goes over the source looks at."""

    partitions: tuple[str, ...] = ()
    """Look at these partitions alone; all by default."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""
    retry: bool = False
    """Also try again what was refused for a reason that may pass, where nothing else is new."""
