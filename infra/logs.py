"""Logging: facts with units, one line each, to stderr.

`setup()` is called once, by the command line; everything else asks `logging.getLogger(__name__)`.
"""

import logging
import os
import sys

_NOISY = (
    "alembic",
    "azure",
    "botocore",
    "deepspeed",
    "fsspec",
    "httpx",
    "httpx2",
    "matplotlib",
    "urllib3",
)


def setup(level: str | None = None) -> None:
    """Send log lines of `level` and above to stderr.

    Args:
        level: A name of `logging`; default is the environment's SNAPVIDEO_LOG, else INFO.
    """
    chosen = (level or os.environ.get("SNAPVIDEO_LOG") or "INFO").upper()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(chosen)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
