"""The run's report: one page a person can look at, and the same numbers for a program.

`report.html` needs nothing beside it: videos, contact sheets and charts lie in the page itself.
`report.json` holds the numbers under nested keys, such as `samples.accuracy.colour`.

    write("runs/demo", ReportData(title="Demo", created_at="...", samples=(...), ...))
"""

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from infra import storage, video
from pipelines import report_figures
from pipelines.report_figures import Curve
from train.metrics.attributes import CHOICES, Attributes, agreement
from train.metrics.detector import Rate

_TEMPLATES = Path(__file__).parent / "templates"
_ORDER = (*CHOICES, "all")
_SHEET_FRAMES = 6
_SAMPLE_COLUMNS = 4


@dataclass(frozen=True)
class ClipView:
    """A clip of the corpus with its caption.

    Attributes:
        data: The encoded video or image.
        caption: What training reads beside it; empty if nothing.
        origin: Who wrote the caption: `human` or `synthetic`.
        truth: What the clip really shows, where that is known.
        read: What the caption says, where it was parsed.
    """

    data: bytes
    caption: str
    origin: str
    truth: Attributes | None = None
    read: Attributes | None = None


@dataclass(frozen=True)
class SampleView:
    """A generated video with what was asked for and what the judge saw.

    Attributes:
        data: The encoded video.
        prompt: The text that was sent.
        wanted: What the prompt says.
        seen: What the judge saw; no attribute is set where it found nothing.
        is_held_out: Whether the corpus never shows this combination.
    """

    data: bytes
    prompt: str
    wanted: Attributes
    seen: Attributes
    is_held_out: bool = False
    media_type: str = "video/mp4"


@dataclass(frozen=True)
class ReportData:
    """All that the report shows; what is empty is left out of the page.

    Attributes:
        title: First line of the page.
        created_at: When, as text.
        counts: What was done, such as `clips` or `captions written`, in order of display.
        samples: Generated videos.
        clips: A choice of the corpus.
        curves: Training losses and whatever else runs over steps.
        captions: Accuracy of the written captions by attribute, against ground truth.
        sampled: Accuracy of the samples by attribute, by the judge.
        judged: Accuracy of the judge itself on real clips by attribute.
        quarantine: Refused files by reason.
        seconds: Wall time by stage, in the order they ran.
        provenance: Config, release digest, code version and the like.
        config_yaml: The settings as resolved.
        commands: (what for, command line) pairs that open MLflow, Ray, the server.
    """

    title: str
    created_at: str
    counts: Mapping[str, int] = field(default_factory=dict)
    samples: Sequence[SampleView] = ()
    clips: Sequence[ClipView] = ()
    curves: Sequence[Curve] = ()
    captions: Mapping[str, Rate] = field(default_factory=dict)
    sampled: Mapping[str, Rate] = field(default_factory=dict)
    judged: Mapping[str, Rate] = field(default_factory=dict)
    quarantine: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    config_yaml: str = ""
    commands: Sequence[tuple[str, str]] = ()


def write(folder_uri: str, data: ReportData) -> None:
    """Write `report.html` and `report.json` into a folder, local or S3.

    Raises:
        DataError: A clip or sample cannot be decoded, or the folder cannot be written.
    """
    storage.write_bytes(storage.join(folder_uri, "report.html"), page(data).encode())
    text = json.dumps(numbers(data), indent=1, ensure_ascii=False)
    storage.write_bytes(storage.join(folder_uri, "report.json"), text.encode())


def numbers(data: ReportData) -> dict[str, Any]:
    """Return the report's numbers as the nested tree of `report.json`."""
    tree: dict[str, Any] = {"format": 1, "title": data.title, "created_at": data.created_at}
    groups = {"captions": data.captions, "samples": data.sampled, "detector": data.judged}
    for name, rates in groups.items():
        if rates:
            tree[name] = _rate_tree(rates)
    return tree | {
        "quarantine": dict(data.quarantine),
        "seconds": {stage: round(s, 1) for stage, s in data.seconds.items()},
        "counts": dict(data.counts),
        "final": {curve.name: curve.values[-1] for curve in data.curves if len(curve.values)},
        "provenance": dict(data.provenance),
    }


def page(data: ReportData) -> str:
    """Return the report as one self-contained HTML page."""
    return _template().render(
        data=data,
        tiles=_tiles(data),
        samples=[_sample_card(one) for one in data.samples],
        clips=[_clip_card(one) for one in data.clips],
        accuracies=_accuracies(data),
        charts=[(curve, report_figures.line_chart(curve)) for curve in data.curves],
        quarantine=_bars(data.quarantine),
        seconds=_bars(data.seconds),
        total_seconds=sum(data.seconds.values()),
    )


def chance(attribute: str) -> float:
    """Return how often guessing gets an attribute right; nearly never for all of them at once."""
    if attribute in CHOICES:
        return 1 / len(CHOICES[attribute])
    product = 1.0
    for choices in CHOICES.values():
        product /= len(choices)
    return product


def _rate_tree(rates: Mapping[str, Rate]) -> dict[str, Any]:
    names = [name for name in _ORDER if name in rates]
    return {
        "accuracy": {name: round(rates[name].value, 4) for name in names},
        "interval": {
            name: [round(rates[name].low, 4), round(rates[name].high, 4)] for name in names
        },
        "num": {name: rates[name].num for name in names},
        "chance": {name: round(chance(name), 4) for name in names},
    }


def _tiles(data: ReportData) -> list[tuple[str, str, str]]:
    """Return the figures at the top: (value, label, remark)."""
    tiles = []
    for group, label in ((data.sampled, "samples"), (data.captions, "captions")):
        for name in ("colour", "direction"):
            if name in group:
                rate = group[name]
                remark = f"{rate.low:.0%} to {rate.high:.0%}, chance {chance(name):.0%}"
                tiles.append((f"{rate.value:.0%}", f"{name} right in {label}", remark))
    if data.seconds:
        minutes = f"{sum(data.seconds.values()) / 60:.1f} min"
        tiles.append((minutes, "wall time", f"{len(data.seconds)} stages"))
    if data.quarantine:
        refused = sum(data.quarantine.values())
        tiles.append((f"{refused}", "in quarantine", f"{len(data.quarantine)} reasons"))
    return tiles


def _sample_card(one: SampleView) -> dict[str, Any]:
    frames = video.decode(one.data).frames
    return {
        "prompt": one.prompt,
        "held_out": one.is_held_out,
        "video": _data_uri(one.data, one.media_type),
        "sheet": _sheet(frames, len(frames), _SAMPLE_COLUMNS),
        "num_frames": len(frames),
        "size": f"{frames.shape[2]} x {frames.shape[1]} px",
        "verdicts": _verdicts(one.wanted, one.seen),
    }


def _clip_card(one: ClipView) -> dict[str, Any]:
    frames = video.decode(one.data).frames
    return {
        "caption": one.caption,
        "origin": one.origin,
        "sheet": _sheet(frames, _SHEET_FRAMES, _SHEET_FRAMES),
        "num_frames": min(len(frames), _SHEET_FRAMES),
        "wrong": [v for v in _verdicts(one.truth, one.read) if not v["right"]],
    }


def _sheet(frames: NDArray[np.uint8], num_frames: int, columns: int) -> str:
    return _data_uri(report_figures.contact_sheet(frames, num_frames, columns), "image/png")


def _verdicts(truth: Attributes | None, seen: Attributes | None) -> list[dict[str, Any]]:
    if truth is None or seen is None:
        return []
    return [
        {
            "name": name,
            "right": right,
            "wanted": getattr(truth, name),
            "seen": getattr(seen, name) or "nothing",
        }
        for name, right in agreement(truth, seen).items()
    ]


def _accuracies(data: ReportData) -> list[dict[str, Any]]:
    groups = (
        ("Samples", "generated videos, as the judge reads them", data.sampled),
        ("Captions", "written captions, against ground truth", data.captions),
        ("Judge", "the judge itself, on real clips", data.judged),
    )
    return [
        {"title": title, "note": note, "rows": _rate_rows(rates)}
        for title, note, rates in groups
        if rates
    ]


def _rate_rows(rates: Mapping[str, Rate]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "rate": rates[name],
            "chance": chance(name),
            "plot": report_figures.interval_plot(rates[name], chance(name)),
        }
        for name in _ORDER
        if name in rates
    ]


def _bars(values: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Return (name, value, share of the largest) for each bar."""
    largest = max(values.values(), default=0) or 1
    return [(name, value, value / largest) for name, value in values.items()]


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.01 else f"{share:.0%}"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.1f} s"


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "clock": _clock}
    return environment.get_template("report.html")
