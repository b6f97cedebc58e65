"""One bounded run from a pipeline to a dataset: what `headrace build` and `headrace.build` call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headrace.ingest.child_process import ChildPool
from headrace.ingest.guards import check_settings, probe_sources
from headrace.ingest.inline_engine import run_inline
from headrace.ingest.live_writer import refuse_live_writer
from headrace.ingest.parts import Part
from headrace.ingest.resolve import ResolvedStream, Runtime, resolve
from headrace.schemas.errors import ConfigError, HeadraceError
from headrace.schemas.pipeline import Pipeline
from headrace.shards.log import CommitLog
from headrace.shards.store import open_store

_logger = logging.getLogger(__name__)

Engine = Literal["auto", "inline", "ray"]

#: Below this much input Ray's start takes longer than the work.
_INLINE_BYTES = 2 << 30


@dataclass(frozen=True)
class BuildResult:
    """What a build did. `errors` is empty when everything was read."""

    dataset: str
    engine: str
    workers: int
    version: int
    digest: str
    seconds: float
    errors: list[dict[str, Any]] = field(default_factory=list)
    stage_seconds: dict[str, dict[str, float]] = field(default_factory=dict)  #: by stream, as lanes count them
    worker_seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    fitted: dict[str, str | None] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Everything listed was committed or quarantined."""
        return not self.errors


class BuildFailed(HeadraceError):
    """Some of the input could not be read or some of the output not written; a rerun goes on from the last commit."""

    def __init__(self, message: str, result: BuildResult) -> None:
        self.result = result
        self.kinds = frozenset(str(error["type"]) for error in result.errors)  #: names of the errors' classes
        super().__init__(message)


def build(
    pipeline: Pipeline,
    dataset: str | None = None,
    *,
    base: Path | None = None,
    workers: int | None = None,
    engine: Engine = "auto",
    address: str | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
    fit_only: bool = False,
    part: Part | None = None,
    children: ChildPool | None = None,
) -> BuildResult:
    """Run a pipeline over its bounded sources until everything is committed.

    `children`: decoding processes that were warmed before, for the inline engine.
    A rerun over the same dataset does only what is left. Raises: ConfigError before the first byte is read; BuildFailed
    (with the result so far) when some of the work could not be done; LogError, StorageError.
    """
    import os

    where = dataset or pipeline.dataset
    if not where:
        raise ConfigError(
            "where should the dataset go? give --out, or `dataset:` in the pipeline file", field="dataset"
        )
    if "://" not in where:
        where = str(Path(where).resolve())
    whole = where
    if part is not None:
        where = part.dataset(whole)
    runtime = Runtime.of(pipeline, where, base or Path.cwd())
    streams = resolve(pipeline, runtime.base, where)
    probe_sources(streams)
    if part is not None:
        _check_fitted(streams, whole)
    store = open_store(where, create=True)
    state = CommitLog(store).replay()
    check_settings(streams, state.settings)
    if state.api is not None:
        refuse_live_writer(state, store.url, take_over=False)  # a build that was killed has no address, and goes on
    count = workers or os.cpu_count() or 1
    chosen = _choose(engine, streams, address) if part is None else "inline"
    began = time.monotonic()
    observer = watch or (lambda progress: None)
    if chosen == "ray":
        from headrace.ingest.ray_engine import run_ray

        summary = run_ray(runtime.to_json(), workers=count, watch=observer, address=address, fit_only=fit_only)
    else:
        fitted_in = whole if part is not None and _fits(streams) else None
        summary = run_inline(
            runtime.to_json(),
            workers=count,
            watch=observer,
            fit_only=fit_only,
            part=part,
            fitted_in=fitted_in,
            children=children,
        )
    after = CommitLog(store)
    after.replay()
    result = BuildResult(
        dataset=where,
        engine=chosen,
        workers=count,
        version=after.state.v,
        digest=after.state.digest,
        seconds=time.monotonic() - began,
        errors=summary["errors"],
        stage_seconds=summary["seconds"],
        worker_seconds=summary["workers"],
        fitted=summary["fitted"],
    )
    if result.errors:
        first = result.errors[0]
        more = f" (and {len(result.errors) - 1} more)" if len(result.errors) > 1 else ""
        raise BuildFailed(f"{first['task']}: {first['message']}{more}", result)
    if summary["unfinished"]:
        raise BuildFailed(f"{len(summary['unfinished'])} tasks were left unfinished; run it again to go on", result)
    if not fit_only and part is None:
        _catalogue(store)
    return result


def _fits(streams: dict[str, ResolvedStream]) -> list[str]:
    """The outputs whose tokenizers are fitted, and that are certain to have records."""
    return [
        output.name
        for stream in streams.values()
        for output in stream.outputs.values()
        if output.fit_group and output.modality == stream.normalizer.modality
    ]


def _check_fitted(streams: dict[str, ResolvedStream], whole: str) -> None:
    """A part cannot fit: the others would fit otherwise. Raises: ConfigError that names the command."""
    names = _fits(streams)
    if not names:
        return
    settings = CommitLog(open_store(whole, create=True)).replay().settings
    missing = [name for name in names if name not in settings]
    if missing:
        raise ConfigError(
            f"the tokenizer of {missing[0]} was not fitted, and the parts of a build must share it: run `headrace fit`"
            f" with the same pipeline and --out first",
            field="--part",
        )


def _catalogue(store: Any) -> None:
    from headrace.shards.catalogue import update_catalogue
    from headrace.shards.dataset import Dataset

    update_catalogue(Dataset(store))


def _choose(engine: Engine, streams: dict[str, Any], address: str | None) -> str:
    if engine != "auto":
        return engine
    if address:
        return "ray"
    total = 0
    for stream in streams.values():
        connector = stream.make_connector()
        try:
            for split in connector.splits():
                total += split.weight
                if total > _INLINE_BYTES:
                    return "ray"
        finally:
            connector.close()
    return "inline"
