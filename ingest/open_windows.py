"""Joins the readings of many messages into sensor records: windows that stay open over commits.

A message often holds one reading; a record of one reading is no use to a trainer. Readings of one channel wait here
until their window is full (by number) or over (by event time: a later reading of the split shows it). Data alone closes
a window, so it does not matter when a service committed or how often it was killed. What is open at a commit is written
into the same entry as a carry file; its messages count as open in the books until their last reading has left.

Numbers: t is int64 nanoseconds since 1970 UTC, value float64, valid bool; one array element a reading.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.ingest.events import Batch
from headrace.ingest.origin import Origin
from headrace.ingest.place import position_key
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import BrokenLog
from headrace.schemas.pipeline import Windows
from headrace.schemas.record import RecordBuilder, list_views
from headrace.shards.entry import split_digest

_MOST_READINGS = 1 << 20  #: of a window by event time
_META = b"headrace.open"
_KEPT = ("time_source", "group_id", "geometry", "license", "attribution", "rights", "extra")


_Key = tuple[str, str, str | None, str | None]  #: split digest, channel, unit, device


_Readings = tuple[Any, Any, Any]  #: t, value, valid


class _Row(NamedTuple):
    """A record of a message."""

    draft: pa.RecordBatch
    at: int
    flags: Iterable[str]

    def kept(self) -> dict[str, Any]:
        """What the first record of a window says for all of it."""
        return {name: self.draft.column(name)[self.at].as_py() for name in _KEPT}


@dataclass
class _Window:
    """The open readings of one channel of one split."""

    split: str
    channel: str
    unit: str | None
    device: str | None
    kept: dict[str, Any]  #: of its first reading
    flags: set[str] = field(default_factory=set)
    t: list[npt.NDArray[np.int64]] = field(default_factory=list)
    value: list[npt.NDArray[np.float64]] = field(default_factory=list)
    valid: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    item: list[tuple[int, int]] = field(default_factory=list)  #: (number of a message, its readings)
    size: int = 0

    def append(self, t: Any, value: Any, valid: Any, item: int) -> None:
        self.t.append(t)
        self.value.append(value)
        self.valid.append(valid)
        self.item.append((item, len(t)))
        self.size += len(t)

    def pop(self, count: int) -> tuple[Any, Any, Any, Any]:
        """The first `count` readings as flat arrays."""
        t, value, valid, item = self.arrays()
        self.t, self.value, self.valid = [t[count:]], [value[count:]], [valid[count:]]
        self.item = [(number, 1) for number in item[count:].tolist()]
        self.size -= count
        return t[:count], value[:count], valid[:count], item[:count]

    def arrays(self) -> tuple[Any, Any, Any, Any]:
        """t, value, valid and message number of every reading."""
        numbers = np.array(self.item, np.int64).reshape(-1, 2)
        return (
            np.concatenate(self.t),
            np.concatenate(self.value),
            np.concatenate(self.valid),
            np.repeat(numbers[:, 0], numbers[:, 1]),
        )

    @property
    def begin(self) -> int:
        """The first reading's time."""
        return int(next(part[0] for part in self.t if len(part)))


@dataclass
class _OpenItem:
    """A message some of whose readings are still waiting."""

    split: str
    position: str  #: canonical JSON
    left: int = 0
    ended: bool = False


class OpenWindows:
    """The open windows of one lane."""

    def __init__(self, settings: Windows) -> None:
        self._settings = settings
        self._width = None if settings.seconds is None else round(settings.seconds * 1e9)
        self._windows: dict[_Key, _Window] = {}
        self._items: dict[int, _OpenItem] = {}
        self._current: dict[str, int] = {}  #: split → the item whose readings are coming
        self._next = 0
        self._newest: dict[str, int] = {}  #: split → newest time stamp
        self._closed: dict[str, int] = {}
        self.changed = False  #: since `to_bytes`

    @property
    def open_items(self) -> int:
        """Messages of which something waits."""
        return len(self._items)

    def add(self, event: Batch) -> tuple[list[Batch], int]:
        """Take the readings of drafts: the windows that they close, each a draft of one record, in order.

        All messages but the last are at their end then; how many of those still wait for others comes second.
        """
        split = split_digest(event.origin.row.split.id)
        draft = event.draft
        names = zip(*(draft.column(name).to_pylist() for name in ("channel", "unit", "device")))
        views = zip(list_views(draft, "t"), list_views(draft, "value"), list_views(draft, "valid"))
        flags = draft.column("flags")
        found = flags.to_pylist() if flags.null_count < len(flags) else [None] * len(flags)
        closed: list[Batch] = []
        waiting = at = 0
        for number, origin in enumerate(event.origins):
            if number:
                waiting += self.end_item(split)
            item = self._item(split, origin)
            for _ in range(origin.rows):
                key, readings = (split, *next(names)), next(views)
                self._items[item].left += len(readings[0])
                row = _Row(draft, at, found[at] or ())
                closed += self._by_number(key, row, readings, item, origin) if self._width is None else self._by_time(
                    key, row, readings, item, origin
                )
                at += 1
            if self._width is not None:
                closed += self._overtaken(split, origin)
        self.changed = True
        return closed, waiting

    def end_item(self, split: str) -> bool:
        """The current message of a split (by digest) is at its end; whether some of it still waits."""
        number = self._current.pop(split, None)
        if number is None:
            return False
        item = self._items[number]
        item.ended = True
        self.changed = True
        if item.left:
            return True
        del self._items[number]
        return False

    def end_split(self, split: str, origin: Origin | None) -> Iterator[Batch]:
        """Nothing more comes of a split: its windows close as they are."""
        for key in [k for k in self._windows if k[0] == split]:
            window = self._windows[key]
            if window.size and origin is not None:
                yield self._emit(window, window.size, origin)

    def take_closed(self) -> dict[str, int]:
        """How many messages, per split digest, had ended before and have now left; forgets them."""
        closed, self._closed = self._closed, {}
        return closed

    # -- windows ------------------------------------------------------------------------------------------------------

    def _item(self, split: str, origin: Origin) -> int:
        number = self._current.get(split)
        if number is None:
            number = self._current[split] = self._next
            self._next += 1
            self._items[number] = _OpenItem(split, position_key(origin.item.position))
        return number

    def _window(self, key: _Key, row: _Row) -> _Window:
        window = self._windows.get(key)
        if window is None or not window.size:
            window = self._windows[key] = _Window(*key, kept=row.kept())
        window.flags.update(row.flags)
        return window

    def _by_number(self, key: _Key, row: _Row, readings: _Readings, item: int, origin: Origin) -> Iterator[Batch]:
        window = self._window(key, row)
        window.append(*readings, item)
        while window.size >= self._settings.samples:
            yield self._emit(window, self._settings.samples, origin)

    def _by_time(self, key: _Key, row: _Row, readings: _Readings, item: int, origin: Origin) -> Iterator[Batch]:
        t, value, valid = readings
        width = self._width or 1
        index = t // width
        borders = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(t)]
        for begin, end in itertools.pairwise(borders):
            if begin == end:
                continue
            window = self._window(key, row)
            part = (t[begin:end], value[begin:end], valid[begin:end])
            current = window.begin // width if window.size else None
            if current is not None and index[begin] < current:
                late = _Window(key[0], key[1], key[2], key[3], window.kept, {*window.flags, "late"})
                late.append(*part, item)
                yield self._emit(late, late.size, origin)
                continue
            if current is not None and (index[begin] > current or window.size >= _MOST_READINGS):
                yield self._emit(window, window.size, origin)
                window = self._window(key, row)
            window.append(*part, item)
        if len(t):
            self._newest[key[0]] = max(self._newest.get(key[0], int(t.max())), int(t.max()))

    def _overtaken(self, split: str, origin: Origin) -> Iterator[Batch]:
        """Windows of channels that fell silent: the split's newest reading lies beyond their end."""
        newest = self._newest.get(split)
        if newest is None or self._width is None:
            return
        for key in [k for k in self._windows if k[0] == split]:
            window = self._windows[key]
            if window.size and (window.begin // self._width + 1) * self._width <= newest:
                yield self._emit(window, window.size, origin)

    def _emit(self, window: _Window, count: int, origin: Origin) -> Batch:
        t, value, valid, items = window.pop(count)
        first, last = items[0], items[-1]
        builder = RecordBuilder("sensor")
        order = np.argsort(t, kind="stable") if self._width is not None else None
        if order is not None and not np.array_equal(order, np.arange(len(order))):
            t, value, valid = t[order], value[order], valid[order]
            window.flags.add("reordered")
        locator = {
            "channel": window.channel,
            "from": json.loads(self._items[int(first)].position),
            "samples": count,
            "to": json.loads(self._items[int(last)].position),
        }
        builder.add(
            locator=canonical_json(locator).decode(),
            t=t,
            value=value,
            valid=valid,
            channel=window.channel,
            unit=window.unit,
            device=window.device,
            event_time=int(t.min()) // 1000,
            event_end=int(t.max()) // 1000,
            valid_fraction=float(valid.mean()),
            flags=sorted(window.flags) or None,
            **window.kept,
        )
        if not window.size:
            self._windows.pop((window.split, window.channel, window.unit, window.device), None)
        numbers, counts = np.unique(items, return_counts=True)
        for number, n in zip(numbers.tolist(), counts.tolist()):
            item = self._items[number]
            item.left -= n
            if item.ended and not item.left:
                self._closed[item.split] = self._closed.get(item.split, 0) + 1
                del self._items[number]
        return Batch("sensor", builder.finish(), [origin._replace(rows=1)])

    # -- the carry file -----------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """An Arrow IPC stream: a row a window, the open messages in the schema's metadata."""
        self.changed = False
        windows = [w for w in self._windows.values() if w.size]
        heads = [
            json.dumps([w.split, w.channel, w.unit, w.device, {**w.kept, "geometry": _hex(w.kept)}, sorted(w.flags)])
            for w in windows
        ]
        kinds = {"t": pa.int64(), "value": pa.float64(), "valid": pa.bool_(), "item": pa.int64()}
        parts = list(zip(*(w.arrays() for w in windows))) or [(), (), (), ()]
        columns = [pa.array(heads, pa.string())]
        columns += [pa.array([p.tolist() for p in part], pa.list_(kind)) for part, kind in zip(parts, kinds.values())]
        meta = {
            "items": {str(n): [i.split, i.position, i.left, i.ended] for n, i in self._items.items()},
            "current": self._current,
            "newest": self._newest,
            "next": self._next,
        }
        schema = pa.schema(
            [("head", pa.string()), *((name, pa.list_(kind)) for name, kind in kinds.items())],
            metadata={_META: json.dumps(meta, sort_keys=True)},
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        data: bytes = sink.getvalue().to_pybytes()
        return data

    @classmethod
    def from_bytes(cls, settings: Windows, data: bytes, name: str) -> OpenWindows:
        """What a lane carried. Raises: BrokenLog if the file is not one."""
        made = cls(settings)
        try:
            reader = pa.ipc.open_stream(data)
            meta = json.loads((reader.schema.metadata or {})[_META])
            rows = reader.read_all().to_pylist()
        except (pa.ArrowInvalid, KeyError, ValueError) as exc:
            raise BrokenLog(f"{name} is no file of open windows: {exc}") from exc
        made._items = {int(n): _OpenItem(*value) for n, value in meta["items"].items()}
        made._current, made._newest, made._next = meta["current"], meta["newest"], meta["next"]
        for row in rows:
            split, channel, unit, device, kept, flags = json.loads(row["head"])
            geometry = kept.pop("geometry")
            kept["geometry"] = None if geometry is None else bytes.fromhex(geometry)
            window = _Window(split, channel, unit, device, kept, set(flags))
            window.t, window.value = [np.array(row["t"], np.int64)], [np.array(row["value"], np.float64)]
            window.valid, window.item = [np.array(row["valid"], np.bool_)], [(number, 1) for number in row["item"]]
            window.size = len(row["t"])
            made._windows[split, channel, unit, device] = window
        return made


def _hex(kept: dict[str, Any]) -> str | None:
    return None if kept["geometry"] is None else kept["geometry"].hex()
