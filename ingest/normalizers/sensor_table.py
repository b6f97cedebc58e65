"""Tables as records: turns the chunks of a table, in file order, into drafts of windows, of text rows, and of bad rows.

What a chunk completes is given in the order of the row that completed it, then of the series, then of the channel: so
the order depends on the table alone, not on how it was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.ingest.normalizers import sensor_clock
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.sensor_columns import Leaf, floats
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_instants import strings
from headrace.ingest.normalizers.sensor_plain import plain
from headrace.ingest.normalizers.sensor_plan import Plan
from headrace.ingest.normalizers.sensor_rows import BadRow, BadRuns, TextRows, json_lines
from headrace.ingest.normalizers.sensor_series import Channel, Draft, Series, Values
from headrace.ingest.normalizers.sensor_time import Bool, Int64
from headrace.ingest.normalizers.sensor_units import to_ucum
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

MAX_PENDING = 64 << 20  #: bytes of open windows; beyond it (very many devices) all of them end
_SHOWN_ROWS = 1000  #: rows of a run without times whose bytes are kept
MAX_SLICE = 8 << 20  #: bytes of text taken from a chunk at once


@dataclass
class Chunk:
    """Some rows of a table.

    rows: their numbers in the object. raw(i): where row i of the batch stands, and its bytes.
    damaged: top-level column → how many rows of it could be read; the others hold nulls. lossy: column → rows whose
    number lost bits before it came here.
    """

    batch: pa.RecordBatch
    rows: Int64
    bad: list[BadRow] = field(default_factory=list)
    raw: Callable[[int], tuple[Mapping[str, Any], bytes | None]] | None = None
    damaged: Mapping[str, int] = field(default_factory=dict)
    lossy: Mapping[str, Bool] = field(default_factory=dict)


class Source(Protocol):
    """What reads a table: its chunks in file order, and what it knows besides; complete when the first chunk is there.

    units: column → its unit as it is written. position: the columns latitude and longitude. max_text: characters of
    text that may come out of it.
    """

    flags: tuple[str, ...]
    units: dict[str, str]
    position: tuple[str, str] | None
    max_text: int

    def chunks(self) -> Iterator[Chunk]:
        """All rows. Raises: RecordError where nothing of the rest can be read."""


class Table:
    """One table's open windows. `flags`: findings that hold for the whole table."""

    def __init__(self, first: pa.RecordBatch, config: SensorConfig, source: Source) -> None:
        self.config = config
        self.plan = Plan(first, config, source.units, source.position)
        self._missing = config.missing_numbers
        self._max_text = self._text_left = source.max_text
        clock = self.plan.clock
        self._series: dict[tuple[str | None, str | None], Series] = {}
        self._flags = set(source.flags)
        self._text = TextRows(
            1 if config.text_column else config.text_rows,
            time_source=clock.source,
            absolute=clock.absolute,
            order=1 << 40,
        )
        self._bad = BadRuns()
        self._said_unsupported = False
        self._count = 0

    # chunks -----------------------------------------------------------------------------------------------------------

    def add(self, chunk: Chunk) -> Iterator[Draft | Bad]:
        """Take a chunk; gives what it completed."""
        if self.plan.unsupported and not self._said_unsupported:
            self._said_unsupported = True
            for name in self.plan.unsupported:
                locator = canonical_json({"column": name}).decode()
                yield Bad(
                    "unsupported:variant", f"column {name!r} holds Parquet variants, which are not decoded", locator
                )
        reading = self.plan.clock.read(chunk.batch, chunk.rows)
        self._flags |= reading.flags
        events: list[tuple[int, tuple[int, ...], Draft | Bad]] = []
        bad = [(row, 1) for row in chunk.bad]
        ok = reading.ok
        if not self.plan.numbers:
            ok = np.ones(len(chunk.rows), np.bool_)
        elif not ok.all():
            bad += self._untimed(chunk, ok, reading.present)
        for row, count in sorted(bad, key=lambda b: b[0].row):
            last = self._bad.last_row
            ended = self._bad.add(row, count)
            if ended is not None:
                events.append((last, (-1,), ended))
        rows = np.flatnonzero(ok)
        if self.plan.numbers and len(rows):
            events += [(d.last_row, d.order, d) for d in self._samples(chunk, rows, reading)]
        if self.plan.shown and len(rows):
            t = reading.t if self.plan.clock.how != "row" else None
            events += [(d.last_row, d.order, d) for d in self._lines(chunk, rows, t, reading.ok)]
        for _, _, event in sorted(events, key=lambda e: e[:2]):
            self._count += 1
            yield event
        if self._waiting() > MAX_PENDING:
            yield from self._close_windows(())

    def finish(self, flags: Sequence[str] = ()) -> Iterator[Draft | Bad]:
        """What is left, with these flags."""
        ended = self._bad.finish()
        if ended is not None:
            self._count += 1
            yield ended
        if self._count == 0:  # a table of nulls is told by its windows without a value, not by silence
            for series in self._series.values():
                series.keep_empty()
        yield from self._close_windows(flags)
        self._text.flags = self._flags
        text = self._text.finish(flags)
        if text is not None:
            yield text

    def _close_windows(self, flags: Sequence[str]) -> Iterator[Draft]:
        for series in self._series.values():
            series.flags = self._flags
            yield from series.finish(flags)

    def _waiting(self) -> int:
        return sum(s.pending for s in self._series.values()) * (16 + 9 * len(self.plan.channels))

    def _untimed(self, chunk: Chunk, ok: Bool, present: Bool) -> Iterator[tuple[BadRow, int]]:
        """Runs of rows without a time: the first of each, and how many they are."""
        places = np.flatnonzero(~ok)
        apart = (np.diff(chunk.rows[places]) != 1) | (np.diff(present[places].astype(np.int8)) != 0)
        borders = [0, *(np.flatnonzero(apart) + 1).tolist(), len(places)]
        names = "+".join(self.plan.clock.columns)
        for start, end in pairwise(borders):
            index, count = int(places[start]), end - start
            row = int(chunk.rows[index])
            locator, data = chunk.raw(index) if chunk.raw is not None else ({"row": row}, None)
            if self._bad.full:
                data = None
            elif data is None:
                data = self._as_json(chunk.batch.slice(index, min(count, _SHOWN_ROWS)))
            else:
                data = b"\n".join(self._bytes(chunk, int(i)) for i in places[start : min(end, start + _SHOWN_ROWS)])
            if not present[index]:
                yield BadRow(row, "no_time", f"row {row} has no {names}", locator, data), count
                continue
            shown = " ".join(str(chunk.batch.column(n)[index]) for n in self.plan.clock.columns)[:100]
            message = f"{names} is {shown!r}, no time between 1678 and 2261 as other rows have"
            yield BadRow(row, "wrong_type", message, locator, data), count

    def _bytes(self, chunk: Chunk, index: int) -> bytes:
        return (chunk.raw(index)[1] if chunk.raw is not None else None) or b""

    def _as_json(self, rows: pa.RecordBatch) -> bytes:
        columns = [plain(leaf.read(rows)) for leaf in self.plan.leaves]
        return "\n".join(json_lines([leaf.name for leaf in self.plan.leaves], columns)).encode()

    def _samples(self, chunk: Chunk, rows: Int64, reading: sensor_clock.Reading) -> Iterator[Draft]:
        values = [floats(leaf.read(chunk.batch), self._missing) for leaf in self.plan.numbers]
        for leaf, column in zip(self.plan.numbers, values):
            column.lossy = chunk.lossy.get(leaf.top, column.lossy)
            if leaf.top in chunk.damaged:
                column.damaged = np.arange(len(chunk.rows)) >= chunk.damaged[leaf.top]
        wide = [i for i in range(len(values)) if i not in self.plan.long]
        for places, named in ((wide, False), (self.plan.long, True)):
            if places:
                yield from self._windows(chunk, rows, reading, [values[i] for i in places], places, named)

    def _windows(
        self,
        chunk: Chunk,
        rows: Int64,
        reading: sensor_clock.Reading,
        values: list[Values],
        places: Sequence[int],
        named: bool,
    ) -> Iterator[Draft]:
        """Hands the columns at `places` to the series of each device, or of each device and name."""
        whole = len(rows) == len(chunk.rows)
        for key, unit, chosen in self._groups(chunk, rows, named):
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = self._new_series(key, unit, places)
            series.flags = self._flags
            picked = None if whole and chosen is None else rows if chosen is None else chosen
            parts = values if picked is None else [_take(v, picked) for v in values]
            marks = {n: m if picked is None else m[picked] for n, m in reading.marks.items()}
            t, numbers = (reading.t, chunk.rows) if picked is None else (reading.t[picked], chunk.rows[picked])
            yield from series.add(numbers, t, parts, marks)

    def _groups(
        self, chunk: Chunk, rows: Int64, named: bool
    ) -> Iterator[tuple[tuple[str | None, str | None], str | None, Int64 | None]]:
        """(device, channel), unit and rows of each series of the chunk; rows None: all of them."""
        names = self.plan.names if named else None
        columns = [leaf for leaf in (self.plan.device, names) if leaf is not None]
        if not columns:
            yield (None, None), None, None
            return
        codes = np.zeros(len(chunk.rows), np.int64)
        tables: list[list[Any]] = []
        for leaf in columns:
            coded = pc.fill_null(strings(leaf.read(chunk.batch)), "").dictionary_encode()
            table = coded.dictionary.to_pylist()
            codes = codes * max(1, len(table)) + np.frombuffer(coded.indices.buffers()[1], np.int32)[: len(codes)]
            tables.append(table)
        units = strings(self.plan.unit.read(chunk.batch)) if named and self.plan.unit is not None else None
        order = np.argsort(codes[rows], kind="stable")
        grouped = rows[order]
        borders = np.flatnonzero(np.diff(codes[grouped], prepend=-1))
        groups = [grouped[start:end] for start, end in zip(borders, [*borders[1:], len(grouped)])]
        for chosen in sorted(groups, key=lambda g: int(g[0])):
            rest = int(codes[chosen[0]])
            found: list[str] = []
            for table in reversed(tables):
                rest, index = divmod(rest, max(1, len(table)))
                found.insert(0, table[index])
            device = found[0] if self.plan.device is not None else None
            channel = found[-1] if names is not None else None
            yield (device or None, channel), units[int(chosen[0])].as_py() if units is not None else None, chosen

    def _new_series(self, key: tuple[str | None, str | None], unit: str | None, places: Sequence[int]) -> Series:
        device, name = key
        channels = [self.plan.channels[i] for i in places]
        if name is not None:
            known = to_ucum(unit) if unit else None
            extra = {"unit": unit} if unit and known is None else {}
            channels = [
                Channel(
                    name if len(channels) == 1 else f"{name}.{c.name}",
                    known or c.unit,
                    {**c.extra, **extra},
                    c.transforms,
                )
                for c in channels
            ]
        position = self.plan.position
        if position is not None:
            inside = set(position) <= set(places)
            position = (places.index(position[0]), places.index(position[1])) if inside else None
        return Series(
            channels,
            self.config.window,
            place={"device": device} if device is not None else {},
            device=device,
            time_source=self.plan.clock.source,
            absolute=self.plan.clock.absolute,
            period_ns=round(self.config.period_s * 1e9) if self.config.period_s else None,
            position=position,
            order=len(self._series),
        )

    # text -------------------------------------------------------------------------------------------------------------

    def _lines(self, chunk: Chunk, rows: Int64, t: Int64 | None, timed: Bool) -> Iterator[Draft]:
        shown = self.plan.shown
        self._text.flags = self._flags
        kept = np.zeros(len(chunk.rows), np.bool_)
        kept[rows] = True
        for start, end in _slices(chunk.batch, shown):
            part = chunk.batch.slice(start, end - start)
            columns = [plain(leaf.read(part)) for leaf in shown]
            if self.config.text_column:
                lines: Iterator[str | None] = (
                    None if v is None else v if isinstance(v, str) else canonical_json(v).decode() for v in columns[0]
                )
            else:
                lines = json_lines([leaf.name for leaf in shown], columns)
            for index, line in zip(range(start, end), lines):
                if line is None or not kept[index]:
                    continue
                self._text_left -= len(line)
                if self._text_left < 0:
                    raise RecordError("bomb", f"the text of this table grows beyond {self._max_text} characters")
                draft = self._text.add(
                    int(chunk.rows[index]), line, int(t[index]) if t is not None and timed[index] else None
                )
                if draft is not None:
                    if self.config.text_column:
                        draft.columns["text"] = line
                    yield draft


def _take(values: Values, rows: Int64) -> Values:
    return Values(
        values.value[rows],
        values.valid[rows],
        None if values.lossy is None else values.lossy[rows],
        None if values.damaged is None else values.damaged[rows],
    )


def _slices(batch: pa.RecordBatch, shown: Sequence[Leaf]) -> Iterator[tuple[int, int]]:
    """Row ranges whose text takes at most MAX_SLICE bytes: a dictionary entry may stand for megabytes in every row."""
    sizes = np.full(batch.num_rows, 64, dtype=np.int64)
    for leaf in shown:
        array = leaf.read(batch)
        if pa.types.is_dictionary(array.type):
            lengths = np.array(pc.fill_null(pc.binary_length(array.dictionary), 0).to_pylist() or [0], dtype=np.int64)
            sizes += lengths[np.array(pc.fill_null(array.indices, 0).to_pylist(), dtype=np.int64)]
        else:
            sizes += array.nbytes // max(1, len(array))
    start = total = 0
    for index, size in enumerate(sizes.tolist()):
        if total + size > MAX_SLICE and index > start:
            yield start, index
            start, total = index, 0
        total += size
    if start < batch.num_rows:
        yield start, batch.num_rows
