"""`headrace reencode`: what a retired engine had made, encoded again by the reference library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reencode")(reencode)


def reencode(
    dataset: Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")],
    pipeline: Annotated[
        Path, typer.Option("--pipeline", "-p", help="The pipeline file that the dataset was made with.")
    ],
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, help="Processes. Default: one per core.")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also when another writer may be live; it is fenced.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")] = False,
) -> None:
    """Encode again what a retired engine had made, also what could not be checked before; read nothing new.

    `build` and `serve` do the first by themselves. Run it again as often as you like.
    """
    from headrace.commands.build import read_source
    from headrace.commands.progress import BuildDisplay
    from headrace.ingest.engine_report import engine_of, in_words
    from headrace.ingest.live_writer import refuse_live_writer
    from headrace.ingest.reencode_run import reencode_dataset
    from headrace.shards.dataset import Dataset

    spec, base = read_source(pipeline, "NOASSERTION")
    opened = Dataset.open(dataset)
    refuse_live_writer(opened.state, opened.store.url, take_over)
    with BuildDisplay(quiet=as_json) as display:
        result = reencode_dataset(spec, dataset, base=base, workers=workers, watch=display.update)
    state = Dataset.open(dataset).state
    found = {name: engine_of(state, name) for name, own in sorted(state.settings.items()) if own.tokenizer}
    if as_json:
        typer.echo(json.dumps({"dataset": result.dataset, "version": result.version, "streams": found}))
        return
    for name, engine in found.items():
        typer.echo(f"engine of {name}: {in_words(engine)}")
