"""Progress displays: a line per source or stream while something runs, nothing where nobody looks."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, ClassVar, Self

from headrace.ingest.meter import STAGES


class Bars:
    """Bars on a terminal, of columns named as in `rich.progress`; elsewhere `bars` is None."""

    columns: ClassVar[tuple[str, ...]]

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._bars: Any = None
        self._ids: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._live:
            from rich import progress
            from rich.console import Console

            made = [getattr(progress, name)() for name in self.columns]
            name, note = progress.TextColumn("{task.description:<14}"), progress.TextColumn("{task.fields[note]}")
            console = Console(stderr=True)
            self._bars = progress.Progress(
                progress.SpinnerColumn(), name, *made, note, console=console, transient=True
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _show(self, name: str, total: int, done: int, note: str) -> None:
        if name not in self._ids:
            self._ids[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._ids[name], total=total, completed=done, note=note)


def told_meter(found: dict[str, float]) -> str:
    """`96.8 % of bare speed (codec 10 %, tokenizer 85 %, write 2 %, wait 1 %, headrace 2 %)`."""
    stages = ", ".join(f"{stage} {found[stage]:.0%}" for stage in STAGES if found[stage] >= 0.005)
    return f"{found['bare']:.1%} of bare speed ({stages})".replace("%", " %")


class BuildDisplay(Bars):
    """Draws what `Coordinator.progress` says. Without a terminal it prints a line when the phase changes."""

    columns = ("BarColumn", "MofNCompleteColumn", "TimeElapsedColumn")

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._phase = ""

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
        if row.get("meter") and not fitting:
            note += f", {told_meter(row['meter'])}"
        self._show(name, total, done, note)
