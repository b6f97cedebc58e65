"""Shows what `--dry-run` found."""

from __future__ import annotations

import json
from typing import Any

import typer

from headrace.commands.summary import size, table


def print_estimate(found: dict[str, Any], *, as_json: bool) -> None:
    """Tables of what would be read and what would be made."""
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    rows = [
        [
            r["source"],
            str(r["reads"].get("root", r["reads"]["type"])),
            f"{r['splits']:,}",
            size(r["bytes"]),
            str(r["lanes"]),
            f"{r['sampled_splits']} ({size(r['sampled_bytes'])})",
        ]
        for r in found["sources"]
    ]
    table(["source", "reads", "splits", "size", "lanes", "sampled"], rows, right=range(2, 6))
    typer.echo("")
    rows = [
        [
            o["stream"],
            o["modality"],
            o["tokenizer"],
            f"{o['samples']:,}",
            f"{o['tokens']:,}",
            size(o["bytes"]),
            f"{o['quarantined']:,}",
        ]
        for r in found["sources"]
        for o in r["outputs"]
    ]
    table(
        ["would make", "modality", "tokenizer", "~ samples", "~ tokens", "~ size", "~ quarantined"],
        rows,
        right=range(3, 7),
    )
    typer.echo("")
    for error in found["errors"]:
        typer.echo(f"PROBLEM {error['task']}: {error['message']}")
    typer.echo(f"about {found['seconds']:,.0f} s with {found['workers']} workers; nothing was written")
