"""`headrace schema`: the JSON Schema of pipeline files, for editors."""

from __future__ import annotations

import json

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schema")(schema)


def schema() -> None:
    """Print the JSON Schema of pipeline files; editors complete and check with it."""
    from headrace.ingest.pipeline_schema import pipeline_json_schema

    typer.echo(json.dumps(pipeline_json_schema(), indent=1, ensure_ascii=False))
