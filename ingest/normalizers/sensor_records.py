"""Rows that are objects (JSON lines, track points, log messages) as windows: what has the same times shares a series.

    {"t": 1, "imu": {"ax": 0.1, "ay": 0.2}, "state": "ok"}    → channels imu.ax, imu.ay; text {"state":"ok","t":1}
    {"t": 2, "range": [1.0, 2.0]}                              → channels range[0], range[1]

Objects are flattened with dots, short lists with indices. A field is a number or text by the first value that is not
null; a number field that later holds text makes its row bad. A field that is absent has no sample, a field that is null
has one that is not valid. Fields that come in the same rows of the block where they first appear form a series; if one
of them is absent later, it is not valid there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.sensor_clock import Clock
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_objects import (
    SPECIAL,
    Column,
    columns_of,
    flatten,
    is_number,
    jsonable,
    pick,
    position_of,
    values_of,
)
from headrace.ingest.normalizers.sensor_plan import Plan, is_value
from headrace.ingest.normalizers.sensor_rows import BadRow, BadRuns, TextRows
from headrace.ingest.normalizers.sensor_series import Channel, Draft, Series
from headrace.ingest.normalizers.sensor_time import Bool, Int64
from headrace.ingest.normalizers.sensor_units import split_header, to_ucum
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Row:
    """One object. `number`: its place in order (row, byte, message); `t`: its time in ns where the caller knows it."""

    number: int
    value: Mapping[str, Any]
    locator: Mapping[str, Any]
    data: bytes | None = None
    t: int | None = None
    ordinal: int = 0


class RowTable:
    """The open windows of rows that are objects.

    place: what locators hold besides. prefix: goes before channel names. row_key: what `Row.number` counts.
    time_source: where the rows' own `t` comes from; None: the clock is found in the fields. absolute: `t` are
    moments. clock: the clock of the fields, where the caller knows it. changes_only: a line of text only where a text
    field differs from the line before (logs repeat theirs).
    """

    def __init__(
        self,
        config: SensorConfig,
        *,
        place: Mapping[str, Any] | None = None,
        prefix: str = "",
        row_key: str = "first_row",
        time_source: str | None = None,
        absolute: bool = True,
        changes_only: bool = False,
        device: str | None = None,
        flags: Sequence[str] = (),
        units: Mapping[str, str] | None = None,
        order: int = 0,
        block_rows: int = BLOCK_ROWS,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.flags = set(flags)
        self.count = 0  #: drafts and bad rows given
        self._place = dict(place or {})
        self._prefix = prefix
        self._row_key = row_key
        self._time_source = time_source
        self._absolute = absolute
        self._changes_only = changes_only
        self._units = dict(units or {})
        self._order = order
        self._block_rows = block_rows
        self._clock = clock
        self._rows: list[Row] = []
        self._unparsed: list[BadRow] = []
        self._time_source_found = "row_number"
        self._plan: Plan | None = None
        self._kinds: dict[str, str] = {}
        self._groups: list[list[str]] = []
        self._grouped: set[str] = set()
        self._series: dict[tuple[int, str | None, str | None], Series] = {}
        self._text: TextRows | None = None
        self._said = ""
        self._bad = BadRuns()

    def add(self, row: Row) -> Iterator[Draft | Bad]:
        """Take a row; gives what it completed, at the end of each block of BLOCK_ROWS."""
        self._rows.append(row)
        if len(self._rows) >= self._block_rows:
            yield from self._block()

    def add_bad(self, bad: BadRow) -> None:
        """Take a row that could not even be parsed."""
        self._unparsed.append(bad)

    def finish(self, flags: Sequence[str] = ()) -> Iterator[Draft | Bad]:
        """What is left, with these flags."""
        if self._rows or self._unparsed:
            yield from self._block()
        ended = self._bad.finish()
        if ended is not None:
            self.count += 1
            yield ended
        for series in self._series.values():
            series.flags = self.flags
            for draft in series.finish(flags):
                self.count += 1
                yield draft
        if self._text is not None:
            self._text.flags = self.flags
            text = self._text.finish(flags)
            if text is not None:
                self.count += 1
                yield text

    def only_series(self) -> tuple[Plan, list[str], Series] | None:
        """The plan, the fields that are channels, and the series, where all rows so far are of one."""
        if self._plan is None or len(self._series) != 1 or len(self._groups) != 1:
            return None
        (series,) = self._series.values()
        return self._plan, self._groups[0], series

    # one block --------------------------------------------------------------------------------------------------------

    def _block(self) -> Iterator[Draft | Bad]:
        rows, self._rows = self._rows, []
        flats: list[dict[str, Any]] = []
        bad, self._unparsed = self._unparsed, []
        kept: list[Row] = []
        for row in rows:
            try:
                flat = flatten(row.value)
            except RecordError as exc:
                bad.append(BadRow(row.ordinal, exc.reason, exc.message, row.locator, row.data))
                continue
            wrong = self._misfit(flat)
            if wrong is not None:
                bad.append(BadRow(row.ordinal, "wrong_type", wrong, row.locator, row.data))
                continue
            kept.append(row)
            flats.append(flat)
        t, ok = self._times(kept, flats)
        numbers = any(kind == "number" and name not in self._used() for name, kind in self._kinds.items())
        if numbers:
            why = "a row without a time that can be read"
            late = [kept[i] for i in np.flatnonzero(~ok)]
            bad += [BadRow(row.ordinal, "no_time", why, row.locator, row.data) for row in late]
        else:
            ok = np.ones(len(kept), np.bool_)
        events: list[tuple[int, tuple[int, ...], Draft | Bad]] = []
        for one in sorted(bad, key=lambda b: b.row):
            last = self._bad.last_row
            ended = self._bad.add(one)
            if ended is not None:
                events.append((last, (-1,), ended))
        events += [(d.last_row, d.order, d) for d in self._samples(kept, flats, t, ok)]
        if self.config.keeps_text:
            events += [(d.last_row, d.order, d) for d in self._lines(kept, flats, t, ok, numbers)]
        for _, _, event in sorted(events, key=lambda e: e[:2]):
            self.count += 1
            yield event

    def _misfit(self, flat: dict[str, Any]) -> str | None:
        """Fixes the kind of new fields; says what is wrong where a number field holds something else."""
        for name, value in flat.items():
            if value is None:
                continue
            kind = self._kinds.get(name)
            if kind is None:
                declared = isinstance(self.config.channels, dict) and name in self.config.channels
                self._kinds[name] = "number" if is_number(value) or declared else "text"
                kind = self._kinds[name]
            if kind == "number" and not is_number(value):
                if isinstance(value, str) and (
                    value.strip().lower() in SPECIAL or value.strip() in self.config.missing
                ):
                    continue
                return f"{name} is {str(value)[:60]!r}, it was a number before"
        return None

    def _used(self) -> set[str]:
        if self._plan is None:
            return set()
        return {
            *self._plan.clock.columns,
            *(x.top for x in (self._plan.device, self._plan.names, self._plan.unit) if x),
        }

    def _times(self, rows: Sequence[Row], flats: Sequence[dict[str, Any]]) -> tuple[Int64, Bool]:
        if self._time_source is not None:
            given = [row.t for row in rows]
            return np.array([v or 0 for v in given], np.int64), np.array([v is not None for v in given], np.bool_)
        if not rows:
            return np.empty(0, np.int64), np.empty(0, np.bool_)
        if self._plan is None:
            config = self.config.model_copy(update={"channels": "all"})
            self._plan = Plan(columns_of(flats, self._kinds, list(self._kinds)), config, clock=self._clock)
            self._time_source_found = self._plan.clock.source
            self._absolute = self._plan.clock.absolute
        clock = self._plan.clock
        batch = columns_of(flats, self._kinds, list(clock.columns))
        reading = clock.read(batch, np.array([row.ordinal for row in rows], np.int64))
        self.flags |= reading.flags
        return reading.t, reading.ok

    def _source(self) -> str:
        return self._time_source if self._time_source is not None else self._time_source_found

    def _samples(self, rows: Sequence[Row], flats: Sequence[dict[str, Any]], t: Int64, ok: Bool) -> Iterator[Draft]:
        used = self._used()
        columns: dict[str, Column] = {}
        for i, flat in enumerate(flats):
            if not ok[i]:
                continue
            for name, value in flat.items():
                if self._kinds.get(name) == "number" and name not in used and self._wanted(name):
                    column = columns.setdefault(name, Column())
                    column.rows.append(i)
                    column.values.append(value)
        fresh: dict[tuple[int, ...], list[str]] = {}
        for name, column in columns.items():
            if name not in self._grouped:
                fresh.setdefault(tuple(column.rows), []).append(name)
                self._grouped.add(name)
        self._groups += fresh.values()
        for index, names in enumerate(self._groups):
            present = [columns[name] for name in names if name in columns]
            if not present:
                continue
            chosen = np.unique(np.concatenate([np.array(c.rows, np.int64) for c in present]))
            values = [values_of(columns.get(name, Column()), chosen, self.config.missing_numbers) for name in names]
            labels = np.array([rows[int(i)].number for i in chosen], np.int64)
            order = np.array([rows[int(i)].ordinal for i in chosen], np.int64)
            for key, unit, part in self._keys(flats, chosen, all(is_value(name) for name in names)):
                series = self._series.get((index, *key))
                if series is None:
                    series = self._series[(index, *key)] = self._new_series(names, key, unit, columns)
                series.flags = self.flags
                picked = values if part is None else [pick(v, part) for v in values]
                where = slice(None) if part is None else part
                yield from series.add(order[where], t[chosen][where], picked, labels=labels[where])

    def _wanted(self, name: str) -> bool:
        wanted = self.config.channels
        return wanted == "all" or name in wanted or self._prefix + name in wanted

    def _keys(
        self, flats: Sequence[dict[str, Any]], chosen: Int64, named: bool
    ) -> Iterator[tuple[tuple[str | None, str | None], str | None, Int64 | None]]:
        """(device, channel), unit and places of each series; a row names the channel only of its values."""
        plan = self._plan
        device, names, unit = (plan.device, plan.names, plan.unit) if plan is not None else (None, None, None)
        if not named:
            names = unit = None
        if device is None and names is None:
            yield (self.device, None), None, None
            return
        groups: dict[tuple[str | None, str | None], list[int]] = {}
        for at, i in enumerate(chosen.tolist()):
            flat = flats[i]
            key = (
                str(flat[device.name]) if device is not None and flat.get(device.name) is not None else None,
                str(flat[names.name]) if names is not None and flat.get(names.name) is not None else None,
            )
            groups.setdefault(key, []).append(at)
        for key, places in groups.items():
            first = flats[int(chosen[places[0]])]
            yield key, str(first[unit.name]) if unit is not None and first.get(unit.name) else None, np.array(places)

    def _new_series(
        self, names: Sequence[str], key: tuple[str | None, str | None], unit: str | None, columns: Mapping[str, Column]
    ) -> Series:
        device, long_name = key
        channels = []
        for name in names:
            plain, found = split_header(name)
            known = self._units.get(name) or found
            if isinstance(self.config.channels, dict):
                known = self.config.channels.get(name) or self.config.channels.get(self._prefix + name) or known
            extra: dict[str, str] = {}
            if unit is not None:
                known = to_ucum(unit) or known
                extra = {} if to_ucum(unit) else {"unit": unit}
            shown = self._prefix + plain
            if long_name is not None:
                shown = long_name if len(names) == 1 else f"{long_name}.{plain}"
            sample = columns[name].values[0] if name in columns else None
            transforms = ("bool->float64",) if isinstance(sample, bool) else ()
            channels.append(Channel(shown, known, {**extra, **({"column": name} if plain != name else {})}, transforms))
        position = position_of(names) if long_name is None else None
        return Series(
            channels,
            self.config.window,
            place={**self._place, **({"device": device} if device is not None and self._plan is not None else {})},
            row_key=self._row_key,
            device=device,
            time_source=self._source(),
            absolute=self._absolute,
            period_ns=round(self.config.period_s * 1e9) if self.config.period_s else None,
            position=position,
            order=self._order + len(self._series),
        )

    # text -------------------------------------------------------------------------------------------------------------

    def _lines(
        self, rows: Sequence[Row], flats: Sequence[dict[str, Any]], t: Int64, ok: Bool, numbers: bool
    ) -> Iterator[Draft]:
        used = self._used()
        for i, (row, flat) in enumerate(zip(rows, flats)):
            if not ok[i]:
                continue
            if self.config.text_column is not None:
                value = flat.get(self.config.text_column)
                line = value if isinstance(value, str) else None
            elif not numbers:
                more = {"t": int(t[i])} if self._changes_only else {}
                line = canonical_json({**more, **jsonable(row.value)}).decode()
            else:
                texts = {
                    n: jsonable(v)
                    for n, v in flat.items()
                    if v is not None and self._kinds.get(n) == "text" and n not in used
                }
                if not texts:
                    continue
                if self._changes_only:
                    said = canonical_json(texts).decode()
                    if said == self._said:
                        continue
                    self._said = said
                    texts["t"] = int(t[i])
                line = canonical_json({**{n: jsonable(flat[n]) for n in used if n in flat}, **texts}).decode()
            if line is None:
                continue
            if self._text is None:
                size = 1 if self.config.text_column else self.config.text_rows
                self._text = TextRows(
                    size,
                    time_source=self._source(),
                    absolute=self._absolute,
                    place=self._place,
                    row_key=self._row_key,
                    order=1 << 40,
                )
            self._text.flags = self.flags
            draft = self._text.add(row.number, line, int(t[i]) if self._absolute else None)
            if draft is not None:
                if self.config.text_column is not None:
                    draft.columns["text"] = line
                yield Draft(draft.modality, draft.columns, row.ordinal, draft.order)
