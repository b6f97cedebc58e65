"""What an export shows: a bar for each stream while it runs, and a table at the end."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

if TYPE_CHECKING:
    from headrace.shards.exports.export import ExportResult


class ExportDisplay:
    """Draws what `export` says to its watcher. Without a terminal it prints a line when a stream begins."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._bars: Any = None
        self._ids: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<14}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
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
        name = progress["stream"]
        if self._bars is None:
            if not self._quiet and name not in self._ids:
                sys.stderr.write(f"headrace: exporting {name}\n")
            self._ids[name] = None
            return
        note = f"{progress['samples']:,} samples"
        if name not in self._ids:
            self._ids[name] = self._bars.add_task(name, total=progress["of_bytes"], note=note)
        self._bars.update(self._ids[name], completed=progress["bytes"], note=note)


def print_export(result: ExportResult, newest: int) -> None:
    """What the export holds, and what was left out of it."""
    from headrace.commands.summary import size, table

    manifest = result.manifest
    rows = []
    for name, stream in manifest["streams"].items():
        files = [f for f in manifest["files"] if f.get("stream") == name]
        left = stream["left_out"]
        rows.append(
            [
                name,
                stream["modality"],
                f"{stream['samples']:,}",
                f"{stream['tokens']:,}",
                stream["dtype"] or "raw",
                size(sum(f["bytes"] for f in files)),
                f"{len(files):,}",
                ", ".join(f"{count:,} {what}" for what, count in left.items() if count) or "",
            ]
        )
    heads = ["stream", "modality", "samples", "tokens", "ids", "bytes", "files", "left out"]
    table(heads, rows, right={2, 3, 5, 6})
    for name, reason in manifest["left_out_streams"].items():
        if reason != "no samples":
            typer.echo(f"{name} is left out: {reason}")
    for name, stream in manifest["streams"].items():
        if stream["end_of_document_inside"]:
            typer.echo(
                f"{name}: the id {stream['after'][-1]} after each document also stands"
                f" {stream['end_of_document_inside']:,} times inside documents, so it does not tell them apart"
            )
        elif manifest["settings"]["options"]["to"] in ("megatron", "litdata") and not stream["after"]:
            typer.echo(f"{name}: no id ends its documents, since its tokenizer names none: give one with --eod")
    how = "was finished before, nothing was written" if result.found else "resumed" if result.resumed else "complete"
    typer.echo(f"{result.out}: {manifest['dataset']} version {manifest['version']}, {how}")
    if newest > manifest["version"]:
        typer.echo(f"the dataset is at version {newest} by now: export to another folder for what was added")
