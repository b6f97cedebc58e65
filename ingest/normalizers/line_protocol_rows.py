"""Points of line protocol as rows.

As readings, each measurement with its tags is a series of its own, as in InfluxDB: the channel is `measurement.field`,
the device is the tags as they would be written (`host=a,region=north`), the time is the stamp; a point without one has
the time at which its message was stamped by the broker, if it was. As text, a point is an object:

    {"measurement": …, "tags": {…}, "fields": {…}, "time": …}

Many lines are read in pieces of some megabytes, cut at a line's end outside quotes.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, BinaryIO

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.line_protocol import BadLine, Point, decoded, points
from headrace.ingest.normalizers.payload_rows import Decoded, Rows
from headrace.ingest.normalizers.sensor_rows import MAX_RAW, BadRow
from headrace.schemas.errors import RecordError

_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_PIECE = 4 << 20
_LINE = 64 << 20  #: bytes of one line
_INT64 = range(-(1 << 63), 1 << 63)
_EPOCH = dt.datetime(1970, 1, 1)


class LineReader:
    """Reads line protocol in one unit of time."""

    def __init__(self, precision: str, limits: Limits) -> None:
        self._unit = _NS[precision]
        self._most = min(_LINE, limits.max_bytes // 16)

    def rows(self, blob: Blob, *, points: bool, arrived_us: int | None) -> Rows:
        """The points of an item. Raises: RecordError."""
        ordinal = 0
        with blob.open() as stream:
            for row in self._rows(stream, points, arrived_us):
                ordinal += 1
                yield row
        if ordinal == 0:
            raise RecordError("empty", "there is no point in it")

    def _rows(self, stream: BinaryIO, readings: bool, arrived_us: int | None) -> Rows:
        held, at, ordinal = b"", 0, 0  # `at`: the byte of the item where `held` begins
        while True:
            more = stream.read(_PIECE)
            held += more
            ends = held.rfind(b"\n") + 1 if more else len(held)
            text, utf8 = _text_of(held[:ends])
            used = seen = 0  # bytes and characters of the piece that are behind us
            for begin, end, found in points(text):
                if more and isinstance(found, BadLine) and found.unclosed:
                    break  # its string may end in the next piece
                used += _bytes(text, seen, begin)
                raw = text[begin:end].encode("utf-8", "surrogateescape")
                yield self._row(ordinal, at + used, raw, found, utf8, readings, arrived_us)
                used, seen, ordinal = used + len(raw), end, ordinal + 1
            else:
                used = ends
            held, at = held[used:], at + used
            if not more:
                return
            if len(held) > self._most:
                raise RecordError("too_large", f"the line at byte {at} is longer than {self._most} bytes")

    def _row(
        self,
        ordinal: int,
        byte: int,
        raw: bytes,
        found: Point | BadLine,
        utf8: bool,
        readings: bool,
        arrived: int | None,
    ) -> Decoded | BadRow:
        place = {"item": ordinal, "byte": byte}
        if not utf8:
            try:
                decoded(raw)
            except RecordError as exc:
                return BadRow(ordinal, exc.reason, exc.message, place, raw[:MAX_RAW])
        if isinstance(found, BadLine):
            return BadRow(ordinal, "invalid_row", found.message, place, raw[:MAX_RAW])
        t = None if found.stamp is None else found.stamp * self._unit
        if t is None and arrived is not None:
            t = arrived * 1000
        if t is not None and t not in _INT64:
            message = f"the stamp {found.stamp} is beyond what 64 bits of nanoseconds hold: is `precision` right?"
            return BadRow(ordinal, "no_time", message, place, raw[:MAX_RAW])
        if not readings:
            return Decoded(ordinal, {"item": ordinal}, _written(found, t), raw[:MAX_RAW])
        value = {f"{found.measurement}.{name}": held for name, held in found.fields.items()}
        return Decoded(ordinal, {"item": ordinal}, value, raw[:MAX_RAW], t, _series(found))


def _bytes(text: str, begin: int, end: int) -> int:
    return len(text[begin:end].encode("utf-8", "surrogateescape"))


def _text_of(piece: bytes) -> tuple[str, bool]:
    """(text, whether it is UTF-8); bytes that are not stand as lone surrogates, so that only their line is bad."""
    try:
        return piece.decode("utf-8"), True
    except UnicodeDecodeError:
        return piece.decode("utf-8", "surrogateescape"), False


def _series(point: Point) -> str | None:
    """Its tags, in one spelling."""
    return ",".join(f"{key}={value}" for key, value in sorted(point.tags.items())) or None


def _written(point: Point, t: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {"measurement": point.measurement, "tags": point.tags, "fields": point.fields}
    if t is not None:
        seconds, ns = divmod(t, 1_000_000_000)
        row["time"] = f"{(_EPOCH + dt.timedelta(seconds=seconds)).isoformat()}.{ns:09d}Z"
    return row
