"""The weights that are served: found by path, URI or registered name, checked, loaded.

`find` runs before anything is started and reads only the checkpoints' JSON, so that a wrong
setting is named at once; `load` runs in each replica.

    served = find(settings.models, tracker.resolve)
    generator = load(served, "auto")
"""

import hashlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra import storage
from infra.device import torch_device
from infra.errors import ConfigError, DataError
from serve import foreign
from serve.config import ModelSettings
from serve.generate import Generator, Stage
from serve.schema import ModelFacts, Served
from train import bundle
from train.text import TextEncoder
from train.text_config import TextSettings

Registry = Callable[[str, str], str]
"""Returns the checkpoint folder of a registered (model, alias or version)."""

_REGISTERED = re.compile(r"([\w.-]+)@([\w.-]+)")
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True)
class Names:
    """What faults call the settings that models and device come from."""

    models: str = "serve.models"
    device: str = "serve.device"


_SERVING = Names()


def find(
    models: ModelSettings, registry: Registry | None = None, names: Names = _SERVING
) -> Served:
    """Return where the weights lie and what they make.

    Args:
        models: Paths, URIs, or registered `name@alias`.
        registry: Looks registered names up; without it they are refused.
        names: Whose settings these are.

    Raises:
        ConfigError: A setting names nothing that can be served together.
    """
    stage1, first = _checkpoint(f"{names.models}.stage1", models.stage1, registry, stage=1)
    uris, configs = [stage1], [first]
    if models.stage2:
        stage2, second = _checkpoint(f"{names.models}.stage2", models.stage2, registry, stage=2)
        _check_pair(models, first, second, names)
        uris.append(stage2)
        configs.append(second)
    model = configs[-1]["model"]
    facts = ModelFacts(
        name=models.name,
        digest=_digest(uris),
        created_at=_created_at(uris[0]),
        num_frames=model["frames"],
        height_px=model["height"],
        width_px=model["width"],
        framerates=_framerates(models, first, names),
        has_stage2=len(uris) == 2,
    )
    return Served(
        stage1=uris[0],
        stage2=uris[1] if len(uris) == 2 else "",
        text_model=models.text_model or first["text_encoder"]["model"],
        source_height_px=models.source_height_px or first["native"].get("source_height", 0),
        source_width_px=models.source_width_px or first["native"].get("source_width", 0),
        facts=facts,
    )


def load(served: Served, device: str, names: Names = _SERVING) -> Generator:
    """Return a generator over the weights, on `device` (auto, cpu or cuda).

    Raises:
        ConfigError: The text encoder is not the one that the weights were trained with, or the
            device is not here.
        DataError: A checkpoint is damaged.
    """
    place = torch_device(names.device, device).type
    uris = [uri for uri in (served.stage1, served.stage2) if uri]
    bundles = [bundle.load(uri) for uri in uris]
    for uri, each in zip(uris, bundles, strict=True):
        foreign.check_weights(uri, each.model)
    stages = [Stage(each.model, each.edm) for each in bundles]
    known = served.source_height_px and served.source_width_px
    return Generator(
        stages[0],
        stages[1] if len(stages) == 2 else None,
        _encoder(served.text_model, bundles[0].config["text_encoder"], place, names),
        framerates=served.facts.framerates,
        source_size=(served.source_height_px, served.source_width_px) if known else None,
        device=place,
    )


def _checkpoint(
    setting: str, named: str, registry: Registry | None, stage: int
) -> tuple[str, dict[str, Any]]:
    try:
        uri = storage.absolute(_looked_up(named, registry))
        config = bundle.read_config(uri)
        foreign.check_config(config)
    except (ConfigError, DataError) as fault:
        way_out = "" if _REGISTERED.fullmatch(named) else "; name a folder with a config.json in it"
        raise ConfigError(f"{setting}: {named!r} cannot be served: {fault}{way_out}") from fault
    if config["stage"] != stage:
        raise ConfigError(
            f"{setting}: {named!r} is a checkpoint of stage {config['stage']}; "
            f"stage {stage} is needed here"
        )
    return uri, config


def _looked_up(named: str, registry: Registry | None) -> str:
    registered = _REGISTERED.fullmatch(named)
    if not registered or storage.exists(named):
        return named
    if registry is None:
        raise ConfigError("registered names need a model registry; give a folder")
    return registry(registered[1], registered[2])


def _check_pair(
    models: ModelSettings, first: dict[str, Any], second: dict[str, Any], names: Names
) -> None:
    lower, upper = f"{names.models}.stage1", f"{names.models}.stage2: {models.stage2!r}"
    frames = [config["model"]["frames"] for config in (first, second)]
    if frames[0] != frames[1]:
        raise ConfigError(
            f"{upper} makes {frames[1]} frames, {lower} {frames[0]}; name two stages of one run"
        )
    reads, size = second.get("low_res"), {key: first["model"][key] for key in ("height", "width")}
    if reads not in (None, size):
        raise ConfigError(
            f"{upper} enlarges clips of {reads}, {lower} makes {size}; name two stages of one run"
        )
    encoders = [config["text_encoder"]["encoder_id"] for config in (first, second)]
    if encoders[0] != encoders[1]:
        raise ConfigError(
            f"{upper} reads the text encoder {encoders[1]}, {lower} {encoders[0]}; name two stages "
            "of one run"
        )


def _framerates(models: ModelSettings, config: dict[str, Any], names: Names) -> tuple[float, ...]:
    """Return the framerates of the videos it saw; stills count as infinitely fast, and not here."""
    found = tuple(float(fps) for fps in config["framerates"] if math.isfinite(fps))
    if not found:
        raise ConfigError(
            f"{names.models}.stage1: {models.stage1!r} lists no finite framerate, so it was "
            "trained on stills only; name a checkpoint that has seen videos"
        )
    return found


def _encoder(model: str, wanted: dict[str, Any], device: str, names: Names) -> TextEncoder:
    setting = f"{names.models}.text_model"
    settings = TextSettings(
        model=model,
        revision=wanted["revision"],
        max_tokens=wanted["max_tokens"],
        dtype=wanted.get("dtype", "float32"),
        device="cuda" if device == "cuda" else "cpu",
    )
    try:
        encoder = TextEncoder(settings)
    except ConfigError as fault:
        raise ConfigError(f"{setting}: {fault}") from fault
    if encoder.encoder_id != wanted["encoder_id"]:
        raise ConfigError(
            f"{setting}: {model!r} is the encoder {encoder.encoder_id}, the weights were trained "
            f"with {wanted['encoder_id']}; name that one"
        )
    return encoder


def _digest(uris: list[str]) -> str:
    """Return a hash by which a saved state knows its weights: the JSON, sizes and last bytes."""
    digest = hashlib.sha256()
    for uri in uris:
        digest.update(storage.read_bytes(storage.join(uri, "config.json")))
        for info in storage.list_files(uri):
            if info.uri.endswith("/model.safetensors"):
                digest.update(str(info.size_bytes).encode())
                start = max(0, info.size_bytes - _TAIL_BYTES)
                digest.update(storage.read_range(info.uri, start, _TAIL_BYTES))
    return digest.hexdigest()


def _created_at(uri: str) -> int:
    """Return when a checkpoint was finished, in seconds since 1970."""
    for info in storage.list_files(uri):
        if info.uri.endswith("/config.json"):
            return info.modified_ns // 10**9
    return int(time.time())
