"""The paper's claims on small networks, from one command.

    python -m train.experiments                    every claim, three seeds, two processes
    python -m train.experiments images latents     some of them
    python -m train.experiments --dry-run          what would run, and what is there already

The tables go to stdout and to DIR/report.md. Exit codes: 0 done, 1 a file is at fault, 2 a setting
is, 130 interrupted; the same command then goes on from the last finished run.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from infra import logs
from infra.errors import ConfigError, DataError, SnapvideoError
from train.experiments import report, trial
from train.experiments.claims import CLAIMS, Claim, needed
from train.experiments.sweep import Job, jobs, read, sweep
from train.experiments.training import Budget

_STEP_S, _SAMPLE_S = 0.03, 0.01
"""CPU seconds of a training step and of a sampled clip of the baseline; for --dry-run alone."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = _parser().parse_args(words)
    logs.setup()
    try:
        return _call(args)
    except SnapvideoError as fault:
        sys.stderr.write(f"train.experiments: {fault}\n")
        return 2 if isinstance(fault, ConfigError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("train.experiments: interrupted; the same command goes on from here\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    shown = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m train.experiments", None, _about(), "", (), shown)
    budget = Budget()
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help="default: all of them")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default 3)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/experiments"),
        help="folder of results; finished runs found there are not made again",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=budget.steps, help=f"training steps (default {budget.steps})"
    )
    parser.add_argument(
        "--samples", type=int, default=budget.samples,
        help=f"videos to sample and measure in each run (default {budget.samples})",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list the runs and stop")
    return parser


def _about() -> str:
    claims = "\n".join(f"  {claim.name:18} {claim.says}" for claim in CLAIMS.values())
    return (
        "Try the paper's claims on small networks: train, sample and measure both sides of each\n"
        "claim from several seeds, and print a table and a verdict (train/README.md).\n\n"
        f"claims:\n{claims}"
    )


def _call(args: argparse.Namespace) -> int:
    claims = _chosen(args.claims)
    for name, least in (("seeds", 1), ("jobs", 1), ("steps", 1), ("samples", 4)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} {getattr(args, name)}: give {least} or more")
    budget = replace(Budget(), steps=args.steps, samples=args.samples)
    todo = jobs(needed(claims), args.seeds, budget, args.out)
    if args.dry_run:
        sys.stdout.write(_listing(todo, args.jobs))
        return 0
    sweep(todo, args.jobs)
    text = _report(claims, todo, budget)
    _write(args.out / "report.md", text)
    sys.stdout.write(text)
    return 0


def _chosen(names: Sequence[str]) -> list[Claim]:
    for name in names:
        if name not in CLAIMS:
            near = difflib.get_close_matches(name, CLAIMS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(CLAIMS)}"
            raise ConfigError(f"unknown claim '{name}'; {hint}")
    return [claim for name, claim in CLAIMS.items() if not names or name in names]


def _listing(todo: Sequence[Job], processes: int) -> str:
    """Return one line a run and the time that those left will take."""
    lines = [
        f"{'done' if job.path.exists() else 'to do':6} {job.variant.name:22} seed {job.seed}  "
        f"{job.variant.summary}"
        for job in todo
    ]
    left = [job for job in todo if not job.path.exists()]
    seconds = sum(_STEP_S * job.budget.steps + _SAMPLE_S * 1.5 * job.budget.samples for job in left)
    lines.append(
        f"{len(left)} of {len(todo)} runs to do, about {seconds / 60:.0f} CPU minutes, "
        f"{seconds / 60 / processes:.0f} minutes with --jobs {processes} and as many idle cores"
    )
    return "\n".join(lines) + "\n"


def _report(claims: Sequence[Claim], todo: Sequence[Job], budget: Budget) -> str:
    """Return the Markdown of every claim from the runs that are done."""
    rows: dict[str, list[report.Row]] = {}
    for job in todo:
        row = read(job)
        if row is not None:
            rows.setdefault(job.variant.name, []).append(row)
    seeds = sorted({job.seed for job in todo})
    floor = [{"measures": trial.floor(budget, seed)} for seed in seeds]
    made = [row for runs in rows.values() for row in runs]
    parts = [report.preface(made), *(report.section(claim, rows, floor) for claim in claims)]
    parts.append(report.summary(claims, rows, floor))
    return "\n".join(parts)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as fault:
        raise DataError(
            f"--out {path.parent}: cannot be written ({fault.strerror}); choose another folder"
        ) from fault


if __name__ == "__main__":
    sys.exit(main())
