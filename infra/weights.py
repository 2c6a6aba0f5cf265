"""A folder of model weights: brought near, and known by its content.

`from_pretrained` reads local folders and hub ids; a folder in S3 is copied here first. What was
computed with a folder is keyed by the hash of its files, not by where it lies.

    folder = fetch("s3://bucket/run/t5")
    revision = digest(Path(folder))
"""

import functools
import hashlib
import tempfile
from pathlib import Path

from infra import storage

_CONTENT = (".safetensors", ".json", ".txt", ".model", ".jinja")


@functools.cache
def fetch(model: str) -> str:
    """Return what `from_pretrained` can read: a hub id as it is, a folder's local path.

    Args:
        model: Hub id, local folder or `s3://bucket/prefix`.

    Raises:
        DataError: Nothing lies at the S3 address.
    """
    if not storage.is_s3(model):
        return str(storage.local_path(model)) if is_folder(model) else model
    scratch = Path(tempfile.mkdtemp(prefix="snapvideo-weights-"))
    return str(storage.local_copy(model, scratch))


def is_folder(model: str) -> bool:
    """Return whether `model` names a folder, here or in S3, and not a repository of the hub."""
    return storage.is_s3(model) or storage.local_path(model).is_dir()


def revision(model: str, hub_revision: str) -> str:
    """Return what pins the weights: the commit of a hub id, or `local-` and a folder's digest."""
    return f"local-{digest(Path(fetch(model)))[:16]}" if is_folder(model) else hub_revision


def digest(folder: Path) -> str:
    """Return the SHA-256 of a folder's weights, settings and tokenizer, as hexadecimal."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _CONTENT:
            found.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
