"""Readings that come one message each: a JSON object of some fields as records of one sample, by a shape learned once.

The messages of a sender look alike. What becomes of the first one (which field is the time, who the device is, what its
channels are called) is found as for any document, and that takes milliseconds. What it says of the others is kept here:
two messages with the same fields of the same types, and the same words where words decide (devices, channels, units),
differ in their moment and their values alone. Only what is plain is read so: a stamp of ISO 8601 with its zone or a
number of seconds, milliseconds … since 1970, and numbers that are there, finite and exact. All else is for `open`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from headrace.ingest.normalizers import strict_json
from headrace.ingest.normalizers.sensor_clock import FAINT_RANK, Clock, epoch_unit, name_rank
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_instants import NS
from headrace.ingest.normalizers.sensor_objects import flatten
from headrace.ingest.normalizers.sensor_output import batch_of_samples
from headrace.ingest.normalizers.sensor_records import Row, RowTable
from headrace.ingest.normalizers.sensor_series import Draft

_MAX_SHAPES = 256
_MAX_VARIANTS = 65_536  #: of one shape
_MAX_TRIES = 8  #: to learn from messages of one shape of which none was plain
_EXACT = 1 << 53
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII)
_FIRST, _LAST = "1700", "2200"  #: years well within what 64 bits of nanoseconds hold
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_NUMBERS = frozenset({int, float, bool})
_PLAIN = _NUMBERS | {str, type(None)}
_OWN = frozenset({"t", "value", "valid", "event_time", "event_end"})  #: columns that are each message's own

Names = tuple[tuple[str, type], ...]


class Reading(NamedTuple):
    """A record of one sample. `columns`: what all of its kind share; t: ns since 1970."""

    columns: Mapping[str, Any]
    t: int
    value: float


class _Variant(NamedTuple):
    """Messages of a shape with the same words."""

    unit: str  #: of the time, or `iso`
    channels: list[tuple[str, Mapping[str, Any]]]  #: (field, columns) in the order of their records


@dataclass
class _Shape:
    """Messages with the same fields of the same types."""

    clock: str  #: the field of the time
    words: tuple[str, ...]  #: the fields whose values decide about more than themselves
    variants: dict[tuple[Any, ...], _Variant] = field(default_factory=dict)

    def key(self, flat: Mapping[str, Any]) -> tuple[Any, ...]:
        """What decides on the variant: the words, and the size of a time that is a number."""
        moment = flat[self.clock]
        size = "" if type(moment) is str else epoch_unit(abs(float(moment)))
        return (size, *(flat[word] for word in self.words))


class Messages:
    """Reads messages for one normalizer."""

    def __init__(self, config: SensorConfig) -> None:
        self._config = config
        self._missing = frozenset(config.missing_numbers)
        self._shapes: dict[Names, _Shape] = {}
        self._tries: dict[Names, int] = {}  #: since something was learned

    def read(self, data: bytes) -> list[Reading] | None:
        """The records of a message; None, or any error of a parser, where it is not plain."""
        if data[:1] != b"{":
            return None
        value = orjson.loads(data)
        if not strict_json.keys_are_unique(value, data):
            return None
        return self.read_object(value)

    def read_object(self, value: Mapping[str, Any]) -> list[Reading] | None:
        """The same of an object that something else than JSON said."""
        flat = flatten(value)
        names = tuple([(name, type(held)) for name, held in flat.items()])
        shape = self._shapes.get(names)
        if shape is None or shape.key(flat) not in shape.variants:
            if self._tries.get(names, 0) >= _MAX_TRIES or not self._learn(names, value, flat):
                return None
            shape = self._shapes[names]
        variant, moment = shape.variants[shape.key(flat)], flat[shape.clock]
        t = _stamp_ns(moment) if variant.unit == "iso" else _number_ns(moment, NS[variant.unit])
        if t is None:
            return None
        readings = []
        for name, columns in variant.channels:
            held = flat[name]
            if held in self._missing or (type(held) is int and not -_EXACT < held < _EXACT):
                return None
            readings.append(Reading(columns, t, float(held)))
        return readings

    # -- learning -----------------------------------------------------------------------------------------------------

    def _learn(self, names: Names, value: Mapping[str, Any], flat: Mapping[str, Any]) -> bool:
        """Whether it is known now what becomes of messages like this one."""
        if len(self._tries) >= _MAX_SHAPES:
            self._tries, self._shapes = {}, {}
        self._tries[names] = self._tries.get(names, 0) + 1
        if any(kind not in _PLAIN for _, kind in names):
            return False
        table = RowTable(self._config, row_key="item")
        events = [*table.add(Row(0, value, {"item": 0})), *table.finish()]
        only = table.only_series()
        if only is None:
            return False
        plan, fields, series = only
        drafts = [e for e in events if isinstance(e, Draft) and e.modality == "sensor" and e.columns["flags"] is None]
        plain = series.position is None and all(type(flat[name]) in _NUMBERS for name in fields)
        if not plain or not len(drafts) == len(events) == len(fields):
            return False
        decisive = self._decisive(plan.clock, flat)
        if decisive is None:
            return False
        keys = [leaf.name for leaf in (plan.device, plan.names, plan.unit) if leaf is not None]
        words = tuple(dict.fromkeys([*keys, *decisive]))
        clock = plan.clock.columns[0]
        shape = self._shapes.setdefault(names, _Shape(clock, words))
        if (shape.clock, shape.words) != (clock, words):
            return False
        if len(shape.variants) >= _MAX_VARIANTS:
            shape.variants.clear()
        shared = [{n: v for n, v in draft.columns.items() if n not in _OWN} for draft in drafts]
        shape.variants[shape.key(flat)] = _Variant(plan.clock.unit, list(zip(fields, shared)))
        self._tries[names] = 0
        return True

    def _decisive(self, clock: Clock, flat: Mapping[str, Any]) -> list[str] | None:
        """The texts that were looked at before the clock was found; None if it is not plain why it is the clock.

        See `sensor_clock.choose`: texts come before numbers, and each by the rank of their names.
        """
        if len(clock.columns) != 1 or not clock.absolute or clock.flags:
            return None
        name = clock.columns[0]
        kind = type(flat[name])
        if not (clock.how == "text" and clock.unit == "iso") and not (clock.how == "number" and kind in (int, float)):
            return None
        if self._config.time is not None:
            return []
        there = [other for other, held in flat.items() if held is not None]
        ranked = sorted(there, key=lambda other: (name_rank(other), there.index(other)))
        before = ranked[: ranked.index(name)]
        if clock.how == "text":
            return [other for other in before if type(flat[other]) is str]
        if name_rank(name) >= FAINT_RANK or any(type(flat[other]) in _NUMBERS for other in before):
            return None
        return [other for other in ranked if type(flat[other]) is str]


def reading_batch(readings: Sequence[Reading]) -> pa.RecordBatch:
    """The draft batch of records of one sample each."""
    t = np.array([reading.t for reading in readings], np.int64)
    value = np.array([reading.value for reading in readings], np.float64)
    valid = np.ones(len(readings), np.bool_)
    micros = (t // 1000).tolist()
    rows = [{**reading.columns, "event_time": us, "event_end": us} for reading, us in zip(readings, micros)]
    return batch_of_samples(rows, np.arange(len(readings) + 1, dtype=np.int32), t, value, valid)


def _stamp_ns(stamp: str) -> int | None:
    match = _STAMP.fullmatch(stamp)
    if match is None or not _FIRST <= stamp < _LAST:
        return None
    moment, fraction, zone = match.groups()
    seconds = (datetime.fromisoformat(moment + zone) - _EPOCH) // _SECOND
    return seconds * 1_000_000_000 + (int(fraction.ljust(9, "0")) if fraction else 0)


def _number_ns(number: float, factor: int) -> int | None:
    """As `sensor_instants.from_numbers`."""
    whole = math.floor(number)
    if abs(whole) > (2**63 - 1) // factor - 1:
        return None
    return whole * factor + (round((number - whole) * factor) if type(number) is float else 0)
