"""`headrace verify`: prove that a dataset is what its log says."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


def verify(
    dataset: Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")],
    at: Annotated[str | None, typer.Option("--at", help="A version number, or a digest.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print content_digest, samples, tokens, books and problems as JSON.")
    ] = False,
) -> None:
    """Check the hash chain, every checksum, the books and the addresses. Exit code 1 if anything is wrong."""
    from headrace.commands.inspect import version_of
    from headrace.shards.dataset import Dataset
    from headrace.shards.verify import verify as check

    report = check(Dataset.open(dataset, version_of(at)))
    if as_json:
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        for problem in report.problems:
            typer.echo(f"PROBLEM {problem}")
        found = report.to_json()
        verdict = "clean" if not report.problems else f"{len(report.problems)} problems"
        typer.echo(f"{verdict}: {found['samples']:,} samples, {found['tokens']:,} tokens")
        typer.echo(f"content_digest {found['content_digest']}")
    if report.problems:
        raise typer.Exit(1)
