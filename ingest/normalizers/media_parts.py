"""Which part of a divided file an item is: its header `part`, "3/8" being the third of eight."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.connectors.contract import Item
from headrace.schemas.errors import RecordError


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, counted from 1."""

    number: int = 1
    count: int = 1


def part_of(item: Item) -> Part:
    """The part that an item is; the whole if it does not say. Raises: RecordError."""
    value = item.headers.get("part")
    if value is None:
        return Part()
    number, slash, count = value.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise RecordError("inconsistent", f"header part={value!r}: `i/n` with 1 <= i <= n is expected")
    return Part(int(number), int(count))
