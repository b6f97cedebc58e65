"""`headrace decode`: tokens back to what people see and hear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("decode")(decode)


def decode(
    dataset: Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")],
    stream: Annotated[str, typer.Option("--stream", "-s", help="The stream to decode from.")],
    row: Annotated[
        list[int] | None, typer.Option("--row", "-n", help="Which sample, from 0. May be given several times.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("decoded"),
    original: Annotated[bool, typer.Option(help="Write the original beside it where it can be read again.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the written files as JSON.")] = False,
) -> None:
    """Decode samples from their tokens alone: text, PNG, WAV, plot, GeoTIFF; the original beside the reconstruction."""
    from headrace.ingest.view import DatasetView

    view = DatasetView.open(dataset)
    out.mkdir(parents=True, exist_ok=True)
    written = [decode_row(view, stream, n, out, original) for n in row or [0]]
    if as_json:
        typer.echo(json.dumps(written, ensure_ascii=False))
        return
    for one in written:
        error = f"  error {one['error']:.4g} {one['error_unit']}" if one["error"] is not None else ""
        typer.echo(f"{one['sample']}  {one['uri']}{error}")
        for path in one["files"]:
            typer.echo(f"  {path}")
        if one["note"]:
            typer.echo(f"  {one['note']}")


def decode_row(view: Any, stream: str, row: int, out: Path, original: bool) -> dict[str, Any]:
    """Decode one sample into `out`; says what was written."""
    from headrace.ingest.render import picture, render, save_png, side_by_side
    from headrace.schemas.errors import SourceError

    address = view.nth(stream, row)
    sample = view.sample(address)
    decoded = view.decode(sample, stream)
    stem = out / f"{stream}-{row:05d}"
    files = render(decoded, stem.with_name(stem.name + "-decoded"))
    note = None
    if original:
        try:
            source = view.original(sample, stream)
            files += render(source, stem.with_name(stem.name + "-original"))
            pictures = picture(source), picture(decoded)
            if pictures[0] is not None and pictures[1] is not None:
                files.append(save_png(side_by_side(pictures[0], pictures[1]), stem.with_suffix(".png")))
        except SourceError as exc:
            note = f"no original: {exc}"
    unit = view.dataset.state.settings[stream].error_unit
    return {
        "sample": str(address),
        "uri": sample.column("uri")[0].as_py(),
        "error": sample.column("error")[0].as_py(),
        "error_unit": unit,
        "files": [str(path) for path in files],
        "note": note,
    }
