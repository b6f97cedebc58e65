"""Rows as text: JSON lines of the columns that are no numbers, and runs of bad rows as one quarantined piece each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.canonical import canonical_json

MAX_TEXT = 1 << 20  #: characters after which a text record ends at the next row, as documents do
MAX_RAW = 1 << 16  #: raw bytes kept of one run of bad rows
MAX_NEWS = 1000  #: runs of bad rows of one table that are told apart


class TextRows:
    """Collects lines and gives a text record of each `size` rows, or earlier where they grow beyond MAX_TEXT."""

    def __init__(
        self,
        size: int,
        *,
        time_source: str,
        absolute: bool,
        place: Mapping[str, Any] | None = None,
        row_key: str = "first_row",
        order: int = -1,
    ) -> None:
        self.size = size
        self.time_source = time_source
        self.absolute = absolute
        self.flags: set[str] = set()
        self.row_key = row_key
        self.place = dict(place or {})
        self.order = order
        self._lines: list[str] = []
        self._times: list[int] = []
        self._first = self._last = 0
        self._length = 0

    def add(self, row: int, line: str, t: int | None) -> Draft | None:
        """Take one line; `t` in ns, or None where it is not known. Gives the record that became full."""
        if not self._lines:
            self._first = row
        self._lines.append(line)
        self._last = row
        self._length += len(line) + 1
        if t is not None:
            self._times.append(t)
        if len(self._lines) >= self.size or self._length >= MAX_TEXT:
            return self.finish()
        return None

    def finish(self, flags: Sequence[str] = ()) -> Draft | None:
        """The record of the lines that are left."""
        if not self._lines:
            return None
        locator = {**self.place, self.row_key: self._first, "text_rows": len(self._lines)}
        columns: dict[str, Any] = {
            "locator": canonical_json(locator).decode(),
            "text": "".join(f"{line}\n" for line in self._lines),
            "flags": sorted(self.flags | set(flags)) or None,
        }
        if self._times and self.absolute:
            columns |= {
                "event_time": min(self._times) // 1000,
                "event_end": max(self._times) // 1000,
                "time_source": self.time_source,
            }
        self._lines, self._times, self._length = [], [], 0
        return Draft("text", columns, self._last, (self.order,))


@dataclass(frozen=True)
class BadRow:
    """One row that could not be had; `locator` says where (`{"line":12}`)."""

    row: int
    reason: str
    message: str
    locator: Mapping[str, Any] = field(default_factory=dict)
    data: bytes | None = None


class BadRuns:
    """Joins bad rows that follow each other with one reason: a broken stretch is one piece of news, not 10,000.

    After MAX_NEWS pieces the rest of one reason is joined even where good rows lie between.
    """

    def __init__(self) -> None:
        self._open: BadRow | None = None
        self._count = 0
        self._next = 0
        self._data: list[bytes] = []
        self._kept = 0
        self._given = 0

    @property
    def full(self) -> bool:
        """Whether there is enough news: the bytes of more bad rows are not wanted."""
        return self._given >= MAX_NEWS and self._kept >= MAX_RAW

    @property
    def last_row(self) -> int:
        """The last row of the open run, -1 if there is none."""
        return -1 if self._open is None else self._next - 1

    def add(self, bad: BadRow, count: int = 1) -> Bad | None:
        """Take the next bad row in row order, or `count` of them at once; gives the run before if that has ended."""
        same = self._open is not None and bad.reason == self._open.reason
        ended = None
        if not same or (bad.row != self._next and self._given < MAX_NEWS):
            ended = self.finish()
            self._open, self._count, self._data, self._kept = bad, 0, [], 0
        self._count += count
        self._next = bad.row + count
        if bad.data is not None and self._kept < MAX_RAW:
            self._data.append(bad.data)
            self._kept += len(bad.data)
        return ended

    def finish(self) -> Bad | None:
        """The run that is open."""
        bad, self._open = self._open, None
        if bad is None:
            return None
        self._given += 1
        locator = dict(bad.locator) if self._count == 1 else {**bad.locator, "rows": self._count}
        message = bad.message if self._count == 1 else f"{self._count} rows, the first: {bad.message}"
        raw = b"\n".join(self._data)[:MAX_RAW] if self._data else None
        return Bad(bad.reason, message, canonical_json(locator).decode(), raw)


def json_lines(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> Iterator[str]:
    """A canonical JSON object of each row; columns of equal length."""
    for row in zip(*columns):
        yield canonical_json(dict(zip(names, row))).decode()
