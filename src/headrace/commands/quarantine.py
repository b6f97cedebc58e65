"""`headrace quarantine`: what did not become a sample, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Dataset_ = Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")]
Stream = Annotated[str | None, typer.Option("--stream", "-s", help="Only this stream.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document per line.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="What did not become a sample, and why.", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("show")(show)
    app.add_typer(group, name="quarantine")


def ls(
    dataset: Dataset_,
    stream: Stream = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Only this reason code.")] = None,
    as_json: Json = False,
) -> None:
    """List quarantined records with their reasons."""
    for number, row in rows(dataset, stream):
        if reason and row["reason"].partition(":")[0] != reason and row["reason"] != reason:
            continue
        told = {k: v for k, v in row.items() if k not in ("raw", "raw_sha256")}
        if as_json:
            typer.echo(json.dumps({"number": number, **told}, ensure_ascii=False))
        else:
            place = f" {row['locator']}" if row["locator"] else ""
            typer.echo(f"{number:>5}  {row['reason']:<20}  {row['uri']}{place}\n       {row['message']}")


def show(
    dataset: Dataset_,
    number: Annotated[int, typer.Argument(help="The number that `ls` shows.")],
    save: Annotated[Path | None, typer.Option("--save", help="Write the raw bytes to this file.")] = None,
    stream: Stream = None,
) -> None:
    """Show one quarantined record: place, reason, and a look at its bytes."""
    from headrace.schemas.errors import REASONS, ConfigError

    for n, row in rows(dataset, stream):
        if n != number:
            continue
        for key, value in row.items():
            if value is not None and key != "raw":
                typer.echo(f"{key:<12} {value.hex() if isinstance(value, bytes) else value}")
        typer.echo(f"{'meaning':<12} {REASONS.get(row['reason'].partition(':')[0], '')}")
        if row["raw"] is None:
            typer.echo("no bytes were kept")
        elif save is not None:
            save.write_bytes(row["raw"])
            typer.echo(f"{len(row['raw'])} bytes written to {save}")
        else:
            typer.echo(hexdump(row["raw"][:256]))
        return
    raise ConfigError(f"there is no quarantined record number {number}")


def rows(dataset: str, stream: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every quarantined row with its running number."""
    from headrace.shards.dataset import Dataset

    number = 0
    for _, batch in Dataset.open(dataset).quarantine(None):
        for row in batch.to_pylist():
            if stream is None or row.get("stream", stream) == stream:
                yield number, row
            number += 1


def hexdump(data: bytes) -> str:
    """16 bytes a line: offset, hex, printable characters."""
    lines = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {shown}")
    return "\n".join(lines)
