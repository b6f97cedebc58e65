"""From measurements to what the tables say: medians, ratios, slopes, costs; and the tables. No input or output here.

A slope is what one more unit of input costs, between the two sizes: what a tool spends on starting its own processes
inside `run`, which no clock tells apart, is not in it. A ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from race import Run
from works import Contender, Work


@dataclass
class Found:
    """One contender at one work. `runs`: by amount, by round (None where it was not asked). `absent`: why it has none."""

    contender: Contender
    runs: dict[float, list[Run | None]]
    absent: str = ""
    same: bool = True  #: gave the values that headrace gave

    def at(self, amount: float) -> list[Run]:
        """Its runs at one size."""
        return [run for run in self.runs.get(amount, []) if run is not None]

    def median(self, amount: float, name: str) -> float:
        """Of `seconds`, `cpu`, `peak_mb`, `startup_s` or `whole_s`."""
        return statistics.median(getattr(run, name) for run in self.at(amount))


def row_of(found: Found, ours: Found | None, work: Work, amounts: list[float], price: float) -> dict[str, Any]:
    """What the table tells of one contender; `price` of a core for an hour. None where it cannot be told."""
    small, large = amounts[0], amounts[-1]
    seconds, cpu = found.median(large, "seconds"), found.median(large, "cpu")
    count = next((run.sums.count for run in found.at(large) if run.sums), 0)
    row: dict[str, Any] = {
        "module": found.contender.module,
        "who": found.contender.who,
        "kind": found.contender.kind,
        "rounds": len(found.at(large)),
        "small_s": found.median(small, "seconds"),
        "large_s": seconds,
        "rate": large / seconds,
        "startup_s": found.median(large, "startup_s") + found.median(large, "whole_s") - seconds,
        "cpu_s": cpu,
        "peak_mb": max(run.peak_mb for run in found.at(large)),
        "values": count,
        "same": found.same,
        "slope": _slope(found, amounts, "seconds"),
        "cpu_slope": _slope(found, amounts, "cpu"),
    }
    each = count / large
    spent = row["cpu_slope"] or cpu / large
    row["price"] = spent / 3600 * price / each * 1e12 if each else None
    if ours is not None and ours.at(large):
        row["ratio"] = ratio(found, ours, large, "seconds")
        row["cpu_ratio"] = ratio(found, ours, large, "cpu")
        mine = _slope(ours, amounts, "seconds")
        row["slope_ratio"] = row["slope"] / mine if row["slope"] and mine else None
        mine = _slope(ours, amounts, "cpu")
        row["cpu_slope_ratio"] = row["cpu_slope"] / mine if row["cpu_slope"] and mine else None
    return row


def ratio(found: Found, ours: Found, amount: float, name: str) -> float | None:
    """How many times what headrace took, within rounds in which both ran."""
    pairs = zip(found.runs.get(amount, []), ours.runs.get(amount, []))
    both = [getattr(a, name) / getattr(b, name) for a, b in pairs if a is not None and b is not None]
    return statistics.median(both) if both else None


def _slope(found: Found, amounts: list[float], name: str) -> float | None:
    """Seconds for one unit more; None with one size, or where noise hides it."""
    small, large = amounts[0], amounts[-1]
    if small == large or not found.at(small):
        return None
    more = found.median(large, name) - found.median(small, name)
    return more / (large - small) if more > 0 else None


def table(work: Work, rows: list[dict[str, Any]], amounts: list[float], absent: list[tuple[str, str]]) -> Iterator[str]:
    """Markdown of one work: fastest first, the bare limits and headrace among their peers."""
    small, large = amounts[0], amounts[-1]
    yield f"### {work.title}"
    yield ""
    sizes = f"{small:g} {work.unit}, s | {large:g} {work.unit}, s" if small != large else f"{large:g} {work.unit}, s"
    yield (
        f"| who | {sizes} | {work.unit}/s | × ours | × ours, slope | start-up, s | CPU s | × ours | peak RSS, MB |"
        f" $ a trillion {work.values} |"
    )
    yield "|---|" + "---:|" * (len(amounts) + 8)
    for row in sorted(rows, key=lambda row: row["large_s"]):
        mark = ("" if row["same"] else " †") + ("" if row["rounds"] > 1 else " *")
        cells = [f"{row['large_s']:.2f}"] if small == large else [f"{row['small_s']:.2f}", f"{row['large_s']:.2f}"]
        cells += [f"{row['rate']:,.1f}", _two(row.get("ratio")), _two(row.get("slope_ratio")), f"{row['startup_s']:.1f}"]
        cells += [f"{row['cpu_s']:.2f}", _two(row.get("cpu_ratio")), f"{row['peak_mb']:,.0f}", _money(row["price"])]
        yield f"| {row['who']}{mark} | " + " | ".join(cells) + " |"
    yield ""
    for who, why in absent:
        yield f"- skipped: {who}: {why}"
    for note in work.notes:
        yield f"- {note}"
    if absent or work.notes:
        yield ""


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _money(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def summary(works: dict[str, tuple[Work, list[dict[str, Any]]]]) -> Iterator[str]:
    """One line for each work: ours against the limit and the fastest peer."""
    yield "| work | of the bare limit | fastest peer | it takes × our time | slope | × our CPU | slope | ahead |"
    yield "|---|---:|---|---:|---:|---:|---:|---|"
    for work, rows in works.values():
        ours = next((row for row in rows if row["kind"] == "ours"), None)
        peers = sorted((row for row in rows if row["kind"] == "peer"), key=lambda row: row["large_s"])
        bare = min((row for row in rows if row["kind"] == "bare"), key=lambda row: row["large_s"], default=None)
        if ours is None:
            continue
        limit = f"{bare['ratio']:.2f}" if bare and bare.get("ratio") else ""
        best = peers[0] if peers else None
        told = ("ratio", "slope_ratio", "cpu_ratio", "cpu_slope_ratio")
        cells = [best["who"], *(_two(best.get(name)) for name in told)] if best else [""] * 5
        ahead = "" if not best or best.get("ratio") is None else "headrace" if best["ratio"] >= 1 else "**the peer**"
        yield f"| {work.title} | {limit} | " + " | ".join(cells) + f" | {ahead} |"
    yield ""
