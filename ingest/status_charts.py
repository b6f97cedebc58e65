"""Geometry of the page's charts, as numbers and SVG path data. Plain functions, no I/O; templates only place them.

All coordinates are in the chart's own view box, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.ingest.status_contract import OutputStatus

#: How many streams a chart tells apart; the rest share one colour.
MAX_SERIES = 8


def sparkline(values: Sequence[float | None], width: float, height: float, slots: int) -> tuple[str, str]:
    """(line, area) path data, newest value at the right edge of `slots`; unknown values break the line.

    The scale begins at 0, so that a flat line near the top is steady and not noise.
    """
    known = [v for v in values if v is not None]
    top = max([*known, 1e-9])
    step = width / max(slots - 1, 1)
    first = slots - len(values)
    line, area, run = [], [], []
    for i, value in enumerate([*values, None]):
        if value is not None:
            run.append((round((first + i) * step, 2), round(height - 1 - value / top * (height - 2), 2)))
            continue
        if run:
            line.append(_polyline(run))
            area.append(f"{_polyline(run)}L{run[-1][0]} {height}L{run[0][0]} {height}Z")
        run = []
    return "".join(line), "".join(area)


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    if len(points) == 1:
        return f"M{points[0][0]} {points[0][1]}h0.01"
    return "M" + "L".join(f"{x} {y}" for x, y in points)


@dataclass(frozen=True)
class Segment:
    """One part of a bar: from `x`, `width` wide."""

    kind: str
    value: int
    x: float
    width: float


def balance(output: OutputStatus, width: float) -> list[Segment]:
    """The books of a stream as the parts of one bar; a part that is not zero is at least 2 wide, so that it is seen."""
    rejected = sum(output["rejected"].values())
    parts = [
        ("samples", output["samples"]),
        ("quarantined", output["quarantined"]),
        ("rejected", rejected),
        ("duplicates", output["duplicates"]),
    ]
    total = sum(n for _, n in parts)
    if total <= 0:
        return []
    widths = [max(2.0, width * n / total) if n else 0.0 for _, n in parts]
    excess = sum(widths) - width
    widths[widths.index(max(widths))] -= excess
    out, x = [], 0.0
    for (kind, n), wide in zip(parts, widths):
        if n:
            out.append(Segment(kind, n, round(x, 2), round(wide, 2)))
        x += wide
    return out


@dataclass(frozen=True)
class Bar:
    """One coloured piece of a stacked bar; `series` is 1 to 8."""

    series: int
    x: float
    y: float
    width: float
    height: float
    title: str


def stacked(
    bins: Sequence[Sequence[float]], width: float, height: float, titles: Sequence[str]
) -> tuple[list[Bar], float]:
    """Bars of stacked values, one a bin, and the top of the scale: a round number not below the greatest sum."""
    most = max([sum(values) for values in bins] or [0.0])
    if most <= 0:
        return [], 0.0
    top = scale(0.0, most, 2)[-1]
    step = width / len(bins)
    gap = min(2.0, step * 0.25)
    bars = []
    for i, values in enumerate(bins):
        y = height
        for series, value in enumerate(values, 1):
            if value > 0:
                tall = value / top * height
                y -= tall
                bars.append(
                    Bar(
                        series,
                        round(i * step + gap / 2, 2),
                        round(y, 2),
                        round(step - gap, 2),
                        round(tall, 2),
                        titles[i],
                    )
                )
    return bars, top


def scale(least: float, most: float, steps: int) -> list[float]:
    """About `steps` equal steps between round numbers (1, 2 or 5 times a power of ten) that enclose [least, most]."""
    if not most - least > 1e-12 * max(abs(least), abs(most), 1e-280):  # nothing, or nothing that floats could divide
        pad = abs(most) * 0.05 or 1.0
        least, most = least - pad, most + pad
    raw = (most - least) / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.floor(least / step + 1e-9)
    last = math.ceil(most / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def waveform(slices: Sequence[tuple[float, float]], width: float, height: float) -> str:
    """Path data of a filled envelope; each slice is (lowest, highest) in -1 to 1."""
    if not slices:
        return ""
    step = width / len(slices)
    middle = height / 2

    def y(value: float) -> float:
        return round(middle - max(-1.0, min(1.0, value)) * (middle - 1), 2)

    upper = [f"{round((i + 0.5) * step, 2)} {min(y(high), middle - 0.4)}" for i, (_, high) in enumerate(slices)]
    lower = [f"{round((i + 0.5) * step, 2)} {max(y(low), middle + 0.4)}" for i, (low, _) in enumerate(slices)]
    return "M" + "L".join([*upper, *reversed(lower)]) + "Z"


@dataclass(frozen=True)
class Plot:
    """A line over time as path data (a value between two gaps is a dot), and equally spaced labels of both axes."""

    line: str
    grid: list[float]  #: y of the lines of the grid
    y_labels: list[str]  #: from the top down
    x_seconds: list[float]  #: from the left


def series_plot(seconds: Sequence[float], values: Sequence[float | None], width: float, height: float) -> Plot:
    """Values at their true times; None breaks the line and is never bridged."""
    known = [v for v in values if v is not None]
    if not known:
        return Plot("", [], [], [])
    ticks = scale(min(known), max(known), 4)
    least, span = ticks[0], ticks[-1] - ticks[0]
    begin, long = min(seconds), (max(seconds) - min(seconds)) or 1.0
    line, run = [], []
    for at, value in [*zip(seconds, values), (0.0, None)]:
        if value is not None:
            x = (at - begin) / long * width
            run.append((round(x, 2), round(height - (value - least) / span * height, 2)))
        elif run:
            line.append(_polyline(run))
            run = []
    grid = [round(height * i / (len(ticks) - 1), 2) for i in range(len(ticks))]
    return Plot("".join(line), grid, [f"{v:g}" for v in reversed(ticks)], [begin + long * i / 4 for i in range(5)])
