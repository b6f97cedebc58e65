"""Cuts the bytes of one connection into messages, in bounded memory.

    lines    a message ends at LF or CR LF
    octets   RFC 6587, 3.4.1: its length in decimal, a space, so many bytes:  5 hello11 hello world
    auto     octets if the connection begins like a counted syslog message (`83 <34>1 …`), else lines
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Framing = Literal["auto", "lines", "octets"]
KEPT_BYTES = 1 << 16  #: of a message that is too long
_COUNTED = re.compile(rb"[1-9][0-9]{0,8} <[0-9]")
_MAY_BE_COUNTED = re.compile(rb"[1-9][0-9]{0,8}(?: <?)?")
_COUNT = re.compile(rb"([1-9][0-9]{0,8}) ")
_COUNT_BEGUN = re.compile(rb"(?:[1-9][0-9]{0,8})?")


@dataclass(frozen=True)
class Frame:
    """One message; for one that cannot be taken the reason, and what there is of it."""

    data: bytes
    reason: str | None = None
    message: str = ""


class Frames:
    """The messages of one connection."""

    def __init__(self, framing: Framing, max_bytes: int) -> None:
        self._framing = framing
        self._max = max_bytes
        self._buffer = bytearray()
        self._kept: bytes | None = None  #: the beginning of a message that is being passed over
        self._passed = 0  #: bytes of it that are gone
        self._left = 0  #: bytes of it that come yet, if they are counted
        self.broken = False  #: nothing more can be told apart in this connection

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Messages that are complete with `data`."""
        self._buffer += data
        if self._framing == "auto":
            if _COUNTED.match(self._buffer):
                self._framing = "octets"
            elif not _MAY_BE_COUNTED.fullmatch(self._buffer):
                self._framing = "lines"
            else:
                return  # the first bytes decide
        yield from self._counted() if self._framing == "octets" else self._lines()

    def end(self, cut: bool) -> Iterator[Frame]:
        """What is left when the connection ends. cut: it broke, so nobody knows whether the last message was whole."""
        data = self._kept if self._kept is not None else bytes(self._buffer)
        if self._kept is not None:
            yield Frame(data, "too_large", f"a message of more than {self._max} bytes, and the connection ended in it")
        elif data and (cut or self._framing == "octets"):
            yield Frame(data[:KEPT_BYTES], "truncated", f"the connection ended after {len(data)} bytes of a message")
        elif data:
            yield Frame(data)
        self._buffer.clear()
        self._kept = None

    def _lines(self) -> Iterator[Frame]:
        begin = 0
        while (found := self._buffer.find(b"\n", begin)) >= 0:
            raw = bytes(memoryview(self._buffer)[begin:found])
            begin = found + 1
            if self._kept is not None:
                yield self._too_long(self._passed + len(raw))
            elif len(raw) > self._max:
                yield Frame(raw[:KEPT_BYTES], "too_large", f"a line of {len(raw)} bytes; {self._max} are allowed")
            elif line := raw.removesuffix(b"\r"):
                yield Frame(line)
        del self._buffer[:begin]
        if self._kept is not None or len(self._buffer) > self._max:
            self._kept = bytes(self._buffer[:KEPT_BYTES]) if self._kept is None else self._kept
            self._passed += len(self._buffer)
            self._buffer.clear()

    def _counted(self) -> Iterator[Frame]:
        while self._buffer and not self.broken:
            if self._kept is not None:
                passed = min(self._left, len(self._buffer))
                self._kept = (self._kept + bytes(self._buffer[:passed]))[:KEPT_BYTES]
                del self._buffer[:passed]
                self._left -= passed
                if self._left:
                    return
                yield self._too_long(self._passed)
                continue
            count = _COUNT.match(self._buffer)
            if count is None:
                if _COUNT_BEGUN.fullmatch(self._buffer):
                    return
                self.broken = True
                found = bytes(self._buffer[:16])
                message = f"the length of a message was expected (RFC 6587), {found!r} came; the connection is closed"
                yield Frame(bytes(self._buffer[:KEPT_BYTES]), "corrupt", message)
                self._buffer.clear()
                return
            size = int(count[1])
            if size > self._max:
                del self._buffer[: count.end()]
                self._kept, self._passed, self._left = b"", size, size
            elif len(self._buffer) >= count.end() + size:
                data = bytes(memoryview(self._buffer)[count.end() : count.end() + size])
                del self._buffer[: count.end() + size]
                if data := data.rstrip(b"\r\n\0"):
                    yield Frame(data)
            else:
                return

    def _too_long(self, size: int) -> Frame:
        kept, self._kept, self._passed = self._kept or b"", None, 0
        return Frame(kept, "too_large", f"a message of {size} bytes; {self._max} are allowed")


# -- syslog ------------------------------------------------------------------------------------------------------------

_PRI = re.compile(rb"<(\d{1,3})>")
_RFC5424 = re.compile(rb"1 (\S+) (\S+) (\S+) (\S+) (\S+) ")
_RFC3164 = re.compile(rb"([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (\S+) (?:([^\s:\[]{1,64})(?:\[([^\]\s]{1,64})\])?:)?")


def syslog_headers(data: bytes) -> dict[str, str]:
    """What the head of a syslog message says, under `syslog.…`; the text itself is not altered.

    RFC 5424   `<34>1 2003-10-11T22:14:15.003Z host app procid msgid …`
    RFC 3164   `<34>Oct 11 22:14:15 host tag[pid]: …`; its time has neither year nor zone

    Nothing for a message without a priority from 0 to 191: it is text all the same (RFC 3164, 4.3.3).
    """
    pri = _PRI.match(data)
    if pri is None or int(pri[1]) > 191:
        return {}
    out = {"syslog.facility": str(int(pri[1]) >> 3), "syslog.severity": str(int(pri[1]) & 7)}
    rest = data[pri.end() :]
    found = _RFC5424.match(rest) or _RFC3164.match(rest)
    if found is not None:
        for name, value in zip(("time", "host", "app", "procid", "msgid"), found.groups()):
            if value is not None and value != b"-":
                out[f"syslog.{name}"] = value.decode("utf-8", "replace")
    return out


def syslog_time_us(headers: dict[str, str]) -> int | None:
    """When the sender stamped an RFC 5424 message, in µs since 1970 UTC; None without a full time and its zone."""
    try:
        moment = datetime.fromisoformat(headers.get("syslog.time", ""))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
