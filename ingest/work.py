"""The work of a build: tasks that are given out, artefacts to be, and how far each source is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from headrace.connectors.contract import Split
from headrace.ingest.task import Task

_COLLECT_SPLITS = 24  #: splits a collect task reads at most, so that several workers share a fit
_COLLECT_BYTES = 32 << 20  #: after which it reads no further one; the fit set does not depend on the tasks


@dataclass
class Work:
    """A task and what is known of it."""

    task: Task
    worker: str | None = None
    finished: bool = False
    counters: dict[str, Any] = field(default_factory=dict)


@dataclass
class Group:
    """One artefact to be: outputs that are fitted together."""

    name: str
    outputs: list[str]
    waiting: set[str] = field(default_factory=set)  #: keys of collect tasks not done yet
    sets: list[str] = field(default_factory=list)
    fingerprint: str | None = None
    settled: bool = False  #: fitted, known from before, or known to have no record


def collected_together(splits: list[Split]) -> Iterator[list[Split]]:
    """The splits that one collect task reads."""
    several: list[Split] = []
    size = 0
    for split in splits:
        several.append(split)
        size += split.weight
        if len(several) >= _COLLECT_SPLITS or size >= _COLLECT_BYTES:
            yield several
            several, size = [], 0
    if several:
        yield several


def rows_of_sources(works: Iterable[Work]) -> dict[str, dict[str, Any]]:
    """Of every source the splits and records so far, for the progress display."""
    sources: dict[str, dict[str, Any]] = {}
    for work in works:
        if work.task.kind not in ("encode", "collect"):
            continue
        row = sources.setdefault(
            work.task.stream,
            {"tasks": 0, "done": 0, "splits": 0, "left": 0, "samples": 0, "tokens": 0, "quarantined": 0},
        )
        if work.task.kind == "encode":
            row["tasks"] += 1
            row["done"] += work.finished
            row["left"] += 0 if work.finished else len(work.task.rows)
            for name in ("splits", "samples", "tokens", "quarantined"):
                row[name] += work.counters.get(name, 0)
        else:
            row.setdefault("fit_tasks", 0)
            row.setdefault("fit_done", 0)
            row["fit_tasks"] += 1
            row["fit_done"] += work.finished
    return sources
