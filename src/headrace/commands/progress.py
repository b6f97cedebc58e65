"""The progress display of a build: a line per source while it runs, nothing where nobody looks."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self


class BuildDisplay:
    """Draws what `Coordinator.progress` says. Without a terminal it prints a line when the phase changes."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._phase = ""
        self._live = sys.stderr.isatty() and not quiet
        self._bars: Any = None
        self._ids: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )

            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<14}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, progress: dict[str, Any]) -> None:
        """Show the newest progress."""
        if self._bars is not None:
            for name, row in progress["sources"].items():
                self._bar(name, row)
        elif not self._quiet and progress["phase"] != self._phase:
            sys.stderr.write(f"headrace: {progress['phase']}\n")
        self._phase = progress["phase"]

    def _bar(self, name: str, row: dict[str, Any]) -> None:
        fitting = not row["tasks"] and row.get("fit_tasks")
        total = row["fit_tasks"] if fitting else row.get("all_splits", 0)
        done = row["fit_done"] if fitting else min(total, total - row["left"])
        note = "reading to fit" if fitting else f"{row['samples']:,} samples, {row['tokens']:,} tokens"
        if row["quarantined"] and not fitting:
            note += f", {row['quarantined']:,} quarantined"
        if name not in self._ids:
            self._ids[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._ids[name], total=total, completed=done, note=note)
