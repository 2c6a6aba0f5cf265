"""What earlier attempts at a run have left: its checkpoints, whole or torn, and of which network.

Ray Train keeps a run's checkpoints in folders `checkpoint_<time>...` below the run's name, and its
list of them in one file that it overwrites. A kill may leave either half-written.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import ray.train

from infra import storage
from infra.errors import ConfigError
from train import checkpoint
from train.model.networks import ModelConfig, config_from_dict, preset_of, same_shape

log = logging.getLogger(__name__)


def finished(run_uri: str, steps: int) -> ray.train.Checkpoint | None:
    """Return the checkpoint of the last step where an earlier attempt has reached it."""
    newest = max(_checkpoints(run_uri), default="")
    if not newest:
        return None
    uri = storage.join(run_uri, newest)
    with tempfile.TemporaryDirectory() as scratch:
        folder = storage.local_copy(uri, Path(scratch))
        if not checkpoint.is_whole(folder) or checkpoint.read_state(folder)["step"] < steps:
            return None
    files, path = storage.filesystem(uri)
    return ray.train.Checkpoint(path, files)


def mended(run_uri: str) -> str:
    """Set aside what a kill has left half-written; return a checkpoint to resume from, if needed.

    Where Ray Train's list of checkpoints is torn, the newest whole checkpoint is found by its own
    checksums.
    """
    index = storage.join(run_uri, "checkpoint_manager_snapshot.json")
    if not storage.exists(index):
        return ""
    try:
        json.loads(storage.read_text(index))
    except ValueError:
        log.warning("checkpoint list was torn by a kill, looking for checkpoints uri=%s", run_uri)
        storage.delete(index)
        return _newest_whole(run_uri)
    return ""


def check_network(run_uri: str, model: ModelConfig, section: str) -> None:
    """Refuse to go on from the checkpoints of another network.

    Args:
        run_uri: The run's folder.
        model: What the settings ask for.
        section: The settings' section, for the message.

    Raises:
        ConfigError: The newest checkpoint is of another shape.
    """
    state = _newest_state(run_uri)
    if not state:
        return
    stored = config_from_dict(state["model"])
    if same_shape(stored, model) and stored.text_width == model.text_width:
        return
    raise ConfigError(
        f"{section}.preset: the settings ask for {_described(model)}, and the run has a checkpoint "
        f"of {_described(stored)} at step {state['step']} in {run_uri}; set the preset (or the "
        "text encoder) back to go on from there, or train under another run name"
    )


def _described(model: ModelConfig) -> str:
    name = preset_of(model)
    shape = f"'{name}'" if name else f"a shape of no preset {model.clip_shape}"
    return f"{shape} for texts {model.text_width} wide"


def _newest_state(run_uri: str) -> dict[str, Any]:
    """Return the facts in the newest checkpoint that has some, or nothing; weights stay unread."""
    for name in sorted(_checkpoints(run_uri), reverse=True):
        files = [info.uri for info in storage.list_files(storage.join(run_uri, name))]
        for uri in files:
            if uri.endswith(".json") and "/fragments-00000-of-" in uri:
                try:
                    return dict(json.loads(storage.read_text(uri))["state"])
                except (ValueError, KeyError):
                    log.warning("passed over a torn checkpoint uri=%s", uri)
    return {}


def _newest_whole(run_uri: str) -> str:
    for name in sorted(_checkpoints(run_uri), reverse=True):
        uri = storage.join(run_uri, name)
        with tempfile.TemporaryDirectory() as scratch:
            if checkpoint.is_whole(storage.local_copy(uri, Path(scratch))):
                return uri
    return ""


def _checkpoints(run_uri: str) -> set[str]:
    """Return the names of the run's checkpoint folders; they sort by time."""
    files = storage.list_files(run_uri)
    parts = [info.uri.removeprefix(run_uri + "/").split("/") for info in files]
    return {part[0] for part in parts if len(part) > 1 and part[0].startswith("checkpoint_")}
