"""The one console command: parse, call, say what went wrong; nothing else.

    snapvideo COMMAND [--config FILE] [--section.key value ...]

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
from pipelines import commands
from pipelines.config import RunConfig


@dataclass(frozen=True)
class Command:
    """One sub-command: what it takes before its flags, what it does."""

    words: str
    summary: str
    call: Callable[[RunConfig, Sequence[str]], int]
    first_is_config: bool = False


COMMANDS = {
    "run": Command(
        "[CONFIG]",
        "Do whatever is stale, from the source folder to a report: "
        "snapvideo run my.yaml --source DIR",
        commands.run,
        first_is_config=True,
    ),
    "ingest": Command("", "Bring a folder of media into the dataset.", commands.ingest),
    "caption": Command("", "Ingest, then write the captions that are missing.", commands.caption),
    "train": Command(
        "[stage1|stage2]", "Everything up to a trained stage (default stage2).", commands.train
    ),
    "sample": Command(
        "PROMPT ...",
        "Make videos from prompts with a trained model, without a server.",
        commands.sample,
    ),
    "serve": Command("", "Answer the videos API over HTTP until interrupted.", commands.serve),
    "dataset": Command(
        "show|verify|release",
        "Look at a dataset, check every byte of it, pin it.",
        commands.dataset,
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
    operands, flags = _split(rest)
    has_file = any(flag.partition("=")[0] == "--config" for flag in flags)
    if command.first_is_config and operands and not has_file:
        flags = ["--config", operands[0], *flags]
        operands = operands[1:]
    config = load(
        RunConfig,
        flags,
        prog=f"snapvideo {name} {command.words}".rstrip(),
        description=f"{command.summary} Settings come from --config FILE.yaml, then from flags.",
        defaults=None if has_file else commands.defaults(name),
    )
    if config.storage.s3_endpoint:
        os.environ["AWS_ENDPOINT_URL"] = config.storage.s3_endpoint
    return command.call(config, operands)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the words before the first flag from the rest."""
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:first]), list(words[first:])


def _message(fault: SnapvideoError) -> str:
    """Return the message alone; a fault from a worker carries its traceback in `str`."""
    cause = getattr(fault, "cause", None)
    return str(cause if isinstance(cause, SnapvideoError) else fault)


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
