"""Time stamps of a sensor window as tokens: nothing more for a regular clock, one number where it deviates.

    header   first unit step       first stamp (ns), unit (ns), step (units)
    before a sample whose stamp is not `step` units after the one before: that difference, in units

`unit` is the greatest common divisor of all differences and `step` the commonest difference (the least among equals),
so a clock that ticks evenly costs three numbers and every stamp is kept to the nanosecond, backward ones included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.arrays import Array

Odd = tuple[tuple[int, int, int], Array, Array]  #: what `describe` gives

_CHUNK_VALUES = 1 << 15
_LARGE = 1 << 62


@dataclass(frozen=True)
class Clocks:
    """What `describe` says of many windows. numbers: int64 (windows, 3), first, unit and step of those not in `far`.

    odd: all of it, for the windows whose stamps deviate; far: those among them whose unit is beyond 64 bits.
    """

    numbers: Array
    odd: dict[int, Odd]
    far: Array

    @classmethod
    def of(cls, t: Sequence[Array]) -> Clocks:
        """Of windows of int64 nanoseconds."""
        numbers, far = np.zeros((len(t), 3), np.int64), np.zeros(len(t), np.bool_)
        numbers[:, 1] = 1
        odd: dict[int, Odd] = {}
        begin = 0
        last = -1
        while begin < len(t):
            end, length = begin + 1, len(t[begin])
            most = begin + max(1, _CHUNK_VALUES // max(1, length))
            while end < min(most, len(t)) and len(t[end]) == length:
                end += 1
            if length < 2 or end == begin + 1:
                for i in range(begin, end):
                    last = cls._add(numbers, odd, far, t, i, last)
                begin = end
                continue
            stamps = np.stack(t[begin:end])
            steps = stamps[:, 1:] - stamps[:, :-1]
            first = steps[:, 0]
            even = (first != 0) & (np.abs(first) < _LARGE) & (first > -_LARGE) & (steps == first[:, None]).all(axis=1)
            numbers[begin:end] = np.stack([stamps[:, 0], np.abs(first), np.sign(first)], axis=1)
            for i in (np.flatnonzero(~even) + begin).tolist():
                last = cls._add(numbers, odd, far, t, i, last)
            begin = end
        return cls(numbers, odd, far)

    @staticmethod
    def _add(numbers: Array, odd: dict[int, Odd], far: Array, t: Sequence[Array], i: int, last: int) -> int:
        """Describe window i; `last` was described before it, and the channels of a table share their stamps."""
        odd[i] = odd[last] if last >= 0 and np.array_equal(t[last], t[i]) else describe(t[i])
        clock = odd[i][0]
        far[i] = clock[1] >= 1 << 63
        numbers[i] = (clock[0], 0 if far[i] else clock[1], clock[2])
        return i


def describe(t: Array) -> tuple[tuple[int, int, int], Array, Array]:
    """((first, unit, step), positions, differences) of int64 nanoseconds.

    positions: indices of the samples whose stamp deviates (never the first); differences: int64, in units.
    """
    if len(t) < 2:
        return (int(t[0]) if len(t) else 0, 1, 0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    differences = t[1:] - t[:-1]
    if differences[0] != 0 and (differences == differences[0]).all():
        unit = abs(int(differences[0]))
        return (int(t[0]), unit, 1 if differences[0] > 0 else -1), np.zeros(0, np.int64), np.zeros(0, np.int64)
    unit = int(np.gcd.reduce(differences)) or 1
    scaled = differences // unit
    values, counts = np.unique(scaled, return_counts=True)
    step = int(values[np.argmax(counts)])
    at = np.flatnonzero(scaled != step)
    return (int(t[0]), unit, step), at + 1, scaled[at]


def rebuild(header: tuple[int, int, int], count: int, at: Array, differences: Array) -> Array:
    """int64 nanoseconds of `count` samples. Raises: TokenizerError if a stamp cannot be."""
    first, unit, step = header
    largest = max(abs(step), int(np.abs(differences).max(initial=0)))
    if abs(first) >= 1 << 63 or not 0 < unit < 1 << 63 or largest * unit >= 1 << 63:
        raise TokenizerError(f"time stamps from {first} in steps of {step} times {unit} ns cannot be")
    steps = np.full(count, step, np.int64)
    steps[at] = differences
    steps[:1] = 0
    return np.int64(first) + np.cumsum(steps * np.int64(unit))
