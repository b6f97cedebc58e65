"""What an answer holds: its body divided into elements, each with its id, time and digest. No input or output.

    none    the body is one element, of any format
    items   the elements of a JSON array, spelled as the server spelled them
    lines   each line that is not empty; id and time are looked for where it is a JSON object
    rows    each row of a CSV table, with the header before it
    feed    each entry of an RSS or Atom feed, as a JSON object
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from headrace.connectors.http_poll_config import HttpPollConfig
from headrace.connectors.http_poll_feed import entry_bytes, entry_time_us, feed_entries
from headrace.connectors.http_poll_json import ABSENT, elements, parsed, place_of, value_at
from headrace.connectors.message_fields import TimeUnit, event_time_us
from headrace.schemas.errors import RecordError

DIGEST_CHARS = 20  #: 80 bits: among 2^20 elements two share one with a chance of 2^-41


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a body. `digest`: of its id and content, or of its id alone where changes are ignored."""

    data: bytes
    id: str | None
    time: int | None  #: microseconds since 1970 UTC
    digest: str

    @property
    def key(self) -> str:
        """What tells it from all others: id and content."""
        return self.digest if self.id is None else f"{self.id}@{self.digest}"


@dataclass(frozen=True)
class Page:
    """The elements of an answer, and the document if it is JSON (for the link to the next page)."""

    elements: list[Element]
    document: Any = None


def divided(body: bytes, config: HttpPollConfig) -> Page:
    """What an answer holds. Raises: RecordError if it is not what the settings say."""
    make = _Maker(config)
    if config.divide == "items":
        text, document = parsed(body)
        return Page([make.of_json(raw.encode(), value) for raw, value in elements(text, make.items)], document)
    if config.divide == "lines":
        return Page([make.of_line(line) for raw in body.splitlines() if (line := raw.strip())])
    if config.divide == "rows":
        return Page(_rows(body, make))
    if config.divide == "feed":
        entries = feed_entries(body)
        return Page([make.element(entry_bytes(e), e.get("id"), entry_time_us(e)) for e in entries])
    document = parsed(body)[1] if config.next.startswith("/") else None
    return Page([make.element(body, None, None)], document)


class _Maker:
    """Finds ids and times as the settings say."""

    def __init__(self, config: HttpPollConfig) -> None:
        self.config = config
        self.items = place_of(config.items or "")
        self._id = [place_of(path) for path in config.id]
        self._time = None if config.time is None else place_of(config.time.field)

    def element(self, data: bytes, id: str | None, time: int | None) -> Element:
        state = hashlib.sha256((id or "").encode("utf-8", "surrogatepass") + b"\0")
        if id is None or self.config.changed == "again":
            state.update(data)
        return Element(data, id, time, state.hexdigest()[:DIGEST_CHARS])

    def of_json(self, data: bytes, value: Any) -> Element:
        ids = [id_text(value_at(value, place)) for place in self._id]
        # Half an id would make two elements one.
        id = "/".join(ids) if ids and None not in ids else None  # type: ignore[arg-type]
        time = None if self._time is None else self.time_us(value_at(value, self._time))
        return self.element(data, id, time)

    def of_line(self, line: bytes) -> Element:
        if not self._id and self._time is None:
            return self.element(line, None, None)
        try:
            return self.of_json(line, orjson.loads(line))
        except orjson.JSONDecodeError:
            return self.element(line, None, None)  # its record says what is wrong with it

    def of_row(self, data: bytes, header: Sequence[str], row: Sequence[str]) -> Element:
        return self.of_json(data, dict(zip(header, row)))

    def time_us(self, value: Any) -> int | None:
        """A time as the settings say it is written; None if it is none."""
        assert self.config.time is not None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        return time_us(str(value), self.config.time.unit, self.config.time.zone)


def time_us(text: str, unit: TimeUnit, zone: str | None) -> int | None:
    """Microseconds since 1970 UTC; `zone` completes an ISO 8601 time that names none."""
    if unit == "iso" and zone is not None and len(text) <= 40:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        if moment.tzinfo is None:
            text = moment.isoformat() + zone
    return event_time_us(text, unit)


def id_text(value: Any) -> str | None:
    """A string, integer or boolean as an id; floats are none, since one number may be printed in two ways."""
    if isinstance(value, str):
        return value or None
    return orjson.dumps(value).decode() if value is not ABSENT and isinstance(value, bool | int) else None


def _rows(body: bytes, make: _Maker) -> list[Element]:
    # surrogateescape: bytes that are no UTF-8 come out again as they went in.
    lines = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff").splitlines(keepends=True)
    reader = csv.reader(lines, delimiter=make.config.delimiter, strict=True)
    out: list[Element] = []
    header: list[str] | None = None
    head = ""
    begin = 0
    try:
        for row in reader:
            text = "".join(lines[begin : reader.line_num])
            begin = reader.line_num
            if header is None:
                header, head = row, text
            elif row:
                data = (head + text).encode("utf-8", "surrogateescape")
                out.append(make.of_row(data, header, row))
    except csv.Error as exc:
        raise RecordError("invalid_row", f"line {reader.line_num} of the table: {exc}") from exc
    return out
