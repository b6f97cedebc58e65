"""ULog flight logs as channels `topic/field`: read message by message, so memory holds one window a topic.

The log counts microseconds since boot. The first GPS message with a UTC time tells when that was; without one the times
are relative. Nested types are flattened with dots, arrays with indices; fields of characters and log messages become
text, parameters and information one record of text. Where a message cannot be, reading goes on at the next sync mark.

    16 bytes: "ULog" 01 12 35 | version | u64 µs         then messages: u16 size | u8 type | size bytes F format  A
    subscribe  R unsubscribe  D data  L, C log lines  I, M information  P, Q parameters  B flags  S sync  O dropout

Source: docs.px4.io, "ULog File Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_objects import jsonable
from headrace.ingest.normalizers.sensor_rows import TextRows
from headrace.ingest.normalizers.sensor_series import Channel, Draft, Series, Values
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

Events = Iterator[Draft | Bad]

MAGIC = b"ULog\x01\x12\x35"
SYNC = b"\x2f\x73\x13\x20\x25\x0c\xbb\x12"
_TYPES = {
    "int8_t": "i1",
    "uint8_t": "u1",
    "int16_t": "<i2",
    "uint16_t": "<u2",
    "int32_t": "<i4",
    "uint32_t": "<u4",
    "int64_t": "<i8",
    "uint64_t": "<u8",
    "float": "<f4",
    "double": "<f8",
    "bool": "u1",
    "char": "S1",
}
_KNOWN = frozenset(b"BFIMPQARDLCSO")
_LEVELS = ("EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG")
MAX_FIELDS = 4096  #: of one topic, nested ones counted


@dataclass
class _Topic:
    name: str
    dtype: np.dtype[Any]
    names: list[str]
    texts: list[str]
    padded: int  #: bytes of a message with its padding at the end
    raw: bytearray = field(default_factory=bytearray)
    rows: int = 0
    series: Series | None = None
    text: TextRows | None = None
    said: str = ""


class UlogLog:
    """One flight log."""

    def __init__(self, stream: BinaryIO, size: int, config: SensorConfig) -> None:
        self._stream = stream
        self._size = size
        self._config = config
        self._formats: dict[str, list[tuple[str, int, str]]] = {}
        self._topics: dict[int, _Topic] = {}
        self._all: list[_Topic] = []
        self._offset: int | None = None
        self._about: dict[str, Any] = {"info": {}, "parameters": {}}
        self._bad: list[Bad] = []
        self._cut = False

    def events(self) -> Events:
        """All records. Raises: RecordError."""
        self._offset = self._utc_offset()
        source = "ulog:gps" if self._offset is not None else "ulog:boot"
        self._log = TextRows(
            self._config.text_rows,
            time_source=source,
            absolute=self._offset is not None,
            place={"topic": "log"},
            row_key="line",
        )
        lines = 0
        for kind, body, _ in self._messages(self._bad):
            if kind == b"F":
                self._format(body)
            elif kind == b"A":
                self._subscribe(body)
            elif kind == b"R" and len(body) >= 2:
                self._topics.pop(struct.unpack_from("<H", body)[0], None)
            elif kind == b"D":
                yield from self._data(body)
            elif kind in (b"L", b"C", b"O"):
                line = self._line(kind, body)
                if line is not None and self._config.keeps_text:
                    draft = self._log.add(lines, canonical_json(line).decode(), line.get("t"))
                    lines += 1
                    if draft is not None:
                        yield draft
            elif kind in (b"I", b"M", b"P", b"Q"):
                self._inform(kind, body)
            while self._bad:
                yield self._bad.pop(0)
        flags = ("truncated",) if self._cut else ()
        for topic in self._all:
            yield from self._flush(topic)
            if topic.series is not None:
                yield from topic.series.finish(flags)
            if topic.text is not None and (text := topic.text.finish(flags)) is not None:
                yield text
        if (text := self._log.finish(flags)) is not None:
            yield text
        if self._config.keeps_text and any(self._about.values()):
            yield Draft(
                "text",
                {
                    "locator": canonical_json({"topic": "about"}).decode(),
                    "text": canonical_json(jsonable(self._about)).decode() + "\n",
                },
                0,
            )
        if self._cut:
            raise RecordError("truncated", f"the log ends inside a message at byte {self._size}")

    # the file ---------------------------------------------------------------------------------------------------------

    def _messages(self, bad: list[Bad] | None) -> Iterator[tuple[bytes, bytes, int]]:
        """(type, body, offset) of every message; where none can be, `bad` gets what lies before the next sync mark."""
        self._stream.seek(0)
        head = self._stream.read(16)
        if len(head) < 16 or not head.startswith(MAGIC):
            raise RecordError(
                "corrupt" if len(head) == 16 else "truncated",
                f"a ULog begins with {MAGIC.hex(' ')} and a time, this one with {head[:8].hex(' ')}",
            )
        at = 16
        appended: list[int] = []
        while at < self._size:
            prefix = self._stream.read(3)
            if len(prefix) < 3:
                self._cut = True
                return
            length, kind = struct.unpack("<HB", prefix)
            if kind not in _KNOWN or length == 0:
                at = self._resync(at, bad)
                continue
            # What was appended later begins at a fixed place, in the middle of a message that was cut off there.
            border = next((offset for offset in appended if at < offset < at + 3 + length), None)
            if border is not None:
                self._stream.seek(border)
                at = border
                continue
            body = self._stream.read(length)
            if len(body) < length:
                self._cut = True
                return
            if kind == ord("B") and length >= 40:
                appended = sorted(o for o in struct.unpack_from("<QQQ", body, 16) if 16 < o < self._size)
                if any(body[8:16][1:]) or body[8] & ~1:
                    raise RecordError(
                        "unsupported:ulog",
                        f"the log sets incompatible flags that are not known ({body[8:16].hex(' ')})",
                    )
            yield bytes([kind]), body, at
            at += 3 + length

    def _resync(self, at: int, bad: list[Bad] | None) -> int:
        """Goes to after the next sync mark; returns where that is."""
        self._stream.seek(at)
        position, tail = at, b""
        found = -1
        while found < 0 and (data := self._stream.read(1 << 16)):
            window = tail + data
            found = window.find(SYNC)
            if found >= 0:
                position = position - len(tail) + found + len(SYNC)
                break
            position += len(data)
            tail = window[-(len(SYNC) - 1) :]
        if bad is not None:
            where = canonical_json({"byte": at, "bytes": position - at}).decode()
            bad.append(Bad("corrupt", f"no message can be at byte {at}; reading goes on at byte {position}", where))
        self._stream.seek(position)
        return position

    def _utc_offset(self) -> int | None:
        """Microseconds from boot to 1970, from the first GPS message that knows the time; None if none does."""
        for kind, body, _ in self._messages(None):
            if kind == b"F":
                self._format(body)
            elif kind == b"A":
                self._subscribe(body)
            elif kind == b"D" and len(body) >= 2:
                topic = self._topics.get(struct.unpack_from("<H", body)[0])
                if topic is not None and "time_utc_usec" in topic.names and len(body) - 2 >= topic.dtype.itemsize:
                    row = np.frombuffer(body, topic.dtype, 1, 2)
                    utc, boot = int(row["time_utc_usec"][0]), int(row["timestamp"][0])
                    if utc > 1_000_000_000_000_000:
                        self._reset()
                        return utc - boot
        self._reset()
        return None

    def _reset(self) -> None:
        self._formats, self._topics, self._all, self._cut = {}, {}, [], False

    # messages ---------------------------------------------------------------------------------------------------------

    def _format(self, body: bytes) -> None:
        name, _, fields = body.decode("utf-8", "replace").partition(":")
        found: list[tuple[str, int, str]] = []
        for part in filter(None, fields.split(";")):
            kind, _, label = part.strip().partition(" ")
            base, bracket, count = kind.partition("[")
            digits = count.rstrip("]")
            if not label or (bracket and not digits.isdigit()):
                return
            found.append((base, int(digits) if bracket else 0, label))
        self._formats[name] = found

    def _subscribe(self, body: bytes) -> None:
        if len(body) < 4:
            return
        instance, number = struct.unpack_from("<BH", body)
        kind = body[3:].decode("utf-8", "replace")
        flat: list[tuple[str, str]] = []
        if not self._flatten(kind, "", flat, 0):
            return
        while flat and flat[-1][0].rsplit(".", 1)[-1].startswith("_padding"):
            flat.pop()
        names = [name for name, _ in flat]
        if "timestamp" not in names or len(set(names)) != len(names):
            return
        dtype = np.dtype(flat)
        if dtype["timestamp"] != np.dtype("<u8"):
            return
        texts = [name for name, code in flat if code.startswith("S")]
        label = f"{kind}:{instance}" if instance else kind
        topic = _Topic(label, dtype, names, texts, dtype.itemsize)
        self._topics[number] = topic
        self._all.append(topic)

    def _flatten(self, kind: str, prefix: str, out: list[tuple[str, str]], depth: int) -> bool:
        """Appends (name, numpy type) of every field; False if a type is unknown or there are too many."""
        if kind not in self._formats or depth > 8:
            return False
        for base, count, label in self._formats[kind]:
            if base == "char" and count:
                out.append((prefix + label, f"S{count}"))
            elif base in _TYPES:
                names = (
                    [f"{prefix}{label}[{i}]" for i in range(min(count, MAX_FIELDS + 1))] if count else [prefix + label]
                )
                out += [(name, _TYPES[base]) for name in names]
            else:
                for inner in (
                    [f"{prefix}{label}[{i}]." for i in range(min(count, MAX_FIELDS))]
                    if count
                    else [f"{prefix}{label}."]
                ):
                    if not self._flatten(base, inner, out, depth + 1):
                        return False
            if len(out) > MAX_FIELDS:
                return False
        return True

    def _data(self, body: bytes) -> Events:
        topic = self._topics.get(struct.unpack_from("<H", body)[0]) if len(body) >= 2 else None
        if topic is None or len(body) - 2 < topic.dtype.itemsize:
            return
        topic.raw += body[2 : 2 + topic.dtype.itemsize]
        if len(topic.raw) >= topic.dtype.itemsize * min(self._config.window, 4096):
            yield from self._flush(topic)

    def _flush(self, topic: _Topic) -> Events:
        count = len(topic.raw) // topic.dtype.itemsize
        if count == 0:
            return
        table = np.frombuffer(bytes(topic.raw), topic.dtype)
        topic.raw = bytearray()
        rows = np.arange(topic.rows, topic.rows + count, dtype=np.int64)
        topic.rows += count
        micros = table["timestamp"].astype(np.int64) + (self._offset or 0)
        t = np.where(np.abs(micros) < 9_223_372_036_854_775, micros, 0) * 1000
        numbers = [n for n in topic.names if n not in topic.texts and n != "timestamp" and self._wanted(topic, n)]
        if topic.series is None:
            topic.series = self._new_series(topic, numbers)
        yield from topic.series.add(rows, t, [_values(table[n], self._config.missing_numbers) for n in numbers])
        if topic.texts and self._config.keeps_text:
            yield from self._texts(topic, table, rows, t)

    def _wanted(self, topic: _Topic, name: str) -> bool:
        wanted = self._config.channels
        return wanted == "all" or f"{topic.name}/{name}" in wanted

    def _new_series(self, topic: _Topic, numbers: list[str]) -> Series:
        units = self._config.channels if isinstance(self._config.channels, dict) else {}
        channels = []
        for name in numbers:
            kind = topic.dtype[name]
            channels.append(
                Channel(
                    f"{topic.name}/{name}",
                    units.get(f"{topic.name}/{name}") or ("deg" if name in ("latitude_deg", "longitude_deg") else None),
                    transforms=() if kind == np.float64 else (f"{kind.newbyteorder('=').name}->float64",),
                )
            )
        position = ("latitude_deg", "longitude_deg")
        known = self._offset is not None
        series = Series(
            channels,
            self._config.window,
            place={"topic": topic.name},
            row_key="message",
            time_source="ulog:gps" if known else "ulog:boot",
            absolute=known,
            position=(numbers.index(position[0]), numbers.index(position[1]))
            if set(position) <= set(numbers)
            else None,
        )
        if not known:
            series.flags.add("relative_time")
        return series

    def _texts(self, topic: _Topic, table: Any, rows: Any, t: Any) -> Events:
        if topic.text is None:
            source = "ulog:gps" if self._offset is not None else "ulog:boot"
            topic.text = TextRows(
                self._config.text_rows,
                time_source=source,
                absolute=self._offset is not None,
                place={"topic": topic.name},
                row_key="message",
            )
        for i in range(len(table)):
            said = {name: table[name][i].decode("utf-8", "replace") for name in topic.texts}
            line = canonical_json(said).decode()
            if line == topic.said:
                continue
            topic.said = line
            draft = topic.text.add(int(rows[i]), canonical_json({**said, "t": int(t[i])}).decode(), int(t[i]))
            if draft is not None:
                yield draft

    def _line(self, kind: bytes, body: bytes) -> dict[str, Any] | None:
        if kind == b"O":
            return {"dropout_ms": struct.unpack_from("<H", body)[0]} if len(body) >= 2 else None
        start = 9 if kind == b"L" else 11
        if len(body) < start:
            return None
        (micros,) = struct.unpack_from("<Q", body, start - 8)
        level = body[0] - ord("0")
        t = (micros + (self._offset or 0)) * 1000
        return {
            "level": _LEVELS[level] if 0 <= level < len(_LEVELS) else str(body[0]),
            "message": body[start:].decode("utf-8", "replace"),
            **({"t": t} if abs(t) < 2**63 else {}),
        }

    def _inform(self, kind: bytes, body: bytes) -> None:
        """Information and parameters by key; several pieces of one key are joined in a list."""
        at = 1 if kind in (b"M", b"Q") else 0
        if len(body) < at + 1:
            return
        length = body[at]
        typed, value = body[at + 1 : at + 1 + length].decode("utf-8", "replace"), body[at + 1 + length :]
        base, _, key = typed.partition(" ")
        found: Any = value.hex()
        if base.startswith("char"):
            found = value.rstrip(b"\0").decode("utf-8", "replace")
        elif base in _TYPES and len(value) >= np.dtype(_TYPES[base]).itemsize:
            found = np.frombuffer(value, _TYPES[base], 1)[0].item()
        if kind == b"M":
            self._about["info"].setdefault(key, []).append(found)
        else:
            part: dict[str, Any] = self._about["info"] if kind == b"I" else self._about["parameters"]
            part[key if kind != b"Q" else f"{key} (default)"] = found


def _values(column: Any, missing: Mapping[Any, Any] | tuple[float, ...]) -> Values:
    value = column.astype(np.float64)
    valid = np.isfinite(value)
    value = np.where(np.isnan(value), np.nan, value)
    lossy = None
    if column.dtype.kind in "iu" and column.dtype.itemsize == 8:
        large = np.abs(value) > 2**53
        lossy = (
            np.array([bool(big) and int(v) != int(w) for big, v, w in zip(large, value, column)])
            if large.any()
            else None
        )
    for number in missing:
        valid &= value != number
    return Values(value, valid, lossy)
