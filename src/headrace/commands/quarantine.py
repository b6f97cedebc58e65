"""`headrace quarantine`: what did not become a sample, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Dataset_ = Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")]
Stream = Annotated[str | None, typer.Option("--stream", "-s", help="Only this stream.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only this reason code.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document per line.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="What did not become a sample, and why.", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("show")(show)
    group.command("replay")(replay)
    app.add_typer(group, name="quarantine")


def ls(
    dataset: Dataset_,
    stream: Stream = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """List quarantined records with their reasons. Rows that were replayed are marked: they are samples now."""
    for number, row in rows(dataset, stream):
        if reason and row["reason"].partition(":")[0] != reason and row["reason"] != reason:
            continue
        told = {k: v for k, v in row.items() if k not in ("raw", "raw_sha256")}
        if as_json:
            typer.echo(json.dumps({"number": number, **told}, ensure_ascii=False))
        else:
            place = f" {row['locator']}" if row["locator"] else ""
            mark = "replayed: " if row["replayed"] else ""
            typer.echo(
                f"{number:>5}  {row['reason']:<20}  {row['uri']}{place}\n       {mark}{row['message']}"
                f"\n       {row['file']}:{row['row']}"
            )


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


def replay(
    dataset: Dataset_,
    pipeline: Annotated[
        Path, typer.Option("--pipeline", "-p", help="The pipeline file that the dataset was made with.")
    ],
    stream: Stream = None,
    reason: Reason = None,
    row: Annotated[
        list[str] | None, typer.Option("--row", help="FILE:ROW as `ls` shows it. May be given several times.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try everything, add nothing.")] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also when another writer may be live; it is fenced.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")] = False,
) -> None:
    """Try quarantined rows again, after a fix: what works now is added once, what does not stays.

    Run it again as often as you like: a row that gave its samples never gives them twice.
    """
    from headrace.commands.build import read_source
    from headrace.ingest.live_writer import refuse_live_writer
    from headrace.ingest.replay_rows import Selection
    from headrace.ingest.replay_run import replay as run
    from headrace.shards.dataset import Dataset

    spec, base = read_source(pipeline, "NOASSERTION")
    chosen = Selection.parse(stream, reason, row or ())
    if not dry_run:
        opened = Dataset.open(dataset)
        refuse_live_writer(opened.state, opened.store.url, take_over)
    done = run(spec, dataset, chosen, base=base, dry=dry_run)
    if as_json:
        typer.echo(json.dumps(done.to_json(), ensure_ascii=False))
        return
    would = "would be " if dry_run else ""
    for one in done.stays:
        place = f" {one['locator']}" if one["locator"] else ""
        again = one["reason"] if one["reason"] == one["was"] else f"{one['reason']} (was {one['was']})"
        typer.echo(f"stays  {again:<20}  {one['uri']}{place}")
        typer.echo(f"       {one['message']}\n       {one['file']}:{one['row']}")
    for name, count in sorted(done.elsewhere.items()):
        typer.echo(f"{count:,} rows of {name} were left: the pipeline has no such stream")
    added = ", ".join(f"{count:,} samples of {name}" for name, count in sorted(done.samples.items())) or "no samples"
    replayed = f"{done.replayed:,} of {done.tried:,} rows {would}replayed"
    typer.echo(f"{replayed}, {added} {would}added; {len(done.stays):,} stay")
    if done.refused:
        typer.echo(f"{done.refused:,} records of them {would}quarantined anew")
    if done.before:
        typer.echo(f"{done.before:,} more had been replayed before")


def rows(dataset: str, stream: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every quarantined row with its running number, its file and place in it, and whether it was replayed."""
    from headrace.shards.dataset import Dataset
    from headrace.shards.quarantine import read_quarantine

    opened = Dataset.open(dataset)
    number = 0
    for info in opened.state.quarantine.values():
        if stream not in (None, info.stream):
            number += info.rows
            continue
        marks, at = opened.state.replayed.get(info.path, []), 0
        for batch in read_quarantine(opened.store, info):
            for row in batch.to_pylist():
                replayed = any(span.start <= at < span.stop for span in marks)
                yield number, {**row, "file": info.path, "row": at, "replayed": replayed}
                number, at = number + 1, at + 1


def hexdump(data: bytes) -> str:
    """16 bytes a line: offset, hex, printable characters."""
    lines = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {shown}")
    return "\n".join(lines)
