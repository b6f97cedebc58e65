"""Quarantined rows, gathered into the items that a replay reads again, and the selection of a user.

Rows of one item belong together: the item is decoded once, and each row asks for its own part of what comes. Rows that
were replayed before are left out, save as the place where the item's bytes lie.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.schemas.errors import ConfigError
from headrace.shards.catalogue import catalogue_files, read_catalogue, rows_of
from headrace.shards.dataset import Dataset
from headrace.shards.quarantine import read_quarantine
from headrace.shards.spans import inside

_KNOWN = ["stream", "uri", "split", "position", "locator"]
_REST = '{"after":'


@dataclass(frozen=True)
class Selection:
    """Which rows are tried; all conditions that are given must hold."""

    stream: str | None = None  #: of the pipeline, or an output of one
    reason: str | None = None  #: a code, or a code with its detail
    rows: tuple[tuple[str, int], ...] = ()  #: (file, row number in it)

    @classmethod
    def parse(cls, stream: str | None, reason: str | None, rows: Iterable[str]) -> Selection:
        """Of a command's words; a row is written FILE:ROW. Raises: ConfigError."""
        chosen = []
        for text in rows:
            file, colon, number = text.rpartition(":")
            if not colon or not number.isdigit():
                raise ConfigError(
                    "FILE:ROW is expected, as `headrace quarantine ls` shows it", field="--row", value=text
                )
            chosen.append((file, int(number)))
        return cls(stream, reason, tuple(chosen))

    def takes(self, file: str, number: int, streams: set[str], reason: str) -> bool:
        """Whether a row is meant; `streams` are the names that it goes by."""
        if self.rows and (file, number) not in self.rows:
            return False
        if self.stream is not None and self.stream not in streams:
            return False
        return self.reason is None or self.reason in (reason, reason.partition(":")[0])


@dataclass(frozen=True)
class Row:
    """One quarantined row. `selected` rows are tried, the others only keep their part of the item."""

    file: str
    number: int
    stream: str  #: whose file it is in: an output's name
    reason: str
    stage: str
    locator: str | None
    whole: bool  #: nothing of the item came: all of it is this row's
    selected: bool = True

    @property
    def id(self) -> tuple[str, int]:
        """Where it stands."""
        return self.file, self.number


@dataclass(frozen=True)
class Group:
    """The rows of one item; `rest`: one row that stands for all items of a split behind its position."""

    split: str
    pin: str | None
    position: str  #: canonical JSON
    uri: str
    rows: tuple[Row, ...]
    rest: bool = False
    kept: tuple[str, int] | None = None  #: the row that holds all bytes of the item
    sha256: str | None = None  #: of these bytes
    have: tuple[tuple[str, str], ...] = ()  #: (stream, locator) of the item's samples in the dataset
    strict: bool = False  #: samples were forgotten: only what a row names exactly may come

    @property
    def key(self) -> dict[str, Any]:
        """Names the item within a replay, in place of the position before it, which nobody knows."""
        return {"item": [self.uri, self.position]}

    def selected(self) -> list[Row]:
        """The rows that are tried."""
        return [row for row in self.rows if row.selected]

    def to_json(self) -> dict[str, Any]:
        """For a task."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Group:
        """The group of a task."""
        kept = value["kept"]
        return cls(
            **{
                **value,
                "rows": tuple(Row(**row) for row in value["rows"]),
                "kept": None if kept is None else (kept[0], kept[1]),
                "have": tuple((stream, locator) for stream, locator in value["have"]),
            }
        )


@dataclass
class Found:
    """What a dataset's quarantine holds of a selection."""

    groups: dict[str, list[Group]] = field(default_factory=dict)  #: by pipeline stream, in the order of a split's rows
    replayed: int = 0  #: rows of the selection that were replayed before
    elsewhere: dict[str, int] = field(default_factory=dict)  #: rows by stream that the pipeline does not have
    missing: list[tuple[str, int]] = field(default_factory=list)  #: rows that were named and do not exist


@dataclass
class _Item:
    rows: list[Row] = field(default_factory=list)
    kept: tuple[str, int] | None = None
    sha256: str | None = None
    rest: bool = False


def find_rows(
    dataset: Dataset, streams: Mapping[str, str], selection: Selection, pin: Callable[[str, str], str | None]
) -> Found:
    """The items that a selection concerns.

    streams: output name → pipeline stream; pin(stream, split id): what its source is to be compared with. Raises:
    ShardError, StorageError.
    """
    found = Found()
    items: dict[str, dict[str, dict[tuple[str, str, bool], _Item]]] = {}
    unseen = set(selection.rows)
    for info in dataset.state.quarantine.values():
        owner = streams.get(info.stream)
        names = {info.stream, owner or info.stream}
        marks = dataset.state.replayed.get(info.path, [])
        number = 0
        for batch in read_quarantine(dataset.store, info):
            done = inside(np.arange(number, number + batch.num_rows), marks)
            for replayed, told in zip(done, _told(batch)):
                chosen = selection.takes(info.path, number, names, told["reason"])
                unseen.discard((info.path, number))
                if chosen and replayed:
                    found.replayed += 1
                elif chosen and owner is None:
                    found.elsewhere[info.stream] = found.elsewhere.get(info.stream, 0) + 1
                if owner is not None:
                    splits = items.setdefault(owner, {}).setdefault(told["split"], {})
                    _put(splits, info.path, number, info.stream, told, chosen, bool(replayed))
                number += 1
    found.missing = sorted(unseen)
    for owner, by_split in items.items():
        groups = [
            Group(split, pin(owner, split), position, uri, tuple(item.rows), rest, item.kept, item.sha256)
            for split, own in by_split.items()
            for (position, uri, rest), item in own.items()
            if any(row.selected for row in item.rows)
        ]
        if groups:
            found.groups[owner] = groups
    return found


def _told(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows without their bytes, and `complete`: whether all bytes are here."""
    complete = pc.fill_null(pc.equal(pc.binary_length(batch.column("raw")), batch.column("raw_bytes")), False)
    names = ["reason", "stage", "whole", "split", "position", "uri", "locator", "raw_sha256"]
    return [
        {**row, "complete": whole} for row, whole in zip(batch.select(names).to_pylist(), complete.to_pylist())
    ]


def _put(
    items: dict[tuple[str, str, bool], _Item],
    file: str,
    number: int,
    stream: str,
    told: dict[str, Any],
    chosen: bool,
    replayed: bool,
) -> None:
    rest = told["stage"] == "read" and (told["locator"] or "").startswith(_REST)
    item = items.setdefault((told["position"], told["uri"], rest), _Item())
    if told["whole"] and told["stage"] == "normalize":  # what is kept of others is a part of the item
        item.sha256 = told["raw_sha256"].hex() if told["raw_sha256"] else None
        item.kept = (file, number) if told["complete"] else None
    if not replayed:
        whole = bool(told["whole"]) or told["stage"] == "read"
        item.rows.append(Row(file, number, stream, told["reason"], told["stage"], told["locator"], whole, chosen))


def with_known(dataset: Dataset, groups: list[Group], outputs: set[str]) -> list[Group]:
    """The groups with the samples that the dataset has of their objects, where some of them may be there.

    A sample of the same item is looked for by position, except where the item could not be read: read anew, its parts
    may have other positions, and the whole object is asked for. Raises: StorageError, ShardError.
    """
    partly = [g for g in groups if not all(r.whole and r.stage == "normalize" for r in g.rows)]
    if not partly:
        return groups
    known: dict[str, list[dict[str, Any]]] = {}
    for row in known_samples(dataset, {g.uri for g in partly}):
        if row["stream"] in outputs:
            known.setdefault(row["uri"], []).append(row)
    strict = any(spans for (stream, _), spans in dataset.state.deleted.items() if stream in outputs)
    out = []
    for group in groups:
        unread = any(row.stage == "read" for row in group.rows)
        have = sorted(
            {
                (row["stream"], row["locator"] or "")
                for row in known.get(group.uri, [])
                if unread or (row["split"], row["position"]) == (group.split, group.position)
            }
        )
        out.append(replace(group, have=tuple(have), strict=strict))
    return out


def known_samples(dataset: Dataset, uris: set[str]) -> Iterator[dict[str, Any]]:
    """Stream, uri, split, position and locator of all samples of some objects; deleted ones are left out.

    The catalogue tells, and of later entries the shards. Raises: StorageError, ShardError.
    """
    wanted = pc.field("uri").isin(pa.array(sorted(uris), pa.string()))
    upto = 0
    for file in catalogue_files(dataset.store):
        if file.start != upto + 1 or file.stop > dataset.version:
            break
        try:
            table = read_catalogue(dataset.store, file, _KNOWN)
        except ValueError:
            break  # broken: the shards tell
        upto = file.stop
        yield from table.filter(wanted).to_pylist()
    for batch in rows_of(dataset, upto + 1, dataset.version):
        yield from pa.Table.from_batches([batch]).select(_KNOWN).filter(wanted).to_pylist()


def from_record(row: Row) -> int | None:
    """The number of the first output that a row stands for, where it stands for all from there on."""
    if row.locator is None:
        return 0
    value = fields(row.locator)
    number = value.get("from_record")
    return number if isinstance(number, int) and len(value) == 1 else None


def fields(locator: str | None) -> dict[str, Any]:
    """A locator's fields; empty where it is no JSON object."""
    try:
        value = json.loads(locator or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
