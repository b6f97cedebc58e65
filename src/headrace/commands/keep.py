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
    from headrace.ingest.live_writer import refuse_live_writer
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
    refuse_live_writer(opened.state, opened.store.url, take_over)
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
    quarantine_keep: Annotated[
        str | None,
        typer.Option("--quarantine-keep", help="Take raw bytes out of quarantine that are older, such as 30d."),
    ] = None,
    reader_grace: Annotated[
        str, typer.Option("--reader-grace", help="How long a reader may go on with a version that was compacted: 7d.")
    ] = "7d",
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also when another writer may be live; it is fenced.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find files that no version of the dataset needs: leavings of killed runs, and what compaction replaced.

    With --quarantine-keep also quarantined bytes that are old enough; give it only what the pipeline's
    `privacy.quarantine_keep` says. Reasons, places and digests stay.
    """
    from dataclasses import asdict

    from headrace.commands.compact import seconds
    from headrace.ingest.environment import library_versions
    from headrace.ingest.live_writer import refuse_live_writer
    from headrace.schemas.errors import ConfigError, HeadraceError
    from headrace.shards.dataset import Dataset
    from headrace.shards.gc import collect
    from headrace.shards.log import CommitLog
    from headrace.shards.quarantine_expiry import Expired, due, expire, keep_seconds

    try:
        grace_s = seconds(reader_grace)
    except ConfigError as exc:
        raise ConfigError("should be a number and s, m, h or d, such as 7d", field="--reader-grace") from exc
    keep_s = None if quarantine_keep is None else keep_seconds(quarantine_keep)
    opened = Dataset.open(dataset)
    log = CommitLog(opened.store)
    old = due(opened.store, opened.state, keep_s).files if keep_s is not None else ()
    expired = Expired()
    if delete and (take_over or (old and keep_s is not None)):
        refuse_live_writer(opened.state, opened.store.url, take_over)
        log.claim(library_versions(), {})
        expired = expire(log, keep_s)
        log.end()
    else:
        log.replay()
    report = collect(opened.store, log.state, delete=delete, reader_grace_s=grace_s)
    if as_json:
        typer.echo(json.dumps({**asdict(report), "expired": asdict(expired), "due": [info.path for info in old]}))
    else:
        for found in report.garbage:
            typer.echo(f"{'deleted' if delete else 'garbage'}  {found.name}  {found.reason}")
        for name in report.kept:
            typer.echo(f"kept     {name}  perhaps of a live writer")
        for name in report.waiting:
            typer.echo(f"waiting  {name}  replaced less than {reader_grace} ago: a reader may need it")
        if delete and expired.files:
            typer.echo(f"{expired.rows:,} quarantined rows in {expired.files:,} files have lost their raw bytes")
        elif old and not delete:
            typer.echo(f"{len(old):,} quarantine files are older than {quarantine_keep}: --delete takes their bytes")
        for message in expired.damaged.values():
            typer.echo(f"left as it is: {message}")
        verb = "deleted" if delete else "could be deleted (--delete)"
        typer.echo(f"{len(report.garbage)} files, {report.bytes:,} bytes {verb}")
    if expired.damaged:
        raise HeadraceError(f"{len(expired.damaged)} damaged quarantine files keep their bytes: see `headrace verify`")
