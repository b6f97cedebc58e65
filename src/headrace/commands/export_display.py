"""What an export shows: a bar for each stream while it runs, and a table at the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from headrace.commands.progress import Bars

if TYPE_CHECKING:
    from headrace.shards.exports.export import ExportResult


class ExportDisplay(Bars):
    """Draws what `export` says to its watcher. Without a terminal it prints a line when a stream begins."""

    columns = ("BarColumn", "DownloadColumn", "TransferSpeedColumn", "TimeRemainingColumn")

    def update(self, progress: dict[str, Any]) -> None:
        """Show the newest progress."""
        name = progress["stream"]
        if self._bars is not None:
            self._show(name, progress["of_bytes"], progress["bytes"], f"{progress['samples']:,} samples")
        elif name not in self._ids:
            self._ids[name] = None
            if not self._quiet:
                sys.stderr.write(f"headrace: exporting {name}\n")


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
