"""What code made something: the git commit and the versions of the packages that matter."""

import functools
import importlib.metadata
import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = (
    "av", "deepspeed", "deltalake", "mlflow", "numpy", "pyarrow", "ray", "safetensors",
    "tokenizers", "torch", "transformers",
)  # fmt: skip


@functools.cache
def code_version() -> str:
    """Return the commit of this checkout, with `-dirty` where tracked files differ from it.

    Where there is no git (an image), the environment's SNAPVIDEO_CODE_VERSION counts, else the
    installed version.
    """
    given = os.environ.get("SNAPVIDEO_CODE_VERSION", "")
    if given:
        return given
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return f"snapvideo-{_version('snapvideo') or 'unknown'}"
    return commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")


def package_versions() -> dict[str, str]:
    """Return the installed versions of packages that shape results; absent ones are left out."""
    found = {name: _version(name) for name in _PACKAGES}
    return {name: version for name, version in found.items() if version}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=_ROOT, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
