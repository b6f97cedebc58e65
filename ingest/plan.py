"""The plan: which splits a source has, and which lane reads which, in what order.

Lanes depend on the listing and the settings alone, never on workers or cores. A plan segment is immutable; a later
listing adds a segment with what is new, so lanes only ever grow at their end.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import secrets
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.connectors.contract import Split
from headrace.ingest.place import Place, PlanRow
from headrace.schemas.canonical import canonical_json, sha256_hex
from headrace.schemas.errors import BrokenLog, ConfigError
from headrace.schemas.pipeline import Shards
from headrace.shards.entry import PlanSegment, split_digest
from headrace.shards.store import Store

_FIRST_LANES = 16
_FIRST_LANE_BYTES = 4 << 20
_MOST_LANES = 4096
_SOURCE_KEY = b"headrace.source"

_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("pin", pa.string()),
        pa.field("weight", pa.int64(), nullable=False),
        pa.field("lane", pa.int32(), nullable=False),
    ]
)


def lane_count(splits: list[Split], settings: Shards) -> int:
    """How many lanes a segment has: one per 4 MiB up to 16, beyond that one per `lane_mib`; never more than splits."""
    total = sum(s.weight for s in splits)
    wanted = min(_FIRST_LANES, 1 + total // _FIRST_LANE_BYTES) if total else 1
    wanted = max(wanted, total // (settings.lane_mib << 20))
    return max(1, min(wanted, len(splits), _MOST_LANES))


def assign(splits: list[Split], lanes: int) -> list[int]:
    """A lane for each split: neighbours in the listing stay together, and lanes are about equally heavy."""
    total = sum(max(1, s.weight) for s in splits)
    out, before = [], 0
    for split in splits:
        weight = max(1, split.weight)
        middle = before + weight / 2
        out.append(min(lanes - 1, int(middle * lanes / total)))
        before += weight
    return out


def list_splits(name: str, splits: Iterable[Split]) -> list[Split]:
    """The listing sorted by id. Raises: ConfigError if two splits have one id."""
    listed = sorted(splits, key=lambda s: s.id)
    for first, second in itertools.pairwise(listed):
        if first.id == second.id:
            raise ConfigError(f"the connector lists the split {first.id!r} twice", field=f"streams.{name}.source")
    return listed


def sample_splits(splits: list[Split], max_bytes: int | None) -> list[Split]:
    """The splits with the lowest sha256 of their id, of about `max_bytes` together; all of them for None."""
    if max_bytes is None:
        return splits
    chosen: list[Split] = []
    total = 0
    for split in sorted(splits, key=lambda s: hashlib.sha256(s.id.encode()).digest()):
        if chosen and total + split.weight > max_bytes:
            break
        chosen.append(split)
        total += split.weight
    return sorted(chosen, key=lambda s: s.id)


@dataclass
class SourcePlan:
    """All segments of one source."""

    rows: list[tuple[int, Split, int]]  #: (segment, split, lane) in order
    segments: int = 0
    _by_lane: dict[int, list[PlanRow]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index(self.rows)

    def extend(self, later: SourcePlan) -> None:
        """Add segments that follow."""
        self.rows += later.rows
        self.segments += later.segments
        self._index(later.rows)

    def repin(self, digest: str, pin: str | None) -> None:
        """A split changed before anything of it was read: it is planned with its new pin."""
        self.rows = [
            (segment, Split(split.id, pin, split.weight) if split_digest(split.id) == digest else split, lane)
            for segment, split, lane in self.rows
        ]
        self._by_lane = {}
        self._index(self.rows)

    def _index(self, rows: list[tuple[int, Split, int]]) -> None:
        for segment, split, lane in rows:
            known = self._by_lane.setdefault(lane, [])
            number = known[-1].row + 1 if known and known[-1].segment == segment else 0
            known.append(PlanRow(segment, number, split))

    def lanes(self) -> list[int]:
        """The lanes that hold anything."""
        return sorted(self._by_lane)

    def of_lane(self, lane: int) -> list[PlanRow]:
        """The lane's rows in order, numbered within each segment."""
        return self._by_lane.get(lane, [])

    def left(self, lane: int, place: Place) -> list[PlanRow]:
        """What the lane has not finished yet."""
        rows = self.of_lane(lane)
        return rows[bisect_left(rows, (place.segment, place.row), key=lambda row: (row.segment, row.row)) :]

    def end(self, lane: int) -> Place:
        """The place of the lane when everything is done."""
        rows = self.of_lane(lane)
        return Place(rows[-1].segment, rows[-1].row + 1, None, 0) if rows else Place()


def read_plan(store: Store, segments: list[PlanSegment]) -> SourcePlan:
    """The plan as the log has it. Raises: BrokenLog if a segment's bytes differ from what the log says."""
    rows: list[tuple[int, Split, int]] = []
    for segment in segments:
        data = store.get(segment.path)
        if sha256_hex(data) != segment.sha256:
            raise BrokenLog(f"{segment.path}: its bytes differ from what the log says")
        table = pq.read_table(io.BytesIO(data), schema=_SCHEMA, use_threads=False, pre_buffer=False)
        for row in table.to_pylist():
            rows.append((segment.number, Split(row["split"], row["pin"], row["weight"]), row["lane"]))
    return SourcePlan(rows, len(segments))


def read_sources(store: Store, segments: list[PlanSegment]) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Split id → (how to open its source again, pin); empty where the source may not be told."""
    out: dict[str, tuple[dict[str, Any], str | None]] = {}
    for segment in segments:
        table = pq.read_table(io.BytesIO(store.get(segment.path)), use_threads=False, pre_buffer=False)
        told = (table.schema.metadata or {}).get(_SOURCE_KEY)
        if told:
            source = json.loads(told)
            out.update({row["split"]: (source, row["pin"]) for row in table.select(["split", "pin"]).to_pylist()})
    return out


def new_segment(
    store: Store,
    source: str,
    known: SourcePlan,
    listing: list[Split],
    settings: Shards,
    epoch: int,
    told: dict[str, Any] | None = None,
) -> tuple[PlanSegment | None, list[tuple[Split, Split]]]:
    """Store a segment with the splits that the plan lacks; None if there are none.

    `told` says how the source is opened again to look at originals; it may hold no secrets.
    Also gives back (planned, now) of splits whose pin differs from the plan's: the caller knows whether they were read.
    """
    have = {split.id: split for _, split, _ in known.rows}
    fresh = [split for split in listing if split.id not in have]
    changed = [(have[s.id], s) for s in listing if s.id in have and have[s.id].pin != s.pin]
    if not fresh:
        return None, changed
    lanes = assign(fresh, lane_count(fresh, settings))
    table = pa.table(
        [
            pa.array([s.id for s in fresh], pa.string()),
            pa.array([s.pin for s in fresh], pa.string()),
            pa.array([s.weight for s in fresh], pa.int64()),
            pa.array(lanes, pa.int32()),
        ],
        schema=_SCHEMA.with_metadata({_SOURCE_KEY: canonical_json(told)}) if told else _SCHEMA,
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue()
    path = f"plan/{source}/e{epoch}-{known.segments:06d}-{secrets.token_hex(4)}.parquet"
    store.put_new(path, data)
    return PlanSegment(source, known.segments, path, sha256_hex(data), len(data), len(fresh)), changed
