"""`headrace inspect`: a dataset at a glance."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    dataset: Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")],
    at: Annotated[str | None, typer.Option("--at", help="A version number, or a digest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")] = False,
) -> None:
    """Show streams, samples, tokens, bytes, books, tokenizers and fidelity."""
    from headrace.commands.summary import dataset_summary, print_dataset
    from headrace.ingest.view import DatasetView

    view = DatasetView.open(dataset, version_of(at))
    found = dataset_summary(view)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_dataset(found)


def version_of(text: str | None) -> int | str | None:
    """A version number, or the beginning of a digest."""
    return int(text) if text is not None and text.isdigit() and len(text) < 8 else text
