"""`headrace build` and `headrace fit`."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

if TYPE_CHECKING:
    from headrace.schemas.pipeline import Pipeline

Source = Annotated[Path, typer.Argument(help="A pipeline file (.yaml), or a folder of files of any kind.")]
Out = Annotated[str | None, typer.Option("--out", "-o", help="Dataset to write: a folder or s3://bucket/prefix.")]
Workers = Annotated[
    int | None, typer.Option("--workers", "-w", min=1, help="Decoding processes. Default: one per core.")
]
EngineName = Annotated[str, typer.Option("--engine", help="auto, inline (this machine, starts at once) or ray.")]
Address = Annotated[str | None, typer.Option("--address", help="Join the Ray cluster at this address.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")]
License = Annotated[str, typer.Option("--license", help="SPDX license of a folder's files.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("build")(build)
    app.command("fit")(fit)
    app.command("join")(join)


def build(
    source: Source,
    out: Out = None,
    workers: Workers = None,
    engine: EngineName = "auto",
    address: Address = None,
    license: License = "NOASSERTION",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read and made, from a sample; write nothing.")
    ] = False,
    print_pipeline: Annotated[
        bool, typer.Option("--print-pipeline", help="Print the pipeline file of a folder and stop.")
    ] = False,
    part: Annotated[
        str | None, typer.Option("--part", help="Build part i of N (0/8 … 7/8), as one job of an array; then `join`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build training shards. A rerun goes on from the last commit; nothing is done twice."""
    if print_pipeline:
        typer.echo(pipeline_yaml(source, license))
        return
    if dry_run:
        from headrace.commands.estimates import print_estimate
        from headrace.ingest.estimate import estimate

        print_estimate(estimate(*read_source(source, license), workers=workers), as_json=as_json)
        return
    from headrace.commands.progress import BuildDisplay
    from headrace.ingest.child_process import ChildPool

    with ChildPool() as children:
        if engine in ("auto", "inline") and address is None:
            children.warm()  # it imports while this process does
        pipeline, base = read_source(source, license)
        from headrace.ingest.build import build as run
        from headrace.ingest.parts import Part

        spare_pandas(pipeline)
        with BuildDisplay(quiet=as_json) as display:

            def watch(progress: dict[str, Any]) -> None:
                display.update(progress)
                load_summary()

            result = run(
                pipeline,
                out,
                base=base,
                workers=workers,
                engine=check_engine(engine),
                address=address,
                watch=watch,
                part=Part.parse(part) if part else None,
                children=children,
            )
    from headrace.commands.summary import print_summary

    print_summary(result, as_json=as_json)


def fit(
    source: Source,
    out: Out = None,
    workers: Workers = None,
    engine: EngineName = "auto",
    license: License = "NOASSERTION",
    as_json: Json = False,
) -> None:
    """Fit the tokenizers that need it, and stop. `build` does this by itself; `serve` wants it done."""
    from headrace.commands.progress import BuildDisplay
    from headrace.ingest.build import build as run

    pipeline, base = read_source(source, license)
    spare_pandas(pipeline)
    with BuildDisplay(quiet=as_json) as display:
        result = run(
            pipeline, out, base=base, workers=workers, engine=check_engine(engine), watch=display.update, fit_only=True
        )
    if as_json:
        typer.echo(json.dumps({"dataset": result.dataset, "fitted": result.fitted}))
        return
    for name, fingerprint in sorted(result.fitted.items()):
        typer.echo(f"{name}: {fingerprint[:16] + '…' if fingerprint else 'no record to fit it on'}")


def join(
    dataset: Annotated[str, typer.Argument(help="The dataset whose parts were built with `build --part`.")],
    as_json: Json = False,
) -> None:
    """Join the parts of a job array into one dataset; cut off, it may be run again."""
    from headrace.ingest.parts import join as run
    from headrace.shards.catalogue import update_catalogue
    from headrace.shards.dataset import Dataset

    state = run(dataset)
    update_catalogue(Dataset.open(dataset))
    samples = sum(counts.samples for counts in state.streams.values())
    if as_json:
        typer.echo(json.dumps({"dataset": dataset, "version": state.v, "samples": samples}))
        return
    typer.echo(f"{dataset}: version {state.v}, {samples:,} samples; its folder `parts` is needed no more")


def read_source(source: Path, license: str) -> tuple[Pipeline, Path]:
    """The pipeline of a file or folder, and where its relative paths begin. Raises: ConfigError."""
    if source.suffix in (".yaml", ".yml"):
        from headrace.ingest.pipeline_file import load_pipeline

        return load_pipeline(source), source.parent.resolve()
    from headrace.ingest.folder import folder_pipeline

    return folder_pipeline(source, license=license), Path.cwd()


@functools.cache
def load_summary() -> None:
    """Import what the end of a build needs, once, while its workers are busy and this process is not."""
    for name in ("headrace.ingest.view", "headrace.shards.verify", "headrace.shards.catalogue", "rich.table"):
        importlib.import_module(name)


def spare_pandas(pipeline: Pipeline) -> None:
    """Keep pyarrow from importing pandas, which nothing here needs, if this process does only what was commanded."""
    from headrace.commands import own_process
    from headrace.ingest.without_pandas import all_built_in, leave_pandas_out

    if own_process.is_ours() and all_built_in(pipeline):
        leave_pandas_out()


def pipeline_yaml(source: Path, license: str) -> str:
    """The YAML of the pipeline that a folder is built with."""
    import yaml

    from headrace.ingest.folder import folder_document

    document = json.loads(json.dumps(folder_document(source, license=license)))  # no shared objects: no YAML aliases
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text.rstrip()


def check_engine(name: str) -> Literal["auto", "inline", "ray"]:
    """The engine's name. Raises: ConfigError."""
    from headrace.schemas.errors import ConfigError

    if name not in ("auto", "inline", "ray"):
        raise ConfigError(f"unknown engine `{name}`: auto, inline or ray", field="--engine", value=name)
    return cast("Any", name)
