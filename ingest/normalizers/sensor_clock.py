"""Which column is time, and its nanoseconds since 1970 UTC.

A `Clock` is chosen once, from the first chunk of a table, and then reads every chunk. In this order:

    1. the column(s) that the settings name
    2. a column of Arrow timestamps or dates, one with the name of a time first
    3. a column of strings of which nine in ten are time stamps (most, if it has the name of a time), one with the name
       of a time first; a date column is joined with a column of clock times
    4. a column of numbers with the name of a time
    5. columns named year, month, day (hour, minute, second)
    6. nothing: the row's number, flagged `no_time`

Numbers count units since 1970, by the size of the sample's median: below 1e8 they are no epoch but time elapsed since
an unknown start (flag `relative_time`, unit from the header, else seconds); below 1e11 seconds, 1e14 milliseconds,
1e17 microseconds, else nanoseconds. A unit in the name (`time_ms`, `t [us]`) or in `time_format` comes first.

Stamps without a zone are in the settings' `timezone`, or UTC with the flag `naive_time` (without it where the column's
name says UTC). Where a clock was set back an
hour, the earlier reading is taken unless it would go back in file order and the later would not (or stand still, in a
table of one device: 02:00 may come twice in hourly readings); readings that the change to summer time skipped are moved
on by the hour. Both are counted (`dst_ambiguous:N`, `dst_skipped:N`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.ingest.normalizers import sensor_time
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_instants import (
    NS,
    PARTS,
    from_arrow,
    from_date_and_clock,
    from_excel,
    from_numbers,
    from_parts,
    is_number,
    is_text,
    loose_numbers,
    strings,
    to_utc,
)
from headrace.ingest.normalizers.sensor_time import Bool, Int64, mask_of, valid_of
from headrace.ingest.normalizers.sensor_units import to_ucum
from headrace.schemas.errors import ConfigError, RecordError

_NAMES = (
    "timestamp", "time", "datetime", "date_time", "date", "ds", "ts", "t", "utc", "epoch", "event_time", "observed_at",
    "recorded_at", "measured_at", "created_at",
)  # fmt: skip
_TIMELIKE = re.compile(r"(^|[^a-z])(time|timestamp|date|datetime|utc|epoch)([^a-z]|$)|(Time|Date)(stamp)?([^a-z]|$)")
_UTC = re.compile(r"(^|[^a-z])(utc|gmt|zulu)([^a-z]|$)|(UTC|GMT)$", re.IGNORECASE)
_SUFFIX = re.compile(
    r"[_\s.\-\[(](ns|nsec|nanos|us|usec|micros|ms|msec|millis|s|sec|secs|seconds|min|h|d|days)[\])]?$", re.IGNORECASE
)
_SUFFIX_UNIT = {
    "nsec": "ns",
    "nanos": "ns",
    "usec": "us",
    "micros": "us",
    "msec": "ms",
    "millis": "ms",
    "sec": "s",
    "secs": "s",
    "seconds": "s",
    "days": "d",
}
_CLOCK_TIME = r"^\s*\d{1,2}[:.]\d{2}([:.]\d{2}([.,]\d+)?)?(\s*[AaPp][Mm])?\s*$"
#: Unit of an epoch → the size that it stays below (1e8 s is 1973, 1e11 s is the year 5138).
_EPOCHS = (("s", 1e11), ("ms", 1e14), ("us", 1e17))
_SAMPLE_ROWS = 4096
FAINT_RANK = 50  #: of names that only mention time
_MAX_STAMP = 64  #: bytes of a time stamp
_FORMAT_UNITS = ("s", "ms", "us", "ns")


@dataclass
class Reading:
    """Times of one chunk: `ok` False where there is none. `flags` hold for every record."""

    t: Int64
    ok: Bool
    present: Bool  #: the source wrote something, even where it could not be read
    flags: frozenset[str] = frozenset()
    marks: Mapping[str, Bool] = field(default_factory=dict)  #: flag → rows it is counted on


def name_rank(name: str) -> int:
    """0 for the plainest names of a time column, 99 for names that say nothing of time."""
    plain = re.sub(r"\s*[\[(].*$", "", name).strip().lower()
    match = _SUFFIX.search(plain)
    if match and match[1] not in ("min", "h", "d", "days"):
        plain = plain[: match.start()]  # time_ms, t_us; but t_min is a lowest temperature
    if plain in _NAMES:
        return _NAMES.index(plain)
    return FAINT_RANK if _TIMELIKE.search(name) or _TIMELIKE.search(name.lower()) else 99


class Clock:
    """Reads the time of every chunk of one table.

    `columns`: names it consumes (they are no channels). `source`: what goes to `time_source`.
    """

    def __init__(
        self, columns: Sequence[str], how: str, config: SensorConfig, *, unit: str = "", flags: Sequence[str] = ()
    ) -> None:
        self.columns = tuple(columns)
        self.how = how  # row | arrow | text | number | parts | date+clock | excel
        self.unit = unit  # of numbers, or the layout of text
        self.flags = frozenset(flags)
        self.absolute = how != "row" and "relative_time" not in self.flags
        self.source = f"field:{'+'.join(self.columns)}" if self.columns else "row_number"
        #: Rows are of one device, so equal readings in a row are not of one moment.
        self.repeats = True
        self._zone = config.timezone
        self._says_utc = any(_UTC.search(name) for name in columns)
        self._last_local: int | None = None

    def read(self, batch: pa.RecordBatch, rows: Int64) -> Reading:
        """The times of a chunk whose rows have the numbers `rows` in their object."""
        if self.how == "row":
            return Reading(
                rows.astype(np.int64), np.ones(len(rows), np.bool_), np.ones(len(rows), np.bool_), self.flags
            )
        arrays = [batch.column(name) for name in self.columns]
        present = np.logical_and.reduce([valid_of(a) for a in arrays])
        if self.how == "arrow":
            ns, ok, zoned = from_arrow(arrays[0])
        elif self.how == "date+clock":
            ns, ok, zoned = from_date_and_clock(arrays[0], arrays[1], self.unit)
        elif self.how == "text":
            texts = strings(arrays[0])
            stamps = sensor_time.read(texts, self.unit)
            if not stamps.ok.all():
                present &= ~mask_of(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(texts, "")), ""))
            ns, ok, zoned = stamps.ns, stamps.ok, stamps.zoned
        elif self.how == "parts":
            ns, ok = from_parts(dict(zip(self.unit.split(), arrays)))
            zoned = np.zeros(len(ns), np.bool_)
        else:
            ns, ok = from_excel(arrays[0]) if self.how == "excel" else from_numbers(arrays[0], NS[self.unit])
            zoned = np.full(len(ns), self.how == "number")
        ok = ok & present
        return self._in_utc(ns, ok, zoned, present)

    def _in_utc(self, ns: Int64, ok: Bool, zoned: Bool, present: Bool) -> Reading:
        local = ok & ~zoned
        if not self.absolute or not local.any():
            return Reading(ns, ok, present, self.flags)
        if self._zone is None:
            naive = frozenset() if self._says_utc else frozenset({"naive_time"})
            return Reading(ns, ok, present, self.flags | naive)
        marks: dict[str, Bool] = {}
        utc, ambiguous, skipped, fits = to_utc(ns, local, self._zone, self._last_local, self.repeats)
        if ambiguous.any():
            marks["dst_ambiguous"] = ambiguous
        if skipped.any():
            marks["dst_skipped"] = skipped
        good = np.flatnonzero(ok & fits)
        if len(good):
            self._last_local = int(utc[good[-1]])
        return Reading(utc, ok & fits, present, self.flags, marks)


def choose(batch: pa.RecordBatch, config: SensorConfig) -> Clock:
    """The clock of a table, from its first chunk. Raises: RecordError `missing_field`, `no_time`."""
    if config.time is not None:
        return _declared(batch, config)
    names = sorted(batch.schema.names, key=lambda n: (name_rank(n), batch.schema.get_field_index(n)))
    for name in names:
        kind = batch.schema.field(name).type
        if (pa.types.is_timestamp(kind) or pa.types.is_date(kind)) and batch.column(name).null_count < batch.num_rows:
            return _with_clock_column(batch, config, name) or Clock([name], "arrow", config)
    for name in names:
        if is_text(batch.schema.field(name).type):
            least = 0.9 if name_rank(name) == 99 else 0.51
            found = sensor_time.detect(_sample(batch.column(name)), least)
            if found is not None:
                return _text_clock(batch, config, name, *found)
    for name in names:
        kind = batch.schema.field(name).type
        if name_rank(name) < 99 and (is_number(kind) or is_text(kind)):
            clock = _number_clock(batch, config, name)
            if clock is not None:
                return clock
    return _parts_clock(batch, config) or Clock([], "row", config, flags=["no_time"])


def _sample(column: pa.Array) -> pa.Array:
    """Strings to look at: few, and none that is too long to be a time."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary
    texts = pc.drop_null(strings(column.slice(0, 4 * _SAMPLE_ROWS))).slice(0, _SAMPLE_ROWS)
    return texts.filter(pc.less_equal(pc.binary_length(texts), _MAX_STAMP)) if len(texts) else texts


def _declared(batch: pa.RecordBatch, config: SensorConfig) -> Clock:
    wanted = [config.time] if isinstance(config.time, str) else list(config.time or ())
    absent = [name for name in wanted if name not in batch.schema.names]
    if absent:
        raise RecordError(
            "missing_field", f"no column {absent[0]!r} for the time; there are {', '.join(batch.schema.names)[:500]}"
        )
    kinds = [batch.schema.field(name).type for name in wanted]
    form = config.time_format
    if len(wanted) > 1:
        if all(is_number(k) for k in kinds):
            if len(wanted) > len(PARTS):
                raise ConfigError("at most year, month, day, hour, minute, second", field="record.time", value=wanted)
            return Clock(wanted, "parts", config, unit=" ".join(PARTS[: len(wanted)]))
        found = (
            (form, False)
            if form in sensor_time.LAYOUTS or form == "iso"
            else sensor_time.detect(_sample(batch.column(wanted[0])))
        )
        if found is None or len(wanted) != 2:
            raise RecordError("no_time", f"the columns {wanted} do not hold a date and a clock time")
        return Clock(
            wanted, "date+clock", config, unit=str(found[0]), flags=["ambiguous_date_order"] if found[1] else []
        )
    name, kind = wanted[0], kinds[0]
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return Clock(wanted, "arrow", config)
    if form in _FORMAT_UNITS:
        return Clock(wanted, "number", config, unit=str(form))
    if form == "excel":
        return Clock(wanted, "excel", config)
    if form is not None:
        try:
            sensor_time.pattern_of("ymd" if form == "iso" else form)
        except (ValueError, re.error) as exc:
            raise ConfigError(str(exc), field="record.time_format", value=form) from exc
        return Clock(wanted, "text", config, unit=form)
    if is_number(kind):
        clock = _number_clock(batch, config, name)
        if clock is not None:
            return clock
    elif is_text(kind):
        found = sensor_time.detect(_sample(batch.column(name)), least=0.5)
        if found is not None:
            return _text_clock(batch, config, name, *found)
    sample = pc.drop_null(batch.column(name)).slice(0, 1).to_pylist()
    raise RecordError(
        "no_time",
        f"column {name!r} ({kind}) holds no time stamps that are known, for example {sample}; give time_format",
    )


def _text_clock(batch: pa.RecordBatch, config: SensorConfig, name: str, layout: str, ambiguous: bool) -> Clock:
    flags = ["ambiguous_date_order"] if ambiguous else []
    if not sensor_time.has_clock(_sample(batch.column(name)), layout):
        joined = _with_clock_column(batch, config, name, layout, flags)
        if joined is not None:
            return joined
    return Clock([name], "text", config, unit=layout, flags=flags)


def _with_clock_column(
    batch: pa.RecordBatch, config: SensorConfig, date: str, layout: str = "iso", flags: Sequence[str] = ()
) -> Clock | None:
    """A date column joined with the column of clock times beside it, if there is one."""
    kind = batch.schema.field(date).type
    if config.time is not None or not (is_text(kind) or pa.types.is_date(kind)):
        return None
    for name in batch.schema.names:
        kind = batch.schema.field(name).type
        if name != date and (name_rank(name) < 99 or "clock" in name.lower()):
            if pa.types.is_time(kind):
                return Clock([date, name], "date+clock", config, unit=layout, flags=flags)
            if is_text(kind):
                texts = pc.drop_null(_sample(batch.column(name)))
                if (
                    len(texts)
                    and pc.mean(pc.cast(pc.match_substring_regex(texts, _CLOCK_TIME), pa.float64())).as_py() >= 0.9
                ):
                    return Clock([date, name], "date+clock", config, unit=layout, flags=flags)
    return None


def _number_clock(batch: pa.RecordBatch, config: SensorConfig, name: str) -> Clock | None:
    column = batch.column(name)
    if is_text(column.type):
        column = _sample(column)
    values = pc.drop_null(loose_numbers(column))
    if len(values) < 0.9 * (len(column) - column.null_count):
        return None
    sample = np.abs(np.array(values.slice(0, 4096).to_pylist() or [np.nan], dtype=np.float64))
    sample = sample[np.isfinite(sample)]
    if len(sample) == 0:
        return None
    size = float(np.median(sample))
    unit = _unit_of_name(name)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        days = pc.cast(pc.cast(pc.drop_null(column).slice(0, 4096), pa.int64(), safe=False), pa.string())
        if "date" in name.lower() and 1.9e7 < size < 2.2e7 and sensor_time.read(days, "compact").ok.all():
            return Clock([name], "text", config, unit="compact")
    if not epoch_unit(size):
        # A name that only mentions time (`cpu_time`, `ship_date_key`) is no clock unless its values are moments.
        relative = name_rank(name) < FAINT_RANK or config.time is not None
        return Clock([name], "number", config, unit=unit or "s", flags=["relative_time"]) if relative else None
    guess = epoch_unit(size)
    if name_rank(name) >= FAINT_RANK and config.time is None and size * NS[unit or guess] > 4.2e18:
        return None
    return Clock([name], "number", config, unit=unit or guess)


def epoch_unit(size: float) -> str:
    """The unit of a number of this size that counts from 1970; empty where it is too small for that."""
    if size < 1e8:
        return ""
    return next((unit for unit, below in _EPOCHS if size < below), "ns")


def _unit_of_name(name: str) -> str | None:
    match = _SUFFIX.search(name)
    if match:
        word = match[1].lower()
        return _SUFFIX_UNIT.get(word, word)
    bracket = re.search(r"[\[(]([^\])]+)[\])]\s*$", name)
    unit = to_ucum(bracket[1]) if bracket else None
    return unit if unit in NS else None


def _parts_clock(batch: pa.RecordBatch, config: SensorConfig) -> Clock | None:
    by_name = {n.strip().lower(): n for n in reversed(batch.schema.names) if is_number(batch.schema.field(n).type)}
    aliases = {
        "year": ("year", "yr", "yyyy"),
        "month": ("month", "mon", "mo"),
        "day": ("day", "dd"),
        "hour": ("hour", "hr", "hh"),
        "minute": ("minute", "min", "mi"),
        "second": ("second", "sec", "ss"),
    }
    chosen: dict[str, str] = {}
    for part in PARTS:
        name = next((by_name[a] for a in aliases[part] if a in by_name), None)
        if name is None:
            break
        chosen[part] = name
    if len(chosen) < 3:
        return None
    clock = Clock(list(chosen.values()), "parts", config, unit=" ".join(chosen))
    return clock if clock.read(batch, np.arange(batch.num_rows)).ok.mean() >= 0.9 else None
