"""A temporary file that is hashed while it is written."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from infra.errors import DataError


class ScratchError(DataError):
    """The temporary folder cannot be written; no source is to blame."""


class Sink:
    """Where pieces go to."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.hash = hashlib.sha256()
        self.size_bytes = 0

    def __enter__(self) -> "Sink":
        try:
            self._file = self.place.open("wb")
        except OSError as fault:
            raise scratch_error(self.place.parent.parent, fault) from fault
        return self

    def __exit__(self, *fault: object) -> None:
        self._guarded(self._file.close)

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            ScratchError: The temporary folder is full.
        """
        self.hash.update(piece)
        self.size_bytes += len(piece)
        self._guarded(lambda: self._file.write(piece))

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as fault:
            raise scratch_error(self.place.parent.parent, fault) from fault


def scratch_error(folder: Path, fault: OSError) -> ScratchError:
    """Return what to say where a temporary folder cannot be written."""
    return ScratchError(
        f"{folder}: temporary files cannot be written ({fault}); free space there, or set TMPDIR"
    )
