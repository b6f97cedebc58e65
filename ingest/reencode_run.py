"""Encodes again what retired engines had made, for `headrace reencode`; nothing new is read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.ingest.build import BuildFailed, BuildResult
from headrace.ingest.inline_engine import run_inline
from headrace.ingest.resolve import Runtime
from headrace.schemas.pipeline import Pipeline
from headrace.shards.catalogue import update_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.log import CommitLog
from headrace.shards.store import open_store


def reencode_dataset(
    pipeline: Pipeline,
    dataset: str,
    *,
    base: Path,
    workers: int | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> BuildResult:
    """Also try what could not be checked before. Claims the dataset: ask first who is live.

    Raises: ConfigError; BuildFailed where a task failed: run it again to go on; LogError, StorageError.
    """
    where = dataset if "://" in dataset else str(Path(dataset).resolve())
    runtime, count, began = Runtime.of(pipeline, where, base), workers or os.cpu_count() or 1, time.monotonic()
    summary = run_inline(
        runtime.to_json(), workers=count, watch=watch or (lambda progress: None), reencode_only=True
    )
    after = CommitLog(open_store(where))
    state = after.replay()
    result = BuildResult(
        where, "inline", count, state.v, state.digest, time.monotonic() - began, summary["errors"], summary["seconds"]
    )
    if result.errors:
        raise BuildFailed(f"{result.errors[0]['task']}: {result.errors[0]['message']}", result)
    update_catalogue(Dataset(after.store, state))
    return result
