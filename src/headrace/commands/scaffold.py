"""`headrace new`: a connector, normalizer or tokenizer of one's own, with a test and a pipeline, green at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("new")(new)


def new(
    kind: Annotated[str, typer.Argument(help="connector, normalizer or tokenizer")],
    name: Annotated[str, typer.Argument(help="Its name, such as tide_gauge.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")] = Path(),
) -> None:
    """Write a new plug-in with its test and a pipeline that runs it. Nothing is overwritten."""
    from headrace.commands.scaffold_files import scaffold

    for path in scaffold(kind, name, out):
        typer.echo(f"wrote {path}")
    typer.echo(f"try it: pytest {out / f'test_{name}.py'}; headrace build {out / f'{name}.yaml'} --out {name}-dataset")
