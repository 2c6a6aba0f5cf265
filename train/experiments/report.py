"""From runs to a verdict: the table of a claim, and the rule by which it is shown or not.

The rule was set before any run that is reported. On one measure, two variants differ if the
values of their seeds do not overlap and the means are further apart than two standard errors. (Of
two equal variants with three seeds each, values do not overlap in one of ten cases: some
differences among many measures are chance.) A claim is *shown* if the better variant wins at least
one of the claim's measures and loses none, *opposite* if it loses at least one and wins none,
*mixed* if it does both, and otherwise *not shown*.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from train.experiments.claims import VARIANTS, Claim

Verdict = Literal["shown", "not shown", "opposite", "mixed"]

COLUMNS = {
    "fid": "toy-FID",
    "fvd": "toy-FVD",
    "still_fid": "toy-FID of stills",
    "flicker": "flicker",
    "colour": "colour",
    "direction": "direction",
    "error": "denoising error",
}
"""Heading of every measure; less is better but for colour and direction, which are shares."""

_SHARES = ("colour", "direction")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of the seeds' values."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value; one alone has no deviation."""
        mean = sum(values) / len(values)
        squares = sum((value - mean) ** 2 for value in values)
        deviation = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan
        return cls(mean, deviation, len(values))


def compare(better: Sequence[float], worse: Sequence[float]) -> int:
    """Return 1 if `better` is less by the rule, -1 if it is more, 0 if the two do not differ."""
    if min(len(better), len(worse)) < 2:
        return 0
    one, two = Spread.of(better), Spread.of(worse)
    error = math.sqrt(one.deviation**2 / one.count + two.deviation**2 / two.count)
    if abs(one.mean - two.mean) <= 2 * error:
        return 0
    if max(better) < min(worse):
        return 1
    return -1 if min(better) > max(worse) else 0


def verdict(claim: Claim, better: Sequence[Row], worse: Sequence[Row]) -> Verdict:
    """Return what the runs of both sides say of a claim."""
    signs = [compare(_values(better, name), _values(worse, name)) for name in claim.measures]
    if 1 in signs:
        return "mixed" if -1 in signs else "shown"
    return "opposite" if -1 in signs else "not shown"


def preface(rows: Sequence[Row]) -> str:
    """Return what all runs of a report have in common, and by which code and machine."""
    budget = rows[0]["budget"]
    commits, machines = ({row[key] for row in rows} for key in ("commit", "machine"))
    return (
        f"{len(rows)} runs of {budget['steps']} steps ({budget['videos']} videos and "
        f"{budget['stills']} stills each); {budget['samples']} sampled videos a run, "
        f"{budget['sampling_steps']} Heun steps, guidance {budget['guidance']:g}. Mean ± standard "
        f"deviation over seeds; less is better but for colour and direction.\n"
        f"Commit {', '.join(sorted(commits))}; {', '.join(sorted(machines))}; "
        f"{max(row['finished'] for row in rows)}.\n"
    )


def section(claim: Claim, rows: Mapping[str, Sequence[Row]], floor: Sequence[Row]) -> str:
    """Return the Markdown of one claim: what it says, both sides, the floor, the verdict.

    Args:
        claim: What is claimed.
        rows: The runs of every variant, by name; a variant may have none yet.
        floor: The measures of real clips in the place of samples, one for each seed.
    """
    decide = " and ".join(COLUMNS[name] for name in claim.measures)
    names = (claim.better, claim.worse)
    sides = [rows.get(name, ()) for name in names]
    lines = [f"### {claim.name}: {claim.says}", "", *header()]
    lines += [line(VARIANTS[n].summary, made) for n in names if (made := rows.get(n))]
    lines += [line("real clips", floor), ""]
    if all(sides):
        seeds = min(len(side) for side in sides)
        lines.append(
            f"**{verdict(claim, *sides)}** (by {decide}; seeds a side: {seeds}). By the denoising "
            f"error alone: {by_error(*sides)}."
        )
    else:
        lines.append("not decided: runs are missing")
    return "\n".join([*lines, ""])


def summary(
    claims: Sequence[Claim], rows: Mapping[str, Sequence[Row]], floor: Sequence[Row]
) -> str:
    """Return the Markdown of all claims at once: every variant in one table, then the verdicts."""
    lines = ["### all of them", "", *header()]
    lines += [line(VARIANTS[name].summary, made) for name, made in rows.items()]
    lines += [line("real clips", floor), "", "| claim | by samples | by denoising error |"]
    lines.append("|---|---|---|")
    for claim in claims:
        better, worse = (rows.get(name, ()) for name in (claim.better, claim.worse))
        if better and worse:
            found = f"{verdict(claim, better, worse)} | {by_error(better, worse)}"
            lines.append(f"| {claim.says} | {found} |")
    return "\n".join([*lines, ""])


def by_error(better: Sequence[Row], worse: Sequence[Row]) -> Verdict:
    """Return what the denoising error alone says; it has no part in the verdict."""
    found: dict[int, Verdict] = {1: "shown", 0: "not shown", -1: "opposite"}
    return found[compare(_values(better, "error"), _values(worse, "error"))]


def header() -> list[str]:
    """Return the two lines above every table."""
    names = ["", *COLUMNS.values(), "parameters", "CPU s"]
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def line(name: str, rows: Sequence[Row]) -> str:
    """Return one line of a table: mean ± standard deviation over the runs of a variant."""
    cells = [name, *(_cell(key, _values(rows, key)) for key in COLUMNS)]
    if "train_s" in rows[0]:
        seconds = Spread.of([row["train_s"] for row in rows])
        cells += [f"{rows[0]['parameters']:,}", f"{seconds.mean:.0f}"]
    else:
        cells += ["", ""]
    return "| " + " | ".join(cells) + " |"


def _cell(name: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = Spread.of(values)
    if name in _SHARES:
        off = "" if math.isnan(spread.deviation) else f" ± {100 * spread.deviation:.0f}"
        return f"{100 * spread.mean:.0f}{off} %"
    off = "" if math.isnan(spread.deviation) else f" ± {spread.deviation:.3f}"
    return f"{spread.mean:.3f}{off}"


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row["measures"][name] for row in rows if name in row["measures"]]
