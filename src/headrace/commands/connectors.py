"""`headrace connectors`: where bytes can come from, and what each source can promise."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("connectors")(connectors)


def connectors(
    name: Annotated[str | None, typer.Argument(help="Show the settings of this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")] = False,
) -> None:
    """List connectors: name, guarantee, settings, example."""
    from headrace.connectors.registry import all_connectors, connector_class

    found = {name: connector_class(name)} if name else all_connectors()
    told = [describe(n, cls) for n, cls in found.items()]
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    for one in told:
        typer.echo(f"{one['name']:<12} {one['guarantee']}")
        typer.echo(f"{'':<12} {one['about']}")
        if name:
            for setting in one["settings"]:
                typer.echo(f"{'':<12}   {setting['name']:<18} {setting['default']:<14} {setting['about']}")


def describe(name: str, connector: Any) -> dict[str, Any]:
    """A connector in plain values."""
    from headrace.connectors.registry import guarantee_of

    schema = connector.Config.model_json_schema()
    required = set(schema.get("required", []))
    settings = [
        {
            "name": field,
            "default": "required" if field in required else json.dumps(info.get("default")),
            "about": info.get("description", ""),
        }
        for field, info in schema.get("properties", {}).items()
    ]
    about = next(iter((connector.__doc__ or "").strip().splitlines()), "")
    return {
        "name": name,
        "guarantee": guarantee_of(connector),
        "bounded": connector.bounded,
        "about": about,
        "settings": settings,
    }
