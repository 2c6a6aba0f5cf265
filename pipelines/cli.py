"""The one console command: parse, call, say what went wrong; nothing else.

    snapvideo COMMAND [--config FILE] [--section.key value ...]

Some commands have sections of their own, whose keys need no section before them (`flags`).

Exit codes: 0 done, 1 a file or service is at fault, 2 a setting is, 130 interrupted.
"""

import difflib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra import cluster, logs
from infra.config import load
from infra.errors import ConfigError, SnapvideoError
from pipelines import commands, flags
from pipelines.config import RunConfig
from pipelines.datasets import actions


@dataclass(frozen=True)
class Command:
    """One sub-command: what it takes before its flags, what it does."""

    words: str
    summary: str
    call: Callable[[RunConfig, Sequence[str]], int]
    first_is_config: bool = False
    sections: tuple[str, ...] = ()
    """Sections of the settings whose keys are this command's short flags."""
    examples: tuple[str, ...] = ()
    """What follows `snapvideo` in calls that show what it can do."""
    has_actions: bool = False
    """Whether its first word says what to do (`pipelines.datasets.actions`)."""


COMMANDS = {
    "run": Command(
        "[CONFIG]",
        "Do whatever is stale, from the source folder to a report: "
        "snapvideo run my.yaml --source DIR",
        commands.run,
        first_is_config=True,
    ),
    "ingest": Command(
        "",
        "Bring what is new in a source into the dataset; what is known is not opened again.",
        commands.ingest,
        sections=("refresh",),
        examples=(
            "ingest --source ~/videos                         # a folder: .mp4 with .txt beside",
            "ingest --source 's3://bucket/raw/**/*.mp4' --name raw --dry-run",
            "ingest --source list.parquet --sources.manifest.caption-columns caption",
            "ingest --source shards/ --partitions 2026-11-19 2026-11-20",
            "ingest --source urls.txt --sources.http.hosts '*.example.org' --retry",
            "ingest --source ~/videos --ingest.cut.encode transcode --ingest.cut.height 288",
        ),
    ),
    "caption": Command(
        "",
        "Ingest, then write the captions that are missing.",
        commands.caption,
        sections=("refresh",),
        examples=(
            "caption --source ~/videos --captioning.model Qwen/Qwen2.5-VL-3B-Instruct",
            "caption --source s3://bucket/raw --partitions 2026-11-20 --dry-run",
        ),
    ),
    "train": Command(
        "[stage1|stage2]", "Everything up to a trained stage (default stage2).", commands.train
    ),
    "sample": Command(
        "PROMPT ...",
        "Make videos from prompts with a trained model, without a server.",
        commands.sample,
        sections=("samples", "draw"),
        examples=(
            "sample 'a red circle moves left' 'a blue square' --name demo",
            "sample 'a red circle' --frames 61 --fps 24 --seed 7 --format mp4 gif --preview 6",
            "sample 'a red circle' --stage1 path/to/checkpoint --stage2 none --out low",
        ),
    ),
    "serve": Command("", "Answer the videos API over HTTP until interrupted.", commands.serve),
    "dataset": Command(
        "ACTION",
        "show, history, diff, verify, release, vacuum, compact, export, preview.",
        commands.dataset,
        sections=("dataset",),
        examples=("dataset show --name demo", "dataset ACTION --help"),
        has_actions=True,
    ),
    "model": Command(
        "list|describe PRESET",
        "List the presets; say what one costs: parameters, FLOPs, memory.",
        commands.model,
        sections=("describe",),
        examples=("model list", "model describe fit-3.9b --workers 8 --batch 4"),
    ),
    "demo": Command("", "Render a small corpus and run everything on it.", commands.demo),
    "doctor": Command("", "Say what this machine lacks and how to mend it.", commands.examine),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    logs.setup()
    cluster.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _call(words[0], words[1:])
    except SnapvideoError as fault:
        sys.stderr.write(f"snapvideo {words[0]}: {_message(fault)}\n")
        return 2 if isinstance(fault, ConfigError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("snapvideo: interrupted; the same command goes on from here\n")
        return 130


def _call(name: str, rest: Sequence[str]) -> int:
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command '{name}'; {hint}")
    words = flags.parse(rest, RunConfig, command.sections)
    if command.sections and (words.has("--help") or words.has("-h")):
        sys.stdout.write(_explained(name, command, words.operands))
        return 0
    if command.has_actions:
        actions.check(words.operands, words.given)
    if command.first_is_config and words.operands and not words.has("--config"):
        words.rest += ["--config", words.operands.pop(0)]
    config = load(
        RunConfig,
        words.rest,
        prog=f"snapvideo {name} {command.words}".rstrip(),
        description=f"{command.summary} Settings come from --config FILE.yaml, then from flags.",
        defaults=None if words.has("--config") else commands.defaults(name),
        given=words.given,
    )
    if config.storage.s3_endpoint:
        os.environ["AWS_ENDPOINT_URL"] = config.storage.s3_endpoint
    return command.call(config, words.operands)


def _message(fault: SnapvideoError) -> str:
    """Return the message alone; a fault from a worker carries its traceback in `str`."""
    cause = getattr(fault, "cause", None)
    return str(cause if isinstance(cause, SnapvideoError) else fault)


def _explained(name: str, command: Command, operands: Sequence[str]) -> str:
    """Return the help of a command with short flags, or of one of its actions."""
    action = actions.find(operands[0]) if command.has_actions and operands else None
    about, keys = action or command, action.keys if action else None
    words = f"{operands[0]} {action.words}".rstrip() if action else command.words
    lines = [f"usage: snapvideo {name} {words} [--flag VALUE ...]", "", about.summary, ""]
    lines += [*actions.overview(), ""] if command.has_actions and not action else []
    lines += [f"  snapvideo {example}" for example in about.examples]
    lines += [
        "",
        flags.explain(RunConfig, command.sections, keys),
        "Also --name and --output (which run is meant), --config FILE.yaml, and any",
        "--section.key VALUE of the settings that all commands share: `snapvideo run --help`.",
        "",
    ]
    return "\n".join(lines)


def _help() -> str:
    lines = [
        "snapvideo: from a folder of raw videos to a text-to-video model answering requests",
        "",
        "usage: snapvideo COMMAND [--config FILE.yaml] [--section.key VALUE ...]",
        "",
    ]
    width = max(len(f"{name} {command.words}") for name, command in COMMANDS.items())
    lines += [f"  {f'{n} {c.words}':<{width}}  {c.summary}" for n, c in COMMANDS.items()]
    lines += [
        "",
        "Every command takes the same settings tree; `snapvideo COMMAND --help` lists it.",
        "Finished work is never repeated: after an interruption give the same command again.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
