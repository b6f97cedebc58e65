"""`headrace forget` and `headrace gc`: what a dataset keeps."""

from __future__ import annotations

import json
from typing import Annotated

import typer

Dataset_ = Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("forget")(forget)
    app.command("gc")(gc)


def forget(
    dataset: Dataset_,
    id: Annotated[list[str] | None, typer.Option("--id", help="A record id, hex. May be given several times.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="All samples of this source.")] = None,
    license: Annotated[str | None, typer.Option("--license", help="All samples under this license.")] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="A condition on catalogue columns: \"uri = 'a.jpg'\".")
    ] = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="Rewrite shards and clean quarantine, so the bytes are gone.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many samples it would be; change nothing.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also when another writer may be live; it is fenced.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Forget samples: readers skip them from the next version on, and a replay does not bring them back."""
    from dataclasses import asdict

    from headrace.ingest.environment import library_versions
    from headrace.schemas.errors import ConfigError
    from headrace.shards.dataset import Dataset
    from headrace.shards.forget import Selection, find
    from headrace.shards.forget import forget as run
    from headrace.shards.log import CommitLog

    chosen = Selection(tuple(id or ()), source, license, where)
    opened = Dataset.open(dataset)
    if dry_run:
        found = find(opened, chosen)
        typer.echo(
            json.dumps({"samples": found.num_rows}) if as_json else f"{found.num_rows:,} samples would be forgotten"
        )
        return
    if opened.state.maybe_live and not take_over:
        raise ConfigError("another writer may be live on this dataset: stop it first, or give --take-over to fence it")
    log = CommitLog(opened.store)
    log.claim(library_versions(), {})
    done = run(log, chosen, erase=erase)
    log.end()
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        typer.echo(
            f"{done.samples:,} samples forgotten, {done.tokens:,} tokens"
            + (f"; {done.shards} shards rewritten" if erase else "")
        )
        for note in done.notes:
            typer.echo(note)


def gc(
    dataset: Dataset_,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what was found. Without it nothing changes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find files that no version of the dataset refers to: leavings of runs that were killed."""
    from dataclasses import asdict

    from headrace.shards.dataset import Dataset
    from headrace.shards.gc import collect

    opened = Dataset.open(dataset)
    report = collect(opened.store, opened.state, delete=delete)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    for found in report.garbage:
        typer.echo(f"{'deleted' if delete else 'garbage'}  {found.name}  {found.reason}")
    for name in report.kept:
        typer.echo(f"kept     {name}  perhaps of a live writer")
    verb = "deleted" if delete else "could be deleted (--delete)"
    typer.echo(f"{len(report.garbage)} files, {report.bytes:,} bytes {verb}")
