"""The actions of `snapvideo dataset`: what each takes, reads of the settings, and does.

Every action returns an `Answer`: text for a person, the same facts as a tree for a program, and
the exit code. Modules that read data are imported only by the action that needs them.
"""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra import storage
from infra.errors import ConfigError
from infra.store.selection import Selection
from pipelines.datasets.config import DatasetSettings


@dataclass(frozen=True)
class Answer:
    """What an action found or did."""

    text: str
    tree: Mapping[str, Any] = field(default_factory=dict)
    code: int = 0
    """Exit code: 1 where the dataset has faults."""


@dataclass(frozen=True)
class Asked:
    """What an action is asked to do, and of which dataset."""

    root: str
    settings: DatasetSettings
    operands: tuple[str, ...] = ()
    selection: Callable[[], Selection] = Selection
    """Gives the clips that count where no release is named, by `--filter.*` and
    `--refresh.partitions`; asked for only by actions that need it, as it may read models."""
    beside: str = ""
    """Folder for what is written without a name of its own."""


@dataclass(frozen=True)
class Action:
    """One action: the words it takes, the settings it reads, what it does."""

    words: str
    summary: str
    keys: tuple[str, ...]
    call: Callable[[Asked], Answer]
    examples: tuple[str, ...]
    num_operands: tuple[int, ...] = (0,)


def run(asked: Asked, name: str) -> tuple[str, int]:
    """Do an action; return what is to be printed and the exit code.

    Raises:
        ConfigError: There is no such action, or it takes other words.
    """
    action = find(name)
    if len(asked.operands) not in action.num_operands:
        raise ConfigError(
            f"dataset {name}: unexpected words {list(asked.operands)}; "
            f"say `snapvideo dataset {name} {action.words}`".rstrip("` ")
            + "`"
        )
    done = action.call(asked)
    if asked.settings.json_:
        return json.dumps(done.tree, indent=1, ensure_ascii=False, default=str), done.code
    return done.text, done.code


def find(name: str) -> Action:
    """Return the action of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in ACTIONS:
        near = difflib.get_close_matches(name, ACTIONS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(ACTIONS)}"
        raise ConfigError(f"dataset: unknown action '{name}'; {hint}")
    return ACTIONS[name]


def check(operands: Sequence[str], given: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a flag that the action does not read, which else would be passed over in silence.

    Raises:
        ConfigError: There is such a flag, or no such action.
    """
    name = operands[0] if operands else "show"
    action = find(name)
    foreign = [key for key in given.get("dataset", {}) if key not in action.keys]
    if foreign:
        raise ConfigError(
            f"dataset {name}: does not read --{_flag(foreign[0])}; it reads "
            + ", ".join(f"--{_flag(key)}" for key in action.keys)
        )


def overview() -> list[str]:
    """Return a line for each action."""
    width = max(len(f"{name} {action.words}") for name, action in ACTIONS.items())
    return [f"  {f'{name} {a.words}':<{width}}  {a.summary}" for name, a in ACTIONS.items()]


def _flag(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _show(asked: Asked) -> Answer:
    from pipelines.datasets import show

    return show.show(asked.root)


def _history(asked: Asked) -> Answer:
    from pipelines.datasets import history

    return history.history(asked.root, asked.operands, asked.settings.limit or 50)


def _diff(asked: Asked) -> Answer:
    from pipelines.datasets import diff

    old, new = asked.operands
    return diff.diff(asked.root, old, new, asked.settings.limit or 20)


def _verify(asked: Asked) -> Answer:
    from pipelines.datasets import verify

    return verify.verify(asked.root, asked.settings.threads, asked.settings.quick)


def _release(asked: Asked) -> Answer:
    from pipelines.datasets import release

    return release.pin(asked.root, asked.operands[0] if asked.operands else "", asked.selection())


def _vacuum(asked: Asked) -> Answer:
    from pipelines.datasets import tidy

    return tidy.vacuum(asked.root, asked.settings.older_than_h, asked.settings.apply)


def _compact(asked: Asked) -> Answer:
    from pipelines.datasets import tidy

    return tidy.compact(asked.root, asked.operands, asked.settings.target_mib)


def _export(asked: Asked) -> Answer:
    from pipelines.datasets import export

    return export.export(asked.root, asked.settings, asked.selection())


def _preview(asked: Asked) -> Answer:
    from pipelines.datasets import preview

    out = asked.settings.out or storage.join(asked.beside, "preview.html")
    return preview.preview(asked.root, out, asked.settings, asked.selection())


ACTIONS = {
    "show": Action(
        "",
        "Say what lies in it: counts, bytes, scores, quarantine, releases.",
        ("root", "json_"),
        _show,
        ("dataset show --root s3://bucket/corpus", "dataset show --name demo --json"),
    ),
    "history": Action(
        "[TABLE ...]",
        "List the commits of its tables, newest first.",
        ("root", "json_", "limit"),
        _history,
        ("dataset history --limit 10", "dataset history clips captions --name demo"),
        tuple(range(20)),
    ),
    "diff": Action(
        "A B",
        "Say which clips and captions differ between two releases or versions.",
        ("root", "json_", "limit"),
        _diff,
        ("dataset diff 2026-10 2026-11", "dataset diff clips@3 now", "dataset diff captions@7 now"),
        (2,),
    ),
    "verify": Action(
        "",
        "Check every byte, row and release of it; exit code 1 where something is wrong.",
        ("root", "json_", "quick", "threads"),
        _verify,
        ("dataset verify --root s3://bucket/corpus --threads 32", "dataset verify --quick"),
    ),
    "release": Action(
        "NAME",
        "Pin all captioned clips that count (see --filter.*), under a name.",
        ("root", "json_"),
        _release,
        (
            "dataset release 2026-11 --name demo",
            "dataset release calm --filter.max-motion 0.2 --refresh.partitions 2026-11-01",
        ),
        (0, 1),
    ),
    "vacuum": Action(
        "",
        "Delete what nothing refers to; with --apply, else only say what.",
        ("root", "json_", "older_than_h", "apply"),
        _vacuum,
        ("dataset vacuum", "dataset vacuum --apply --older-than-h 72"),
    ),
    "compact": Action(
        "[TABLE ...]",
        "Join the small data files of its tables.",
        ("root", "json_", "target_mib"),
        _compact,
        ("dataset compact --root s3://bucket/corpus", "dataset compact captions scores"),
        tuple(range(20)),
    ),
    "export": Action(
        "",
        "Write clips with captions as webdataset, parquet or huggingface.",
        ("root", "json_", "release", "format", "out", "splits", "shard_mib", "threads"),
        _export,
        (
            "dataset export --out tars --release 2026-11",
            "dataset export --format huggingface --out s3://bucket/hub --splits train",
        ),
    ),
    "preview": Action(
        "",
        "Write one HTML page of clips, captions, scores and quarantine to look through.",
        ("root", "json_", "release", "out", "limit", "threads"),
        _preview,
        ("dataset preview --name demo", "dataset preview --limit 500 --out look.html"),
    ),
}
