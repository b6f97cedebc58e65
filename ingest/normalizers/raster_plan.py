"""Dividing an item: all tile rows of all its sheets are one sequence, and a part is a run of it.

So the parts of an item, one behind the other, are exactly the undivided item, whatever sheets it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from headrace.connectors.contract import Item
from headrace.ingest.normalizers.raster_layer import Layer
from headrace.ingest.normalizers.raster_sheets import Sheet
from headrace.schemas.errors import RecordError

_PART = re.compile(r"^(\d{1,9})/(\d{1,9})$")


@dataclass(frozen=True)
class Stack:
    """The sheets of an item, and how to open one of them until the next is opened."""

    sheets: Sequence[Sheet]
    open: Callable[[Sheet], Layer]


@dataclass(frozen=True)
class Share:
    """Tile rows [first, end) of a sheet."""

    sheet: Sheet
    first: int
    end: int


def part_of(item: Item) -> tuple[int, int]:
    """(i, n) of the header `part`, `i/n` with i from 1 to n; (1, 1) without. Raises: RecordError."""
    text = item.headers.get("part")
    if text is None:
        return 1, 1
    match = _PART.match(text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise RecordError("inconsistent", f"part {text!r}; `i/n` with i from 1 to n is right")
    return int(match[1]), int(match[2])


def shares(sheets: Sequence[Sheet], tile: int, part: int, parts: int) -> Iterator[Share]:
    """The tile rows of part `part` (from 1) of `parts`, sheet by sheet. A sheet that is lost counts as one row."""
    rows = [1 if sheet.error is not None else -(-sheet.height // tile) for sheet in sheets]
    total = sum(rows)
    low, high = total * (part - 1) // parts, total * part // parts
    before = 0
    for sheet, count in zip(sheets, rows):
        first, end = max(low - before, 0), min(high - before, count)
        if first < end:
            yield Share(sheet, first, end)
        before += count
