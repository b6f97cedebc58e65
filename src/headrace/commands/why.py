"""`headrace why`: where a sample came from."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("why")(why)


def why(
    dataset: Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")],
    sample: Annotated[str, typer.Argument(help="STREAM/LANE/SEQ, such as photos/L0003/17.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")] = False,
) -> None:
    """Say where a sample came from: source, position, license, transforms, tokenizer, commit."""
    from headrace.ingest.view import Address, DatasetView

    found = DatasetView.open(dataset).why(Address.parse(sample))
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    width = max(len(name) for name in found)
    for name, value in found.items():
        if value is not None:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            typer.echo(f"{name:<{width}}  {shown}")
