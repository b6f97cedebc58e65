"""`headrace doctor`: will it work here? Asks before a job burns hours."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    pipeline: Annotated[
        Path | None, typer.Argument(help="A pipeline file: every source is asked, every tokenizer looked for.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="The dataset that the pipeline would write.")] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="Race processes on this dataset location: a folder or s3://bucket/prefix."),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Start Ray, and stop it again.")] = False,
    address: Annotated[str | None, typer.Option("--address", help="Join the Ray cluster at this address.")] = None,
    listen: Annotated[str | None, typer.Option("--listen", help="Whether this address is free for the page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")] = False,
) -> None:
    """Check this machine, its libraries, and what a run would need: storage, Ray, ports, sources, tokenizers."""
    from headrace.ingest import checkup

    checks = [*checkup.machine(), *checkup.libraries(), *checkup.codecs()]
    if ray or address:
        checks.append(checkup.ray_start(address))
    if listen:
        checks.append(checkup.port(listen))
    if storage:
        checks.append(checkup.storage(storage))
    if pipeline is not None:
        from headrace.commands.build import read_source
        from headrace.ingest.resolve import Runtime

        spec, base = read_source(pipeline, "NOASSERTION")
        dataset = out or spec.dataset or str(Path.cwd() / "dataset")
        checks += checkup.sources(Runtime.of(spec, dataset, base))
    if as_json:
        typer.echo(json.dumps([{**asdict(c), "check": c.name, "ok": _ok(c.verdict)} for c in checks]))
    else:
        _print(checks)
    if any(c.verdict == "bad" for c in checks):
        raise typer.Exit(1)


def _ok(verdict: str) -> bool | None:
    return {"ok": True, "warn": True, "bad": False}.get(verdict)


def _print(checks: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "check", "found", "remedy"):
        table.add_column(column, overflow="fold")
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]hm[/]", "bad": "[red]BAD[/]", "absent": "[dim]-[/]"}
    for check in checks:
        table.add_row(marks[check.verdict], check.name, check.found, check.remedy)
    Console().print(table)
    bad = sum(check.verdict == "bad" for check in checks)
    typer.echo(f"{bad} would fail" if bad else "nothing here would fail")
