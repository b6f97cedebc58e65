"""The dataset over time: what each stream added, from the log, at the times that the service told for its commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.ingest.status_charts import MAX_SERIES, Bar, stacked
from headrace.ingest.status_contract import CommitStatus
from headrace.ingest.status_dataset import EntryLine
from headrace.ingest.status_words import clock, count, short_clock, size

WIDTH, HEIGHT, BINS = 720.0, 150.0, 60


@dataclass(frozen=True)
class Chart:
    """One stacked chart, with the label of the top of its scale and of its middle."""

    title: str
    bars: list[Bar]
    top: str
    middle: str


@dataclass(frozen=True)
class Timeline:
    """Charts over one time axis; `series` names the colours 1 to 8."""

    series: list[str]
    charts: list[Chart]
    x_labels: list[str]


def timeline(lines: Sequence[EntryLine], commits: Sequence[CommitStatus]) -> Timeline:
    """Bytes and samples by stream. Without times (a service that just began) every version is a bin of its own."""
    times = {commit["v"]: commit["time_us"] for commit in commits}
    found = [line for line in lines if line.added]
    timed = [(at, line) for line in found if (at := times.get(line.v)) is not None]
    if not found:
        return Timeline([], [], [])
    if timed:
        begin, end = timed[0][0], max(timed[-1][0], timed[0][0] + 60_000_000)
        step = (end - begin) / BINS
        places = [(min(BINS - 1, int((at - begin) / step)), line) for at, line in timed]
        titles = [clock(int(begin + step * i)) for i in range(BINS)]
        bins = BINS
        x_labels = [short_clock(int(begin + (end - begin) * part), end) for part in (0, 0.5, 1)]
    else:
        recent = found[-BINS:]
        places, bins = list(enumerate(recent)), len(recent)
        titles = [f"version {line.v}" for line in recent]
        x_labels = [titles[0], titles[-1]] if bins > 1 else titles
    totals: dict[str, int] = {}
    for _, line in places:
        for stream, added in line.added.items():
            totals[stream] = totals.get(stream, 0) + added.bytes
    ranked = sorted(totals, key=lambda name: (-totals[name], name))
    room = MAX_SERIES if len(ranked) <= MAX_SERIES else MAX_SERIES - 1
    series = sorted(ranked[:room]) + (["other"] if len(ranked) > room else [])
    place_of = {name: i for i, name in enumerate(series)}
    by_bytes = [[0.0] * len(series) for _ in range(bins)]
    by_rows = [[0.0] * len(series) for _ in range(bins)]
    for at, line in places:
        for stream, added in line.added.items():
            own = place_of.get(stream, len(series) - 1)
            by_bytes[at][own] += added.bytes
            by_rows[at][own] += added.rows
    charts = []
    for title, sums, words in (("Bytes", by_bytes, size), ("Samples", by_rows, count)):
        said = [f"{title_}: {words(sum(values))}" for title_, values in zip(titles, sums)]
        bars, top = stacked(sums, WIDTH, HEIGHT, said)
        charts.append(Chart(title, bars, words(top), words(top / 2)))
    return Timeline(series, charts, x_labels)
