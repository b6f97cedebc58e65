"""What the top of the page says in a sentence and a few figures, and the state of a stream in one word."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.ingest.status_contract import OutputStatus, ServiceStatus, StreamStatus
from headrace.ingest.status_poll import STALE_S, Snapshot
from headrace.ingest.status_words import duration


@dataclass(frozen=True)
class Summary:
    """`tone` is good, quiet, warn or bad. `worst` is the least fresh stream that runs."""

    tone: str
    headline: str
    detail: str
    worst: str | None
    freshness_s: float | None
    records_per_s: float | None
    bytes_per_s: float | None
    records: int
    samples: int
    tokens: int
    quarantined: int


def summary(snapshot: Snapshot) -> Summary:
    """The service in short."""
    status = snapshot.status
    streams = status["streams"] if status else []
    shown = [s for s in streams if s["state"] != "removed"]
    running = [s for s in shown if s["state"] == "running"]
    known = [(s["freshness_s"], s["name"]) for s in running if s["freshness_s"] is not None]
    worst = max(known, default=(None, None))
    outputs = [output for s in shown for output in s["outputs"]]
    tone, headline, detail = _said(snapshot, status, shown)
    return Summary(
        tone=tone,
        headline=headline,
        detail=detail,
        worst=worst[1],
        freshness_s=worst[0],
        records_per_s=_sum([s["records_per_s"] for s in running]),
        bytes_per_s=_sum([s["bytes_per_s"] for s in running]),
        records=sum(o["records"] for o in outputs),
        samples=sum(o["samples"] for o in outputs),
        tokens=sum(o["tokens"] for o in outputs),
        quarantined=sum(o["quarantined"] for o in outputs) + sum(s["quarantined_items"] or 0 for s in shown),
    )


def books(stream: StreamStatus) -> OutputStatus:
    """The books of all that a stream feeds, added up."""
    total: OutputStatus = {
        "name": stream["name"],
        "modality": "",
        "records": 0,
        "samples": 0,
        "tokens": 0,
        "quarantined": 0,
        "rejected": {},
        "duplicates": 0,
        "engine": None,
    }
    for output in stream["outputs"]:
        total["records"] += output["records"]
        total["samples"] += output["samples"]
        total["tokens"] += output["tokens"]
        total["quarantined"] += output["quarantined"]
        total["duplicates"] += output["duplicates"]
        for rule, n in output["rejected"].items():
            total["rejected"][rule] = total["rejected"].get(rule, 0) + n
    return total


def balanced(output: OutputStatus) -> bool:
    """Whether records = samples + quarantined + rejected + duplicates."""
    parts = output["samples"] + output["quarantined"] + sum(output["rejected"].values()) + output["duplicates"]
    return output["records"] == parts


def lost(stream: StreamStatus) -> str:
    """The gaps of a stream in a few words: none; 2, 14 lost; 2, 14 lost at least."""
    gaps = stream["gaps"]
    if not gaps:
        return "none"
    total = sum(gap["lost"] or 0 for gap in gaps)
    if all(gap["lost"] is None for gap in gaps):
        return f"{len(gaps)}, loss unknown"
    open_end = " at least" if any(gap["lost"] is None for gap in gaps) else ""
    return f"{len(gaps)}, {total:,} lost{open_end}"


def _said(snapshot: Snapshot, status: ServiceStatus | None, shown: list[StreamStatus]) -> tuple[str, str, str]:
    if status is None:
        return "quiet", "Waiting for the service.", snapshot.error or "It has not answered yet."
    if snapshot.error is not None or snapshot.age_s > STALE_S:
        old = f"What follows is {duration(snapshot.age_s)} old."
        return "bad", "The service does not answer.", f"{snapshot.error}. {old}" if snapshot.error else old
    if status["state"] == "fenced":
        return "bad", "Fenced.", "A newer service has taken this dataset over; this one commits nothing more."
    if status["state"] == "stopped":
        return "quiet", "Stopped.", "Everything that was open has been committed."
    if status["state"] == "draining":
        return "warn", "Draining.", "What is open is being committed; then the service stops."
    if status["state"] == "starting":
        return "quiet", "Starting.", "The dataset is being claimed and the streams are being discovered."
    if not shown:
        return "quiet", "No streams yet.", "Add one with `headrace streams add`."
    total = len(shown)
    parked = [s["name"] for s in shown if s["state"] == "parked"]
    troubled = [s["name"] for s in shown if s["state"] == "running" and s["errors"]]
    halted = [s["name"] for s in shown if s["state"] in ("paused", "stopped")]
    running = total - len(parked) - len(halted)
    if parked:
        return "bad", f"{_of(len(parked), total)} parked.", f"{_names(parked)}: see why below. The others go on."
    if troubled:
        return (
            "warn",
            f"{_of(len(troubled), total)} waiting for a source.",
            f"{_names(troubled)}: tried again by itself.",
        )
    if halted:
        return "quiet", f"{_of(running, total)} running.", f"Not running: {_names(halted)}."
    return (
        "good",
        "Every stream is flowing." if total > 1 else "The stream is flowing.",
        "The books balance with each commit.",
    )


def _of(n: int, total: int) -> str:
    return f"{n} of {total} streams {'is' if n == 1 else 'are'}"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _sum(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None
