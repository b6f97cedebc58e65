"""The status of a service as a table for the terminal."""

from __future__ import annotations

import time
from typing import Any


def status_table(status: dict[str, Any], url: str | None) -> Any:
    """A rich table: a row a stream; below it the engines that were retired."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from headrace.ingest.engine_report import in_words

    table = Table(
        title=f"{status['dataset']}   version {status['version']}   {status['state']}" + (f"   {url}" if url else ""),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    words = ("stream", "state", "records/s", "lag", "newest event", "last commit", "samples", "tokens", "refused")
    for name in (*words, "of bare"):
        table.add_column(name, justify="left" if name in ("stream", "state") else "right")
    now = time.time()
    for stream in status["streams"]:
        outputs = stream["outputs"]
        commit = stream["last_commit_us"]
        rate = stream["records_per_s"]
        table.add_row(
            stream["name"],
            _state(stream),
            "" if rate is None else f"{rate:,.1f}",
            _lag(stream["lag"]),
            _ago(stream["freshness_s"]),
            _ago(None if commit is None else now - commit / 1e6),
            f"{sum(o['samples'] for o in outputs):,}",
            f"{sum(o['tokens'] for o in outputs):,}",
            f"{stream['quarantined_items'] + sum(o['quarantined'] for o in outputs):,}",
            f"{stream['meter']['bare']:.1%}" if stream.get("meter") else "",
        )
        for error in stream["errors"][:1]:
            table.add_row("", f"[yellow]{error['message'][:100]}[/]")
    outputs = [o for stream in status["streams"] for o in stream["outputs"] if o["engine"] and o["engine"]["retired"]]
    lines = [Text(f"engine of {o['name']}: {in_words(o['engine'])}", style="yellow") for o in outputs]
    return Group(table, *lines) if lines else table


def _state(stream: dict[str, Any]) -> str:
    colour = {"running": "green", "paused": "cyan", "parked": "yellow", "stopped": "red"}.get(stream["state"], "white")
    return f"[{colour}]{stream['state']}[/]"


def _lag(lag: dict[str, Any]) -> str:
    if lag["records"] is not None:
        return f"{lag['records']:,}"
    if lag["bytes"] is not None:
        return f"{lag['bytes'] / (1 << 20):,.1f} MiB"
    return "" if lag["seconds"] is None else f"{lag['seconds']:,.0f} s"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.0f} {unit} ago"
    return f"{max(0.0, seconds):,.1f} s ago"
