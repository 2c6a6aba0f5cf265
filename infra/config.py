"""Settings: pydantic models, YAML files and `--section.key value` flags.

Precedence: defaults < `--config file.yaml` < command line. A settings class is a tree of
frozen models; an unknown key or a bad value becomes a `ConfigError` that names the key.

    config = load(RunConfig, ["--config", "demo.yaml", "--stage1.steps", "100"])
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import ConfigError


class Settings(BaseModel):
    """A frozen section of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


def load(
    cls: type[SettingsT],
    args: Sequence[str],
    prog: str = "snapvideo",
    description: str | None = None,
    defaults: SettingsT | None = None,
    given: Mapping[str, Any] | None = None,
) -> SettingsT:
    """Return the settings that `args` describe.

    Args:
        cls: The tree to fill.
        args: Command-line words, `--config FILE` among them or not.
        prog: How the command is called in its help.
        description: The help's first paragraph.
        defaults: What holds where neither the file nor the flags speak.
        given: Values from the command line that the caller has parted from `args`, as a tree.

    Raises:
        ConfigError: A key is unknown, a value is refused, or the file cannot be read.
        SystemExit: `--help` was asked for, or a flag is unknown (tyro names the nearest).
    """
    path, rest = _take_config_flag(args)
    base = from_yaml(cls, path, defaults) if path else (defaults or cls())
    try:
        if given:
            base = cls.model_validate(_merge(base.model_dump(), dict(given)))
        return tyro.cli(
            cls,
            args=_hyphens(rest),
            default=base,
            prog=prog,
            description=description,
            config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        )
    except ValidationError as fault:
        raise ConfigError(_explain(cls, fault, "command line")) from fault


def from_yaml(cls: type[SettingsT], path: str, defaults: SettingsT | None = None) -> SettingsT:
    """Return the settings in a YAML file, over `defaults`.

    Raises:
        ConfigError: The file is missing, not YAML, or holds a key or value that is refused.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(
            f"--config {path}: cannot be read ({fault}); give a YAML file in UTF-8"
        ) from fault
    return from_text(cls, text, path, defaults)


def from_text(
    cls: type[SettingsT], text: str, origin: str, defaults: SettingsT | None = None
) -> SettingsT:
    """Return the settings in YAML `text`; `origin` names it in errors (see `from_yaml`)."""
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as fault:
        raise ConfigError(f"{origin}: not valid YAML: {fault}") from fault
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin}: expected a mapping of settings, got {type(tree).__name__}")
    start = defaults.model_dump() if defaults else {}
    try:
        return cls.model_validate(_merge(start, tree))
    except ValidationError as fault:
        raise ConfigError(_explain(cls, fault, origin)) from fault


def to_yaml(settings: Settings) -> str:
    """Return settings as YAML that `from_text` reads back to an equal object."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _take_config_flag(args: Sequence[str]) -> tuple[str | None, list[str]]:
    path, rest, words = None, [], iter(args)
    for word in words:
        if word == "--config":
            path = next(words, None)
            if path is None:
                raise ConfigError("--config needs the path of a YAML file after it")
        elif word.startswith("--config="):
            path = word.removeprefix("--config=")
        else:
            rest.append(word)
    return path, rest


def _hyphens(args: Sequence[str]) -> list[str]:
    """Accept flags and booleans as YAML spells them (tyro wants hyphens and True, False)."""
    out = []
    for word in args:
        if word in ("true", "false"):
            word = word.capitalize()
        elif word.startswith("--"):
            name, eq, value = word.partition("=")
            word = "--" + name[2:].replace("_", "-") + eq + value
        out.append(word)
    return out


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return out


def _explain(cls: type[Settings], fault: ValidationError, origin: str) -> str:
    """Say all faults at once, one a line."""
    return "\n".join(f"{origin}: {line}" for line in _faults(cls, fault))


def _faults(cls: type[Settings], fault: ValidationError) -> Iterator[str]:
    for error in fault.errors():
        where = [str(part) for part in error["loc"]]
        key = ".".join(where)
        if error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where[-1], _keys_at(cls, where[:-1]), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {_keys_at(cls, where[:-1])}"
            yield f"unknown key '{key}'; {hint}"
        else:
            message = error["msg"].removeprefix("Value error, ")
            received = "" if isinstance(error["input"], dict) else f", got {error['input']!r}"
            yield f"{key}: {message}{received}" if key else message


def _keys_at(cls: type[Settings], where: Sequence[str]) -> list[str]:
    node: Any = cls
    for part in where:
        field = getattr(node, "model_fields", {}).get(part)
        node = field.annotation if field else None
    return list(getattr(node, "model_fields", {}))
