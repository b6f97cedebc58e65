"""Counts and sums by which what was written is compared with what was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_MODULO = 1 << 64


@dataclass(frozen=True, slots=True)
class Totals:
    """Samples, their tokens (bytes of the payload where a stream is raw), and the sum of these modulo 2^64."""

    samples: int = 0
    tokens: int = 0
    sum: int = 0

    def plus(self, other: Totals) -> Totals:
        """The totals of both."""
        return Totals(self.samples + other.samples, self.tokens + other.tokens, (self.sum + other.sum) % _MODULO)


def sum_of(values: npt.NDArray[Any]) -> int:
    """The sum of ids modulo 2^64; of other numbers the sum of their bytes, so that no bit of them is rounded away."""
    if values.dtype.kind not in "ui":
        values = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return int(values.sum(dtype=np.uint64 if values.dtype.kind == "u" else np.int64)) % _MODULO
