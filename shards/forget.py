"""Take samples out of a dataset: hide them from readers, or erase them from every file.

`forget` commits a `delete` of addresses with the record ids, which stay listed, so that a replay of the source does not
bring the records back. With `erase` the shards are written again without them (the sequence numbers of the others do
not change), quarantined bytes of the same source are removed, the catalogue follows, and the old files are deleted.

The caller brings a claimed log: a service forgets with its own, a command claims first. Each step is a commit, so after
a crash the same call finishes the work, and `gc` deletes what an unfinished one left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.schemas.errors import ConfigError, LogError
from headrace.shards.catalogue import SCHEMA, catalogue_files, read_catalogue, update_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Delete, Entry, Range, Redact, Replace, ShardInfo
from headrace.shards.gc import drop_erased_copies
from headrace.shards.log import CommitLog
from headrace.shards.quarantine import SCHEMA as QUARANTINE_SCHEMA
from headrace.shards.quarantine import read_quarantine, redacted
from headrace.shards.reader import ShardReader
from headrace.shards.spans import clipped, inside, numbers, of_numbers, without
from headrace.shards.where import parse_where
from headrace.shards.writer import ShardWriter

#: Samples that one entry deletes; an entry is read whole, so it stays small.
_SAMPLES_PER_ENTRY = 100_000
_SHARDS_PER_ENTRY = 16
#: What a sample and a quarantined row of one item have in common.
_ITEM = ("uri", "split", "position")


@dataclass(frozen=True)
class Selection:
    """Which samples: all conditions that are given must hold. `where` is a condition as in `where.py`."""

    ids: tuple[str, ...] = ()  #: record ids, hex
    source: str | None = None
    license: str | None = None
    where: str | None = None

    def expression(self, schema: pa.Schema) -> pc.Expression | None:
        """The condition on a table, None if the table lacks a column that it needs. Raises: ConfigError."""
        parts: list[pc.Expression] = []
        if not (self.ids or self.source or self.license or self.where):
            raise ConfigError("say what to forget: ids, a source, a license or a condition", field="forget")
        if self.ids:
            if "record_id" not in schema.names:
                return None
            parts.append(pc.field("record_id").isin(pa.array([_id(i) for i in self.ids], pa.binary(16))))
        for name, value in (("source", self.source), ("license", self.license)):
            if value is not None:
                parts.append(pc.field(name) == value)
        if self.where is not None:
            known = parse_where(self.where, SCHEMA)  # refuses what no table has
            if schema is not SCHEMA:
                try:
                    known = parse_where(self.where, schema)
                except ConfigError:
                    return None
            parts.append(known)
        out = parts[0]
        for part in parts[1:]:
            out = pc.and_kleene(out, part)
        return out


@dataclass
class Forgotten:
    """What was done."""

    samples: int = 0
    tokens: int = 0
    shards: int = 0  #: written again
    quarantined: int = 0  #: rows whose bytes were removed
    notes: tuple[str, ...] = ()


def find(dataset: Dataset, selection: Selection) -> pa.Table:
    """The catalogue rows of the chosen samples. The catalogue must be up to date. Raises: ConfigError, StorageError."""
    condition = selection.expression(SCHEMA)
    tables = [read_catalogue(dataset.store, f).filter(condition) for f in catalogue_files(dataset.store)]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def forget(log: CommitLog, selection: Selection, *, erase: bool = False) -> Forgotten:
    """Forget the chosen samples. `log` is claimed. Raises: ConfigError, Fenced, StorageError, ShardError."""
    if log.epoch is None:
        raise LogError("claim the dataset before forgetting")
    selection.expression(SCHEMA)
    update_catalogue(Dataset(log.store, log.state))
    chosen = find(Dataset(log.store, log.state), selection)
    done = Forgotten(samples=chosen.num_rows, tokens=int(pc.sum(chosen.column("length")).as_py() or 0))
    for deletes in _deletes(chosen):
        log.append(Entry(kind="forget", delete=deletes))
    if erase:
        _erase(log, selection, done)
    update_catalogue(Dataset(log.store, log.state))
    return done


def _id(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 16:
        raise ConfigError(f"{text!r} is not a record id: 32 hex digits", field="forget.id", value=text)
    return value


def _deletes(chosen: pa.Table) -> Iterator[list[Delete]]:
    for start in range(0, chosen.num_rows, _SAMPLES_PER_ENTRY):
        part = chosen.slice(start, _SAMPLES_PER_ENTRY).select(["stream", "lane", "seq", "record_id", "length"])
        lanes: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in part.to_pylist():
            lanes.setdefault((row["stream"], row["lane"]), []).append(row)
        yield [
            Delete(
                stream=stream,
                lane=lane,
                seqs=of_numbers(row["seq"] for row in rows),
                ids=sorted(row["record_id"].hex() for row in rows),
                tokens=sum(row["length"] or 0 for row in rows),
            )
            for (stream, lane), rows in sorted(lanes.items())
        ]


def _erase(log: CommitLog, selection: Selection, done: Forgotten) -> None:
    """Write again every shard that still holds deleted rows, and the quarantine files that the selection concerns.

    Then the copies go that a compaction before had left.
    """
    _erase_files(log, selection, done)
    drop_erased_copies(log.store, log.state)


def _erase_files(log: CommitLog, selection: Selection, done: Forgotten) -> None:
    due = [s for s in log.state.live_shards() if _doomed(log, s)]
    done.shards = len(due)
    for start in range(0, len(due), _SHARDS_PER_ENTRY):
        some = due[start : start + _SHARDS_PER_ENTRY]
        _redact_replayed(log, some, done)  # first: afterwards nobody knows any more which rows these were
        changes = [Replace(remove=[s.path], add=_rewritten(log, s), erase=True) for s in some]
        log.append(Entry(kind="forget", replace=changes))
        _delete(log, (s.path for s in some))
    condition = selection.expression(QUARANTINE_SCHEMA)
    if condition is None:
        done.notes = ("the quarantine was not searched: it has no record ids, nor all the columns of the condition",)
        return
    for info in list(log.state.quarantine.values()):
        rows, file = redacted(log.store, info, log.state.epoch, condition)
        if file is not None:
            log.append(Entry(kind="forget", redact=[Redact(remove=info.path, add=file)]))
            _delete(log, [info.path])
            done.quarantined += rows


def _redact_replayed(log: CommitLog, shards: list[ShardInfo], done: Forgotten) -> None:
    """Take the bytes of quarantined items from which a replay had made samples that are erased now."""
    if not log.state.replayed:
        return
    items: set[tuple[str, str, str]] = set()
    for shard in shards:
        deleted = log.state.deleted.get((shard.stream, shard.lane), [])
        row, seqs = 0, numbers(shard.first_seq, shard.stop_seq, shard.missing)
        for batch in ShardReader(log.store, shard).batches():
            gone = inside(seqs[row : row + batch.num_rows], deleted)
            row += batch.num_rows
            if gone.any():
                part = batch.select(list(_ITEM)).filter(pa.array(gone.tolist(), type=pa.bool_()))
                items.update(tuple(one[name] for name in _ITEM) for one in part.to_pylist())
    for info in [log.state.quarantine[path] for path in sorted(log.state.replayed)]:
        kept = [row for batch in read_quarantine(log.store, info) for row in batch.select(list(_ITEM)).to_pylist()]
        concerned = {key for row in kept if (key := tuple(row[name] for name in _ITEM)) in items}
        if not concerned:
            continue
        condition = pc.scalar(False)
        for uri, split, position in sorted(concerned):
            same_split = (pc.field("split") == split) & (pc.field("position") == position)
            condition = condition | (same_split & (pc.field("uri") == uri))
        rows, file = redacted(log.store, info, log.state.epoch, condition)
        if file is not None:
            log.append(Entry(kind="forget", redact=[Redact(remove=info.path, add=file)]))
            _delete(log, [info.path])
            done.quarantined += rows


def _doomed(log: CommitLog, shard: ShardInfo) -> bool:
    deleted = clipped(log.state.deleted.get((shard.stream, shard.lane), []), shard.first_seq, shard.stop_seq)
    return bool(without(deleted, shard.missing))


def _rewritten(log: CommitLog, shard: ShardInfo) -> list[ShardInfo]:
    """The shard without its deleted rows; nothing if none is left."""
    deleted = clipped(log.state.deleted.get((shard.stream, shard.lane), []), shard.first_seq, shard.stop_seq)
    seqs = numbers(shard.first_seq, shard.stop_seq, shard.missing)
    keep = ~inside(seqs, deleted)
    if not keep.any():
        return []
    reader = ShardReader(log.store, shard)
    with ShardWriter(log.store, shard.stream, shard.lane, log.state.epoch, reader.schema) as writer:
        row = 0
        for batch in reader.batches():
            own = keep[row : row + batch.num_rows]
            row += batch.num_rows
            writer.append(batch if own.all() else batch.filter(pa.array(own.tolist(), type=pa.bool_())))
        info = writer.close(_shortened(shard.ranges, keep))
    return [replace(info, first_seq=shard.first_seq, missing=deleted)]  # what was erased before was deleted too


def _shortened(ranges: list[Range], keep: Any) -> list[Range]:
    out, row = [], 0
    for r in ranges:
        out.append(replace(r, rows=int(np.count_nonzero(keep[row : row + r.rows]))))
        row += r.rows
    return out


def _delete(log: CommitLog, paths: Iterable[str]) -> None:
    for path in paths:
        log.store.delete(path)
