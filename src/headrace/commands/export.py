"""`headrace export`: a dataset in the format of another trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from headrace.shards.dataset import Dataset
    from headrace.shards.exports.export import ExportResult
    from headrace.shards.exports.options import ExportOptions


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    dataset: Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")],
    to: Annotated[
        str, typer.Option("--to", help="mds, webdataset, energon, megatron, litdata, parquet or huggingface.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: new, or one that this export began.")],
    stream: Annotated[
        list[str] | None,
        typer.Option("--stream", "-s", help="Only this stream, or name@* for all its versions. Again for more."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", help="A version number, or a digest. Default: the newest, or the one begun."),
    ] = None,
    ids: Annotated[
        str, typer.Option("--ids", help="own: as the tokenizers number them; unified: one range over all of them.")
    ] = "own",
    fold: Annotated[str, typer.Option("--fold", help="all, train or validation.")] = "all",
    max_shard_size: Annotated[
        str | None, typer.Option("--max-shard-size", help="Such as 500MB or 1GiB. Default: what the format is used to.")
    ] = None,
    bos: Annotated[
        str, typer.Option("--bos", help="Id before each document, none, or auto: what the tokenizer names.")
    ] = "auto",
    eod: Annotated[
        str,
        typer.Option("--eod", help="Id after each document, none, or auto: for megatron and litdata what is known."),
    ] = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Compare every file of a finished export with its sha256, and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON document.")] = False,
) -> None:
    """Write a dataset as MDS, WebDataset, Energon, Megatron, LitData, Parquet or Hugging Face.

    Every block is checked when it is read, every file is read back when it is written. Cut off at any moment, the same
    command goes on and ends with the same bytes.
    """
    from headrace.commands.export_display import ExportDisplay, print_export
    from headrace.shards.exports.export import export as run
    from headrace.shards.exports.options import ExportOptions, Fold, Ids, Target, parse_mark, parse_size

    options = ExportOptions(
        to=cast("Target", to),
        streams=tuple(sorted(set(stream or ()))),
        ids=cast("Ids", ids),
        fold=cast("Fold", fold),
        max_shard_bytes=parse_size(max_shard_size) if max_shard_size is not None else None,
        bos=parse_mark(bos, "--bos"),
        eod=parse_mark(eod, "--eod"),
    )
    opened, newest = open_for(dataset, out, version)
    if check:
        check_finished(opened, out, options, as_json=as_json)
        return
    with ExportDisplay(quiet=as_json) as display:
        result = run(opened, out, options, watch=display.update)
    if as_json:
        typer.echo(json.dumps(answer(result, newest), ensure_ascii=False))
        return
    print_export(result, newest)


def open_for(dataset: str, out: Path, version: str | None) -> tuple[Dataset, int]:
    """The dataset at the version that is asked for, else at the one that the export in `out` has; and the newest."""
    from headrace.commands.inspect import version_of
    from headrace.shards.dataset import Dataset
    from headrace.shards.exports.export import pinned_version

    wanted = version_of(version) if version is not None else pinned_version(out)
    head = Dataset.open(dataset)
    return (head if wanted in (None, head.version) else Dataset.open(dataset, wanted)), head.version


def check_finished(dataset: Dataset, out: Path, options: ExportOptions, *, as_json: bool) -> None:
    """Say whether every file is as it was written. Exit code 1 if one is not."""
    from headrace.schemas.errors import ConfigError
    from headrace.shards.exports.journal import Journal, refuse_other
    from headrace.shards.exports.manifest import check_export
    from headrace.shards.exports.plan import settings_of

    manifest = Journal(out).manifest()
    if manifest is None:
        raise ConfigError(f"{out} holds no finished export", field="--check")
    refuse_other(manifest["settings"], settings_of(dataset, options), out)
    problems = check_export(out, manifest)
    if as_json:
        typer.echo(json.dumps({"files": len(manifest["files"]), "problems": problems}, ensure_ascii=False))
    else:
        for problem in problems:
            typer.echo(f"PROBLEM {problem}")
        verdict = f"{len(problems)} problems" if problems else "all as written"
        typer.echo(f"{len(manifest['files'])} files: {verdict}")
    if problems:
        raise typer.Exit(1)


def answer(result: ExportResult, newest: int) -> dict[str, Any]:
    """What `--json` prints: the manifest, and how this run came to it."""
    return {**result.manifest, "out": result.out, "resumed": result.resumed, "found": result.found, "newest": newest}
