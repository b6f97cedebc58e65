"""How a table of text is written: encoding, delimiter, decimal mark, names, units, and where the data begin.

Understood before the data: a byte order mark, comment lines, free lines of a logger's header, one line of names (told
by what stands below it), a line of units, and the four-line header of Campbell Scientific TOA5 files. What comes
before the names is kept as `preamble`. All of it is read from the first 64 KiB.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.ingest.normalizers import sensor_time
from headrace.ingest.normalizers.sensor_columns import distinct
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_units import to_ucum
from headrace.schemas.errors import RecordError

HEAD_BYTES = 1 << 16
DELIMITERS = ("\t", ";", "|", ",")
_SAMPLE_LINES = 200
_BOMS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_DECLARED = re.compile(r"\s*sep=(.)\s*", re.IGNORECASE)
_TIMES = [re.compile(pattern) for pattern in sensor_time.LAYOUTS.values()]
_COMMA_NUMBER = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class Dialect:
    """`skip`: bytes (of UTF-8, without mark) before the first row; `skip_lines`: lines before it."""

    encoding: str
    delimiter: str
    decimal: str
    quote: str
    names: tuple[str, ...]
    units: dict[str, str]
    skip: int
    skip_lines: int
    preamble: str
    flags: tuple[str, ...]


def encoding_of(head: bytes, config: SensorConfig) -> tuple[str, tuple[str, ...]]:
    """(encoding, flags) of a file from its first bytes; UTF-8 unless its bytes cannot be that."""
    if config.encoding is not None:
        return config.encoding, ()
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name, ()
    text = (
        head[: len(head) - 3].decode("utf-8", "replace") if len(head) >= HEAD_BYTES else head.decode("utf-8", "replace")
    )
    broken = text.count("\ufffd")
    # One bad byte among proper UTF-8 is damage of one row; many, with nothing proper beside, are another encoding.
    if broken and broken > sum(c > "\x7f" for c in text) - broken:
        return "cp1252", ("encoding_guessed",)
    return "utf-8", ()


def sniff(
    text: str, config: SensorConfig, encoding: str, flags: tuple[str, ...], *, tabs: bool, whole: bool
) -> Dialect:
    """The dialect of a table whose first 64 KiB are `text`; `tabs`: a .tsv, `whole`: the text is all there is.

    Raises: RecordError `empty`, `no_signal` where there is no row.
    """
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    if not lines[-1]:
        lines.pop()
    if not whole and len(lines) > 1:
        lines.pop()  # cut by the end of the head
    top = 0
    while top < len(lines) and (not lines[top].strip() or _is_comment(lines[top], config)):
        top += 1
    comments = [line for line in lines[:top] if line.strip()]
    body = [
        (i, line)
        for i, line in enumerate(lines[top : top + _SAMPLE_LINES], top)
        if line.strip() and not _is_comment(line, config)
    ]
    if not body:
        raise RecordError("empty", "a table without rows")
    delimiter = config.delimiter or ("\t" if tabs else "")
    declared = _DECLARED.fullmatch(body[0][1])
    if declared and len(body) > 1:  # what spreadsheets write before the names
        delimiter = delimiter or declared[1]
        comments.append(body.pop(0)[1])
    delimiter = delimiter or _delimiter([line for _, line in body], config.quote)
    cells = [_split(line, delimiter, config.quote) for _, line in body]
    width = _width(cells)
    first = next((k for k, row in enumerate(cells) if len(row) == width), 0) if not _is_toa5(cells) else 0
    names, units, start = _names(cells[first:], width, config, comments, delimiter)
    start += first
    at = body[start][0] if start < len(body) else body[-1][0] + 1
    decimal = config.decimal or _decimal(cells[start:], delimiter)
    if _is_toa5(cells):
        comments = [*comments, body[0][1], body[3][1]]
    preamble = "".join([*comments, *(line for _, line in body[:first])]).encode("utf-8", "replace").decode()
    skipped = "".join(lines[:at])
    return Dialect(
        encoding,
        delimiter,
        decimal,
        config.quote,
        _distinct(names, width),
        dict(zip(_distinct(names, width), units)) if units else {},
        len(skipped.encode("utf-8", "surrogateescape")),
        len(lines[:at]),
        preamble,
        flags,
    )


def _is_comment(line: str, config: SensorConfig) -> bool:
    return config.comment is not None and line.lstrip().startswith(config.comment)


def _split(line: str, delimiter: str, quote: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter, quotechar=quote), [])
    except csv.Error:
        return line.rstrip("\r\n").split(delimiter)


def _width(cells: Sequence[Sequence[str]]) -> int:
    """The commonest number of columns; the larger of two that are as common."""
    counts = Counter(len(row) for row in cells)
    common = max(counts, key=lambda n: (counts[n], n))
    head = len(cells[0])
    # a table whose rows are mostly one damaged word each is still the table that its first line announces
    return head if common == 1 and counts[head] > 1 else common


def _delimiter(lines: Sequence[str], quote: str) -> str:
    """The candidate that cuts most lines into one number (> 1) of cells; of equals the one least likely in prose."""
    best, score = ",", 0.0
    for candidate in DELIMITERS:
        rows = [_split(line, candidate, quote) for line in lines]
        width = _width(rows)
        share = sum(len(row) == width for row in rows) / len(rows)
        if width > 1 and share > score + 0.05:
            best, score = candidate, share
    return best


def _kind(cell: str) -> str:
    if not cell.strip():
        return "empty"
    if NUMBER.fullmatch(cell) or _COMMA_NUMBER.fullmatch(cell):
        return "number"
    return "time" if any(layout.match(cell) for layout in _TIMES) else "word"


def _is_toa5(rows: Sequence[Sequence[str]]) -> bool:
    """Campbell Scientific's loggers: the station, the names, the units, the kind of processing, then the data."""
    return len(rows) >= 4 and bool(rows[0]) and rows[0][0] == "TOA5"


def _names(
    rows: Sequence[Sequence[str]], width: int, config: SensorConfig, comments: Sequence[str], delimiter: str
) -> tuple[list[str], list[str], int]:
    """(names, units or [], how many rows they took)."""
    if _is_toa5(rows):
        return [c.strip() for c in rows[1]], [c.strip() for c in rows[2]], 4
    if config.header is False or (config.header is None and _is_data(rows, width)):
        named = _split(comments[-1].lstrip().lstrip(config.comment or "#"), delimiter, config.quote) if comments else []
        if len(named) == width and all(_kind(cell) == "word" for cell in named):
            return [c.strip() for c in named], [], 0
        return [f"c{i}" for i in range(width)], [], 0
    names = [c.strip() for c in rows[0]]
    if len(rows) >= 3 and _is_units(rows[1], rows[2], width):
        return names, [c.strip().strip("[]()") for c in rows[1]], 2
    return names, [], 1


def _is_data(rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether the first row is no line of names: every column below that holds numbers or times has one in it too."""
    head, below = rows[0], [row for row in rows[1:50] if len(row) == width]
    kinds = [_kind(cell) for cell in head]
    if not below:
        return "word" not in kinds and "number" in kinds
    typed = 0
    for i in range(min(width, len(head))):
        column = Counter(_kind(row[i]) for row in below)
        column.pop("empty", None)
        common = column.most_common(1)[0][0] if column else "empty"
        if common in ("number", "time"):
            typed += 1
            if kinds[i] == "word" or (kinds[i] == "number" and common == "time"):
                return False
    return typed > 0


def _is_units(row: Sequence[str], below: Sequence[str], width: int) -> bool:
    """Whether a row under the names holds units: words over numbers, at least half of which are known units."""
    if len(row) != width or len(below) != width:
        return False
    over = [cell.strip().strip("[]()") for cell, under in zip(row, below) if _kind(under) == "number" and cell.strip()]
    if not over or any(_kind(cell) != "word" for cell in over):
        return False
    return sum(to_ucum(cell) is not None for cell in over) * 2 >= len(over)


def _decimal(rows: Sequence[Sequence[str]], delimiter: str) -> str:
    if delimiter == ",":
        return "."
    commas = sum(bool(_COMMA_NUMBER.fullmatch(cell)) for row in rows for cell in row)
    points = sum("." in cell and bool(NUMBER.fullmatch(cell)) for row in rows for cell in row)
    return "," if commas > points else "."


def _distinct(names: Sequence[str], width: int) -> tuple[str, ...]:
    """One name a column: empty ones are c0, c1 …; a name that comes again gets #2, #3 …"""
    named = [names[i] if i < len(names) and names[i] else f"c{i}" for i in range(width)]
    return tuple(distinct([name.encode("utf-8", "replace").decode() for name in named]))
