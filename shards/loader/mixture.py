"""Which component the next sequence comes from: the one that is furthest behind its share.

With integer weights w and W = sum(w), sequence i of a stretch goes to the component with the largest deficit
w_c * (i + 1) - W * n_c, n_c being what it gave so far; the first of equals. After W sequences every component has given
exactly its weight, so the order repeats with period W, and where a sequence comes from is a table look-up. (The rule is
that of Tijdeman's chairman assignment: no component is ever a whole sequence ahead or behind for two components.)
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

#: Weights are rounded to shares of this many sequences at most, so that the table stays small.
MOST = 1 << 14


def integer_weights(weights: Sequence[float]) -> list[int]:
    """The smallest integers in the same proportion; rounded to `MOST` parts where there are none so small.

    A weight above 0 never becomes 0.
    """
    exact = [Fraction(str(w)) for w in weights]
    total = sum(exact)
    if not total:
        return [0] * len(exact)
    scale = np.lcm.reduce([f.denominator for f in exact], dtype=object)
    whole = [int(f * scale) for f in exact]
    divisor = int(np.gcd.reduce(whole, dtype=object))
    whole = [w // divisor for w in whole]
    if sum(whole) <= MOST:
        return whole
    return [max(round(f / total * MOST), 1) if f else 0 for f in exact]


class Turns:
    """The order of components in a stretch of constant weights."""

    def __init__(self, weights: Sequence[int]) -> None:
        """`weights` are integers; one at least is above 0."""
        self.weights = list(weights)
        self.period = sum(self.weights)
        self._order = _order(self.weights)
        parts = len(self.weights)
        self._given = np.zeros((parts, self.period + 1), np.int64)
        for c in range(parts):
            np.cumsum(self._order == c, out=self._given[c, 1:])

    def given(self, i: int) -> list[int]:
        """How many of the first `i` sequences of the stretch come from each component."""
        whole, rest = divmod(i, self.period)
        return [whole * w + int(self._given[c, rest]) for c, w in enumerate(self.weights)]

    def of(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For sequences of the stretch, counted from its start: the component, and its own number in it."""
        whole, rest = np.divmod(numbers, self.period)
        part = self._order[rest]
        return part, whole * np.asarray(self.weights)[part] + self._given[part, rest]

    def of_one(self, number: int) -> int:
        """The component of one sequence of the stretch."""
        return int(self._order[number % self.period])

    def reach(self, start: int, available: Sequence[int]) -> int:
        """The most sequences from `start` on that need no more than `available[c]` of any component."""
        begun = self.given(start)
        most = None
        for c, weight in enumerate(self.weights):
            if weight:
                due = begun[c] + available[c]  # its sequence number `due` is the first that is too much
                whole, rest = divmod(due, weight)
                at = int(np.searchsorted(self._given[c], rest, side="right")) - 1
                stop = whole * self.period + at
                most = stop - start if most is None else min(most, stop - start)
        assert most is not None
        return most


def _order(weights: list[int]) -> npt.NDArray[np.int64]:
    total = sum(weights)
    order = np.empty(total, np.int64)
    deficit = np.zeros(len(weights), np.int64)
    steps = np.asarray(weights, np.int64)
    for i in range(total):
        deficit += steps
        chosen = int(np.argmax(deficit))
        deficit[chosen] -= total
        order[i] = chosen
    return order
