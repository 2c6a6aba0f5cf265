"""Words of a command line, parted: operands, a command's own short flags, and all other flags.

A command may name sections whose keys need no prefix: `snapvideo sample "a red circle" --fps 24`
says `samples.fps`. Those keys are taken here, also to write the command's help; every other flag
is tyro's (`infra.config`). A yes-or-no flag alone says yes. A key that Python would not have, such
as `json_`, loses its last underscore.
"""

import difflib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from infra.config import Settings
from infra.errors import ConfigError

_KINDS = {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL"}
_WIDTH, _HEAD = 100, 26


@dataclass
class Words:
    """A command line in parts."""

    operands: list[str] = field(default_factory=list)
    """Words that belong to no flag."""
    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Section -> key -> words, of the short flags."""
    rest: list[str] = field(default_factory=list)
    """All other flags with their words."""

    def has(self, name: str) -> bool:
        """Return whether a flag is among the rest."""
        return any(word.partition("=")[0] == name for word in self.rest)


def parse(words: Sequence[str], cls: type[Settings], sections: Sequence[str] = ()) -> Words:
    """Return the words in parts.

    Args:
        words: What follows the command's name; behind a `--` all are operands.
        cls: The tree of settings.
        sections: Those whose keys need no prefix, most important first.

    Raises:
        ConfigError: A flag without a dot is known to none of them, or lacks its value.
    """
    found, own, left = Words(), _own(cls, sections), list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            found.operands += left
            break
        if not word.startswith("-"):
            found.operands.append(word)
            continue
        flag, equals, value = word.partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        if key not in own:
            _check_known(flag, key, cls, own)
            values = [] if equals else _values(left, _is_many(key, cls))
            found.rest += [word, *(values or ([] if equals else _yes(key, cls)))]
            continue
        section, name, info = own[key]
        values = [value] if equals else _values_of(info, left)
        if not values:
            raise ConfigError(f"{flag} needs a value after it: {flag} {_kind(info.annotation)}")
        found.given.setdefault(section, {})[name] = values if _is_tuple(info) else values[0]
    return found


def explain(cls: type[Settings], sections: Sequence[str], keys: Sequence[str] | None = None) -> str:
    """Return the short flags with their defaults, section by section; of `keys` where given."""
    blocks = []
    for section in sections:
        info = cls.model_fields[section]
        lines = [f"{info.description}".replace("\n", " ")]
        for name, one in _section(info).items():
            if keys is not None and name not in keys:
                continue
            head = f"  --{_spelled(name).replace('_', '-')} {_kind(one.annotation)}"
            text = " ".join(f"{one.description}".split())
            lines += _entry(head, f"{text} {_default(one)}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _entry(head: str, text: str) -> list[str]:
    """Return a flag with its text beside it, or below it where the flag is long."""
    lines = textwrap.wrap(text, _WIDTH - _HEAD)
    if len(head) < _HEAD:
        lines[0] = head.ljust(_HEAD) + lines[0]
        return [lines[0], *(" " * _HEAD + line for line in lines[1:])]
    return [head, *(" " * _HEAD + line for line in lines)]


def _own(cls: type[Settings], sections: Sequence[str]) -> dict[str, tuple[str, str, FieldInfo]]:
    """Return where each short key belongs; of two sections with one key the first has it."""
    found: dict[str, tuple[str, str, FieldInfo]] = {}
    for section in sections:
        for name, info in _section(cls.model_fields[section]).items():
            found.setdefault(_spelled(name), (section, name, info))
    return found


def _spelled(name: str) -> str:
    return name.rstrip("_")


def _section(info: FieldInfo) -> Mapping[str, FieldInfo]:
    kind = info.annotation
    assert isinstance(kind, type), f"{kind} is no section"
    assert issubclass(kind, Settings), f"{kind} is no section"
    return kind.model_fields


def _values(left: list[str], many: bool) -> list[str]:
    """Take a flag's values from the words that are left."""
    values: list[str] = []
    while left and not left[0].startswith("--") and (many or not values):
        values.append(left.pop(0))
    return values


def _values_of(info: FieldInfo, left: list[str]) -> list[str]:
    """Take the values of a short flag; a yes-or-no flag needs none."""
    if info.annotation is bool and (not left or left[0] not in ("true", "false")):
        return ["true"]
    return _values(left, _is_tuple(info))


def _yes(key: str, cls: type[Settings]) -> list[str]:
    """Return what a yes-or-no flag of the whole tree means alone; nothing of any other."""
    kind: object = cls
    for part in key.split("."):
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, Settings) else {}
        kind = fields[part].annotation if part in fields else None
    return ["True"] if kind is bool else []


def _is_tuple(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is tuple


def _is_many(key: str, cls: type[Settings]) -> bool:
    """Return whether a flag of the whole tree may have several values; only tyro knows for sure."""
    return key != "config" and key not in cls.model_fields


def _check_known(
    flag: str, key: str, cls: type[Settings], own: Mapping[str, tuple[str, str, FieldInfo]]
) -> None:
    if not own or "." in key or flag == "-h":
        return
    if not flag.startswith("--"):
        raise ConfigError(f"unknown flag {flag!r}; words that begin with - go behind a --")
    known = [*own, *cls.model_fields, "config", "help"]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '--{near[0].replace('_', '-')}'?" if near else "see --help"
        raise ConfigError(f"unknown flag '{flag}'; {hint}")


def _kind(annotation: Any) -> str:  # noqa: ANN401 - any type that a setting may have
    """Return how a value of this type is written on a command line."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin is tuple:
        return f"{_kind(parts[0])} ..."
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _kind(parts[0])
    if parts:  # one type, or none
        return _kind(next(part for part in parts if part is not type(None)))
    return _KINDS[annotation]


def _default(info: FieldInfo) -> str:
    value = info.default
    if value is None or value in ("", ()):
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f"[{shown}]"
