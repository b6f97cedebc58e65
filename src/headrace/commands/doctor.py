"""`headrace doctor`: will it work here? Asks before a job burns hours."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="Race processes on this dataset location: a folder or s3://bucket/prefix."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")] = False,
) -> None:
    """Check this machine, the optional libraries, and with --storage whether a store can hold a commit log."""
    checks = [*machine_checks(), *library_checks()]
    if storage:
        checks.append(storage_check(storage))
    if as_json:
        typer.echo(json.dumps([{"check": name, "ok": ok, "detail": detail} for name, ok, detail in checks]))
    else:
        for name, ok, detail in checks:
            typer.echo(f"{'ok ' if ok else 'BAD' if ok is False else '-  '} {name:<22} {detail}")
    if any(ok is False for _, ok, _ in checks):
        raise typer.Exit(1)


def machine_checks() -> list[tuple[str, bool | None, str]]:
    """Python, cores, temporary space, and variables that are known to break Ray."""
    free = shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free >> 30
    out: list[tuple[str, bool | None, str]] = [
        ("python", sys.version_info >= (3, 11), sys.version.split()[0]),
        ("cores", True, str(len(os.sched_getaffinity(0)))),
        ("temporary space", free >= 1, f"{free} GiB free in {os.environ.get('TMPDIR', '/tmp')}"),
    ]
    if "ROCR_VISIBLE_DEVICES" in os.environ and "HIP_VISIBLE_DEVICES" not in os.environ:
        out.append(("ROCR_VISIBLE_DEVICES", False, "Ray refuses to start unless HIP_VISIBLE_DEVICES is set too"))
    return out


def library_checks() -> list[tuple[str, bool | None, str]]:
    """Which optional libraries are here; None marks one that is missing, which is no fault by itself."""
    from importlib.metadata import PackageNotFoundError, version

    out: list[tuple[str, bool | None, str]] = []
    extras = {
        "pillow": "image",
        "av": "media",
        "rasterio": "raster",
        "sentencepiece": "text",
        "ray": "ray",
        "s3fs": "s3",
        "mcap": "sensor",
        "tokenizers": "hf",
        "tiktoken": "tiktoken",
    }
    for library, extra in extras.items():
        try:
            out.append((library, True, version(library)))
        except PackageNotFoundError:
            out.append((library, None, f"not installed; pip install 'headrace[{extra}]' brings it"))
    return out


def storage_check(url: str) -> tuple[str, bool | None, str]:
    """Whether the store creates a name exactly once under a race of processes."""
    from headrace.schemas.errors import HeadraceError
    from headrace.shards.race import exclusive_race
    from headrace.shards.store import open_store

    try:
        result = exclusive_race(open_store(url, create=True))
    except HeadraceError as exc:
        return (f"storage {url}", False, str(exc))
    return (f"storage {url}", True, f"exclusive: {result}")
