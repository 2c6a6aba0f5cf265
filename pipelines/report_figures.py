"""Figures of the report as PNG and SVG: contact sheets, loss curves, intervals.

Charts are drawn as inline SVG with the page's own style sheet, so that they stay sharp, small
and readable without anything loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from infra import video
from train.metrics.detector import Rate

_WIDTH, _HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 24, 10, 34
_GAP_PX = 1
_MAX_SIDE = 96
_MAX_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """A value over training steps.

    Attributes:
        name: Dotted, such as `stage1.loss`; the key in `report.json`.
        title: Above the chart.
        steps: Where the values were taken, rising.
        values: As many as steps.
        unit: What a step is, below the axis.
    """

    name: str
    title: str
    steps: Sequence[float]
    values: Sequence[float]
    unit: str = "step"


def contact_sheet(frames: NDArray[np.uint8], num_frames: int, columns: int) -> bytes:
    """Return evenly spaced frames of a clip [T, H, W, 3] in rows, as a PNG with white gaps."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(num_frames, len(frames))).astype(int)]
    stride = max(1, max(chosen.shape[1:3]) // _MAX_SIDE)
    small = chosen[:, ::stride, ::stride]
    columns = min(columns, len(small))
    rows, (height, width) = -(-len(small) // columns), small.shape[1:3]
    tall, wide = height + _GAP_PX, width + _GAP_PX
    sheet = np.full((rows * tall - _GAP_PX, columns * wide - _GAP_PX, 3), 255, np.uint8)
    for index, frame in enumerate(small):
        top, left = index // columns * tall, index % columns * wide
        sheet[top : top + height, left : left + width] = frame
    return video.encode_image(sheet, kind="png")


def line_chart(curve: Curve) -> Markup:
    """Return the curve as SVG: the raw values pale, their running mean strong."""
    finite = np.isfinite(np.asarray(curve.values, float))
    steps = np.asarray(curve.steps, float)[finite]
    values = np.asarray(curve.values, float)[finite]
    if not len(steps):
        return Markup('<p class="note">no values were recorded</p>')
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    y_ticks, x_ticks = _ticks(low, high), _ticks(0, float(steps.max()))
    span_x = (0.0, max(float(steps.max()), 1e-9))
    span_y = (min(low, y_ticks[0]), max(high, y_ticks[-1]))
    parts = [_grid(x_ticks, y_ticks, span_x, span_y)]
    parts.append(_polyline("raw", steps, values, span_x, span_y))
    parts.append(_polyline("mean", steps, _running_mean(values), span_x, span_y))
    parts.append(f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">')
    body = Markup("").join([*map(Markup, parts), curve.unit, Markup("</text>")])
    box = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
    return Markup(box) + body + Markup("</svg>")


def interval_plot(rate: Rate, chance: float) -> Markup:
    """Return a share on a line from 0 to 100 %: its interval as a bar, chance as a tick."""
    low, high, value = 200 * rate.low, 200 * rate.high, 200 * rate.value
    return Markup(
        '<svg class="interval" viewBox="-6 0 212 18" role="img">'
        '<line class="base" x1="0" x2="200" y1="9" y2="9"/>'
        f'<line class="chance" x1="{200 * chance:.1f}" x2="{200 * chance:.1f}" y1="2" y2="16"/>'
        f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="9" y2="9"/>'
        f'<circle class="dot" cx="{value:.1f}" cy="9" r="4.5"/></svg>'
    )


def _grid(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    span_x: tuple[float, float],
    span_y: tuple[float, float],
) -> str:
    lines = []
    for tick in y_ticks:
        y = _place_y(np.array([tick]), span_y)[0]
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        lines.append(
            f'<text class="axis" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>'
        )
    for tick in x_ticks:
        x = _place_x(np.array([tick]), span_x)[0]
        bottom = _HEIGHT - _BOTTOM + 14
        lines.append(
            f'<text class="axis" x="{x}" y="{bottom}" text-anchor="middle">{tick:g}</text>'
        )
    return "".join(lines)


def _polyline(
    kind: str,
    steps: NDArray[np.float64],
    values: NDArray[np.float64],
    span_x: tuple[float, float],
    span_y: tuple[float, float],
) -> str:
    stride = max(1, len(steps) // _MAX_POINTS)
    xs, ys = _place_x(steps[::stride], span_x), _place_y(values[::stride], span_y)
    points = " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def _place_x(values: NDArray[np.float64], span: tuple[float, float]) -> list[float]:
    share = (values - span[0]) / (span[1] - span[0])
    return [round(float(x), 1) for x in _LEFT + share * (_WIDTH - _LEFT - _RIGHT)]


def _place_y(values: NDArray[np.float64], span: tuple[float, float]) -> list[float]:
    share = np.clip((values - span[0]) / max(span[1] - span[0], 1e-9), 0, 1)
    bottom, tall = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
    return [round(float(y), 1) for y in bottom - share * tall]


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over a centred window of a twentieth of the curve."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    mean: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return mean


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers that lie in or around a range."""
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    raw = span / 4
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first, last = np.floor(low / step), np.ceil(high / step)
    ticks = [round(float(i * step), 10) for i in np.arange(first, last + 1)]
    return [tick for tick in ticks if tick >= min(low, 0) or low > 0]
