"""Windows of samples: a series collects rows of channels that share their times and gives a record of each full window.

Rule of the cut: the k-th window of a series holds its rows [k·window, (k+1)·window); the rest at the end is short. So a
cut depends on the rows of the series alone, never on how the file was read. Findings of a window count its own rows,
each against the row before it in the series, also across the cut:

    clock_backward:N   N rows are earlier than the row before      duplicate_time:N   N rows have the same time
    gap:N              N rows come later than 1.5 sampling periods after the row before
    non_finite:N       N values are infinite (kept, but not valid)
    lossy_int64        an integer beyond 2^53 has no exact float64

The sampling period is the declared one, or the (lower) median of the window's positive steps; a window with fewer
than 16 such steps uses the period of the window before, if there is one. It is kept as `period_ns` in `extra`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.ingest.normalizers.sensor_time import Bool, Int64
from headrace.schemas.canonical import canonical_json

Floats = npt.NDArray[np.float64]

_MARK = 7_316_482_053_917_264  #: stands for a row's number in a locator that is filled in later
_MOST_SAID = 64
MIN_STEPS = 16  #: positive steps that a window needs for a period of its own


@dataclass(frozen=True)
class Channel:
    """One column of numbers: `extra` and `transforms` go to each of its records."""

    name: str
    unit: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    transforms: tuple[str, ...] = ()


@dataclass
class Values:
    """Samples of one channel. `lossy`: rows whose integer lost bits; `damaged`: rows that could not be read."""

    value: Floats
    valid: Bool
    lossy: Bool | None = None
    damaged: Bool | None = None


@dataclass(frozen=True)
class Draft:
    """One row for the RecordBuilder of `modality`; `last_row` orders drafts of one chunk."""

    modality: str
    columns: dict[str, Any]
    last_row: int
    order: tuple[int, ...] = ()


@dataclass
class _Run:
    rows: Int64
    labels: Int64
    t: Int64
    values: list[Values]
    marks: dict[str, Bool]


class Series:
    """Rows of one device (or topic, or track): `channels` that are read at the same times.

    place: what the locator holds besides the channel and its first row. absolute: `t` is a moment, so `event_time` is
    known. flags: findings that hold for every record. position: indices of the channels latitude and longitude.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        window: int,
        *,
        place: Mapping[str, Any] | None = None,
        row_key: str = "first_row",
        device: str | None = None,
        time_source: str,
        absolute: bool = True,
        period_ns: int | None = None,
        position: tuple[int, int] | None = None,
        order: int = 0,
    ) -> None:
        self.channels = list(channels)
        self.window = window
        self.row_key = row_key
        self.place = dict(place or {})
        self.device = device
        self.time_source = time_source
        self.absolute = absolute
        self.position = position
        self.order = order
        self.flags: set[str] = set()
        marked = [canonical_json({**self.place, "channel": c.name, row_key: _MARK}).decode() for c in self.channels]
        self._locators = [text.split(str(_MARK)) for text in marked]
        self._transforms = [list(c.transforms) or None for c in self.channels]
        self._extras: dict[tuple[int, int | None], str | None] = {}
        self._said: dict[tuple[str, ...], list[str] | None] = {}
        self._declared = period_ns
        self._period: int | None = None
        self._previous: int | None = None
        self._started = [False] * len(self.channels)
        self._runs: list[_Run] = []
        self.pending = 0

    def add(
        self,
        rows: Int64,
        t: Int64,
        values: list[Values],
        marks: Mapping[str, Bool] | None = None,
        labels: Int64 | None = None,
    ) -> Iterator[Draft]:
        """Take rows; gives the records that became full.

        rows: their order in the object. marks: findings that are counted by row. labels: what locators call the rows,
        if not by their order (`row_key` says what it is).
        """
        if len(t) == 0:
            return
        self._runs.append(_Run(rows, rows if labels is None else labels, t, values, dict(marks or {})))
        self.pending += len(t)
        if self.pending < self.window:
            return
        run = self._joined()
        full = len(run.t) - len(run.t) % self.window
        counts = [v.valid[:full].reshape(-1, self.window).sum(axis=1).tolist() for v in run.values]
        for number, start in enumerate(range(0, full, self.window)):
            part = _part(run, start, start + self.window)
            yield from self._records(part, (), [of_channel[number] for of_channel in counts])
        self._runs = [_part(run, full, len(run.t))] if full < len(run.t) else []
        self.pending = len(run.t) - full

    def keep_empty(self) -> None:
        """Give records of channels that never had a value, too."""
        self._started = [True] * len(self.channels)

    def finish(self, flags: Sequence[str] = ()) -> Iterator[Draft]:
        """The record of what is left, with these flags besides."""
        if self.pending:
            run = self._joined()
            self._runs, self.pending = [], 0
            yield from self._records(run, tuple(flags), [int(np.count_nonzero(v.valid)) for v in run.values])

    def _joined(self) -> _Run:
        if len(self._runs) == 1:
            return self._runs[0]
        names = {name for run in self._runs for name in run.marks}
        values = [
            Values(
                np.concatenate([run.values[i].value for run in self._runs]),
                np.concatenate([run.values[i].valid for run in self._runs]),
                _joined_masks([(run.values[i].lossy, len(run.t)) for run in self._runs]),
                _joined_masks([(run.values[i].damaged, len(run.t)) for run in self._runs]),
            )
            for i in range(len(self.channels))
        ]
        marks = {n: _joined_masks([(run.marks.get(n), len(run.t)) for run in self._runs]) for n in sorted(names)}
        return _Run(
            np.concatenate([run.rows for run in self._runs]),
            np.concatenate([run.labels for run in self._runs]),
            np.concatenate([run.t for run in self._runs]),
            values,
            {name: mask for name, mask in marks.items() if mask is not None},
        )

    def _records(self, run: _Run, flags: tuple[str, ...], valid_counts: Sequence[int]) -> Iterator[Draft]:
        """The record of each channel, of which so many samples are valid."""
        shared = [*self._time_findings(run), *flags]
        plain = self._sorted(shared)
        geometry = self._geometry(run)
        times: dict[str, Any] = {
            "t": run.t,
            "time_source": self.time_source,
            "geometry": geometry,
            "device": self.device,
        }
        if self.absolute:
            times |= {"event_time": int(run.t.min()) // 1000, "event_end": int(run.t.max()) // 1000}
        first, last, size = int(run.labels[0]), int(run.rows[-1]), len(run.t)
        for index, (channel, part, valid_count) in enumerate(zip(self.channels, run.values, valid_counts)):
            infinite = int(np.count_nonzero(np.isinf(part.value))) if valid_count < size else 0
            self._started[index] |= valid_count + infinite > 0
            if not self._started[index]:
                continue  # nothing was ever read here: an empty column is no signal
            found = shared.copy()
            if infinite:
                found.append(f"non_finite:{infinite}")
            if part.lossy is not None and part.lossy.any():
                found.append("lossy_int64")
            if part.damaged is not None and part.damaged.any():
                if part.damaged.all():
                    continue  # all of it is in quarantine
                found.append("truncated")
            before, after = self._locators[index]
            columns = {
                **times,
                "locator": f"{before}{first}{after}",
                "value": part.value,
                "valid": part.valid,
                "valid_fraction": valid_count / size,
                "channel": channel.name,
                "unit": channel.unit,
                "flags": plain if len(found) == len(shared) else self._sorted(found),
                "transforms": self._transforms[index],
                "extra": self._extra(index),
            }
            yield Draft("sensor", columns, last, (self.order, index))

    def _sorted(self, found: list[str]) -> list[str] | None:
        """The findings as a record holds them: one list for equal findings, since most windows have the same."""
        key = tuple(found)
        if key not in self._said:
            if len(self._said) > _MOST_SAID:
                self._said.clear()
            self._said[key] = sorted(set(found)) or None
        return self._said[key]

    def _extra(self, index: int) -> str | None:
        key = (index, self._period)
        if key not in self._extras:
            extra = {**self.channels[index].extra, **({"period_ns": self._period} if self._period else {})}
            self._extras[key] = canonical_json(extra).decode() if extra else None
        return self._extras[key]

    def _time_findings(self, run: _Run) -> list[str]:
        found = sorted(self.flags)
        steps = run.t[1:] - run.t[:-1]
        if self._previous is not None:
            steps = np.concatenate((run.t[:1] - self._previous, steps))
        self._previous = int(run.t[-1])
        for name, mask in run.marks.items():
            if count := int(mask.sum()):
                found.append(f"{name}:{count}")
        if self.time_source == "row_number":
            return found  # rows have no period, and a row that is missing is in quarantine
        positive = steps if len(steps) and steps.min() > 0 else steps[steps > 0]
        if self._declared is not None:
            self._period = self._declared
        elif len(positive) >= MIN_STEPS or (self._period is None and len(positive)):
            middle = (len(positive) - 1) // 2
            self._period = int(np.partition(positive, middle)[middle])
        if len(positive) < len(steps):
            if count := int(np.count_nonzero(steps < 0)):
                found.append(f"clock_backward:{count}")
            if count := int(np.count_nonzero(steps == 0)):
                found.append(f"duplicate_time:{count}")
        if self._period and (count := int(np.count_nonzero(positive > self._period + self._period // 2))):
            found.append(f"gap:{count}")
        return found

    def _geometry(self, run: _Run) -> bytes | None:
        """WKB of where the window lies: a point, or the box around its valid positions."""
        if self.position is None:
            return None
        lat, lon = (run.values[i] for i in self.position)
        ok = lat.valid & lon.valid & (np.abs(lat.value) <= 90) & (np.abs(lon.value) <= 360)
        if not ok.any():
            return None
        x, y = lon.value[ok], lat.value[ok]
        x = np.where(x > 180, x - 360, x)
        west, south, east, north = float(x.min()), float(y.min()), float(x.max()), float(y.max())
        if (west, south) == (east, north):
            return struct.pack("<BIdd", 1, 1, west, south)
        ring = (west, south, east, south, east, north, west, north, west, south)
        return struct.pack("<BIII10d", 1, 3, 1, 5, *ring)


def _part(run: _Run, start: int, end: int) -> _Run:
    values = [
        Values(
            v.value[start:end],
            v.valid[start:end],
            None if v.lossy is None else v.lossy[start:end],
            None if v.damaged is None else v.damaged[start:end],
        )
        for v in run.values
    ]
    return _Run(
        run.rows[start:end],
        run.labels[start:end],
        run.t[start:end],
        values,
        {n: m[start:end] for n, m in run.marks.items()},
    )


def _joined_masks(masks: Sequence[tuple[Bool | None, int]]) -> Bool | None:
    if all(mask is None for mask, _ in masks):
        return None
    return np.concatenate([np.zeros(size, np.bool_) if mask is None else mask for mask, size in masks])
