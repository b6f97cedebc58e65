"""The Python API: build a dataset, open one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.ingest.build import BuildResult
    from headrace.ingest.view import DatasetView


def build(pipeline: str | Path | dict[str, Any], out: str | Path | None = None, **options: Any) -> BuildResult:
    """Build a dataset from a pipeline file, a folder, or a pipeline given as a mapping.

    Options: workers (int), engine ("auto", "inline" or "ray"), address, watch (called with progress).
    Raises: ConfigError before the first byte is read; BuildFailed; StorageError; LogError.
    """
    from headrace.ingest.build import build as run
    from headrace.ingest.folder import folder_pipeline
    from headrace.ingest.pipeline_file import load_pipeline, make_pipeline

    if isinstance(pipeline, dict):
        made, base = make_pipeline(pipeline, base=Path.cwd()), Path.cwd()
    elif Path(pipeline).suffix in (".yaml", ".yml"):
        made, base = load_pipeline(Path(pipeline)), Path(pipeline).resolve().parent
    else:
        made, base = folder_pipeline(Path(pipeline)), Path.cwd()
    return run(made, str(out) if out is not None else None, base=base, **options)


def open(dataset: str | Path, version: int | str | None = None) -> DatasetView:
    """A dataset at its newest version, or at a version number or digest: streams, samples as Arrow, decode.

    Raises: StorageError, BrokenLog, FormatTooNew.
    """
    from headrace.ingest.view import DatasetView

    return DatasetView.open(str(dataset), version)
