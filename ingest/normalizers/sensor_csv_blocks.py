"""Blocks of whole rows from a stream of text, and the rows of a block one by one where something in it is wrong."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from headrace.ingest.normalizers import sensor_csv_dialect as dialects
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.schemas.errors import RecordError

BLOCK = 1 << 20
MAX_ROW = 64 << 20  #: bytes that a row with quoted line ends may take before its quotes count as damage
MAX_LINES = 10_000  #: lines that one quoted row may take


@dataclass(frozen=True)
class Block:
    """Whole rows. `line`: the number of its first line, from 1; `last`: the table ends with it."""

    data: bytes
    line: int
    last: bool


@dataclass(frozen=True)
class Row:
    """One row of a block: its bytes without line end, and its cells, or None where it has no proper form."""

    data: bytes
    line: int
    cells: list[str] | None
    why: str = ""


class TextBlocks:
    """The dialect of a table of text, and its blocks in UTF-8 with LF or CR LF line ends."""

    def __init__(self, stream: BinaryIO, config: SensorConfig, *, tabs: bool) -> None:
        self._stream = stream
        head = stream.read(dialects.HEAD_BYTES)
        if not head:
            raise RecordError("empty", "a table of 0 bytes")
        encoding, flags = dialects.encoding_of(head, config)
        plain = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        self._decoder = None if plain else codecs.getincrementaldecoder(encoding)("replace")
        whole = len(head) < dialects.HEAD_BYTES
        self._pending = self._utf8(head, whole).removeprefix(codecs.BOM_UTF8)
        self._old_mac = b"\n" not in self._pending and b"\r" in self._pending
        if self._old_mac:
            self._pending = self._pending.replace(b"\r", b"\n")
        text = self._pending.decode("utf-8", "surrogateescape")
        self.dialect = dialects.sniff(text, config, encoding, flags, tabs=tabs, whole=whole)

    def _utf8(self, data: bytes, final: bool) -> bytes:
        return data if self._decoder is None else self._decoder.decode(data, final).encode()

    def __iter__(self) -> Iterator[Block]:
        """About a mebibyte at a time, cut after a line end outside quotes. Raises: RecordError `too_large`."""
        rest = self._pending[self.dialect.skip :]
        line = self.dialect.skip_lines + 1
        quote = self.dialect.quote.encode()
        ended = False
        while not ended:
            data = self._stream.read(BLOCK)
            ended = not data
            if self._decoder is None and not self._old_mac:
                # up to the end of the line, so that mostly nothing is left over and copied again
                rest = b"".join((rest, data, self._stream.readline(BLOCK)))
            else:
                fresh = self._utf8(data, ended)
                rest += fresh.replace(b"\r", b"\n") if self._old_mac else fresh
            cut = len(rest) if ended else _cut(rest, quote)
            if cut == 0 and len(rest) <= MAX_ROW:
                continue
            if cut == 0:
                cut = rest.rfind(b"\n") + 1  # the quotes do not balance: lines are rows again
            if cut == 0:
                raise RecordError(
                    "too_large", f"line {line} is longer than {MAX_ROW} bytes", locator=f'{{"line":{line}}}'
                )
            block, rest = (rest, b"") if cut == len(rest) else (rest[:cut], rest[cut:])
            if block.lstrip(b"\r\n"):  # without a copy, since a block hardly begins with a blank line
                yield Block(block, line, ended)
            line += int(np.count_nonzero(np.frombuffer(block, np.uint8) == 10))


def _cut(data: bytes, quote: bytes) -> int:
    """Where the last whole row ends: after a newline with an even number of quotes before it. 0 if there is none."""
    if quote not in data:
        return data.rfind(b"\n") + 1
    array = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(array == 10)
    quotes = np.flatnonzero(array == quote[0])
    even = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return int(even[-1]) + 1 if len(even) else 0


def rows_of(block: Block, dialect: dialects.Dialect) -> Iterator[Row]:
    """Every row that is not blank, one at a time.

    A line with a quote left open is joined with the lines after it until the quote closes and the cells are as many as
    the columns; where that never happens, the line is a bad row by itself and the next line begins a new one.
    """
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    quote = dialect.quote.encode()
    width = len(dialect.names)
    index = 0
    while index < len(lines):
        line = _bare(lines[index])
        number = block.line + index
        index += 1
        if not line.strip() if width > 1 else not line:
            continue
        row, joined = None, 1
        if line.count(quote) % 2:
            data, joined = _closed(lines, index - 1, quote)
            row = _row(data, number, dialect)
        if row is None or row.cells is None or len(row.cells) != width:
            row, joined = _row(line, number, dialect), 1
        index += joined - 1
        yield row


def _bare(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


def _closed(lines: list[bytes], index: int, quote: bytes) -> tuple[bytes, int]:
    """The lines from `index` on until their quotes are even, and how many they are."""
    for end in range(index + 1, min(len(lines), index + MAX_LINES)):
        if lines[end].count(quote) % 2:
            return _bare(b"\n".join(lines[index : end + 1])), end + 1 - index
    return _bare(lines[index]), 1


def _row(data: bytes, line: int, dialect: dialects.Dialect) -> Row:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        return Row(data, line, None, f"byte {exc.start} is not UTF-8 ({exc.reason}); the setting `encoding` may help")
    if dialect.quote not in text:
        return Row(data, line, text.split(dialect.delimiter))
    try:
        rows = list(csv.reader([text], delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True))
    except csv.Error as exc:
        return Row(data, line, None, f"its quotes do not fit ({exc})")
    return Row(data, line, rows[0]) if len(rows) == 1 else Row(data, line, None, "its quotes do not fit")
