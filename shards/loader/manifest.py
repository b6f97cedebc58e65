"""The log, read for its blocks: what is live at a version as columns, without an object for each block.

A checkpoint holds the block table as Arrow lists, so the blocks of a billion samples are read in tenths of a second.
Only entries after it (fewer than a thousand) are parsed. `state` is the folded state, but without live shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.schemas.errors import BrokenLog
from headrace.shards.checkpoint import checkpoint_name, decode_table
from headrace.shards.entry import Entry, ShardInfo, Span
from headrace.shards.loader.table import BlockTable, Columns, ShardFile, table_of
from headrace.shards.log import CommitLog
from headrace.shards.spans import numbers
from headrace.shards.state import State
from headrace.shards.store import Store

_FILE = ("lane", "path", "sha256", "bytes", "first_seq", "head_bytes", "head_xxh3")


class Manifest(CommitLog):
    """A log that remembers its live shards as columns. For readers: `replay`, `refresh`, `table`."""

    canonical = False

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._clear(None)

    def replay(self, upto: int | str | None = None) -> State:
        """As `CommitLog.replay`; the state given back has no live shards."""
        self._clear(None)
        return super().replay(upto)

    def table(self, streams: Sequence[str], since: Mapping[tuple[str, int], int] | None = None) -> BlockTable:
        """The blocks of `streams` at this version; with `since` only what is numbered from there on, by lane."""
        files: list[ShardFile] = []
        parts: list[Columns] = []
        for number, stream in enumerate(streams):
            old, columns = self._columns(stream, number, len(files))
            files += old
            parts.append(columns)
            for name, file, columns in self._added.values():
                if name == stream:
                    parts.append(columns.placed(len(files), number))
                    files.append(replace(file, stream=number))
        tokens = [self.state.settings[name].tokens for name in streams]
        hidden = {key: spans for key, spans in self.state.deleted.items() if key[0] in streams}
        return table_of(list(streams), tokens, files, parts, hidden, since or {}, self.state.v)

    def _clear(self, checkpoint: pa.Table | None) -> None:
        self._old = checkpoint
        self._gone: set[str] = set()
        self._added: dict[str, tuple[str, ShardFile, Columns]] = {}  # by path: stream, file, blocks

    def _from_checkpoint(self, v: int) -> State:
        state, table = decode_table(self.store.get(checkpoint_name(v)), v)
        self._clear(table)
        return state

    def _step(self) -> Entry | None:
        entry = super()._step()
        if entry is not None:
            self.state.shards.clear()
            self._add(entry.add)
            for change in entry.replace:
                for path in change.remove:
                    if self._added.pop(path, None) is None:
                        self._gone.add(path)
                self._add(change.add)
        return entry

    def _add(self, shards: Sequence[ShardInfo]) -> None:
        """As columns at once: an object for each block would outweigh everything else."""
        self._added.update((s.path, (s.stream, ShardFile.of(s, 0), Columns.of([s], 0, 0))) for s in shards)

    def _columns(self, stream: str, number: int, first: int) -> tuple[list[ShardFile], Columns]:
        """The shards of a stream in the checkpoint that are still live; `first` is the index of the first."""
        if self._old is None:
            return [], Columns.of([], first, number)
        table = self._old
        if table.column("stream").unique().to_pylist() != [stream]:
            table = table.filter(pc.equal(table.column("stream"), stream))
        if self._gone:
            table = table.filter(pc.invert(pc.is_in(table.column("path"), pa.array(sorted(self._gone), pa.string()))))
        files = []
        for row in table.select([*_FILE, "rows", "missing"]).to_pylist():
            missing = tuple(Span(*span) for span in json.loads(row["missing"]))
            span = row["rows"] + sum(m.stop - m.start for m in missing)
            told = {name: row[name] for name in _FILE}
            files.append(ShardFile(stream=number, missing=missing, stop_seq=row["first_seq"] + span, **told))
        return files, _from_lists(table, files, number, first)


def _from_lists(table: pa.Table, files: list[ShardFile], stream: int, first: int) -> Columns:
    counts = np.asarray(pc.list_value_length(table.column("block_rows")).to_pylist(), np.int64)
    owner = np.repeat(np.arange(len(files)), counts)
    rows = _flat(table, "block_rows")
    before = np.cumsum(rows) - rows  # rows of the table, then of the shard
    begun = np.cumsum(counts) - counts
    first_row = before - np.repeat(before[begun[counts > 0]], counts[counts > 0]) if len(rows) else rows
    first_seq = np.asarray([f.first_seq for f in files], np.int64)[owner] + first_row
    for i, file in enumerate(files):
        if file.missing:
            mine = owner == i
            first_seq[mine] = numbers(file.first_seq, file.stop_seq, file.missing)[first_row[mine]]
    return Columns(
        shard=owner + first,
        offset=_flat(table, "block_offset"),
        length=_flat(table, "block_length"),
        rows=rows,
        tokens=_flat(table, "block_tokens"),
        first_row=first_row,
        stream=np.full(len(rows), stream, np.int64),
        lane=np.asarray([f.lane for f in files], np.int64)[owner],
        first_seq=first_seq,
        xxh3=_hashes(table.column("block_xxh3")),
    )


def _flat(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    chunks = [_values(chunk.flatten(), np.int64) for chunk in table.column(name).chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks) if chunks else np.empty(0, np.int64)


def _values(array: pa.Array, kind: Any) -> npt.NDArray[Any]:
    held = array.buffers()[1]
    if held is None:
        return np.empty(0, kind)
    return np.frombuffer(held, kind)[array.offset : array.offset + len(array)]


def _hashes(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """16 hex digits each → numbers. Raises: BrokenLog."""
    parts = []
    for chunk in column.chunks:
        flat = chunk.flatten()
        if len(flat):
            offsets = np.frombuffer(flat.buffers()[1], np.int32)[flat.offset : flat.offset + len(flat) + 1]
            if (np.diff(offsets) != 16).any():
                raise BrokenLog("a checkpoint holds a block hash that is not of 16 digits")
            digits = flat.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0])).to_pybytes()
            parts.append(np.frombuffer(bytes.fromhex(digits.decode("ascii")), ">u8").astype(np.uint64))
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, np.uint64)
