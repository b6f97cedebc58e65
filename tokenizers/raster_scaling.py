"""Pixels of a raster to small integers and back, band by band: what the integer PCA works on.

    sqrt     y = sign(x) * sqrt(|x|) * 2^e                  reflectance: even steps in noise, not in value
    linear   y = (x - offset_b) * 2^e_b                     decibels, indices, temperatures
    asinh    y = asinh(x * 2^-q_b) * 2^10                   large ranges with a sign
    base     y = (x - base) * 2^s, both from the tile       heights: a tile's own base and unit are in its tokens

e, e_b, offset_b and q_b are fixed by the fit. Results are rounded and kept within ±LIMIT; what lies beyond is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.exact_math import by_power, exp2, log2

Kind = Literal["sqrt", "linear", "asinh", "base"]

LIMIT = 1 << 15
_BASE_BITS = 12
_LN_2 = 0.6931471805599453
_LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Scaled:
    """integers: float64 (bands, ...) within ±LIMIT; outside: how many were beyond; header: integers a decoder needs."""

    integers: Array
    outside: int
    header: list[int]


@dataclass(frozen=True)
class RasterScaling:
    """A scaling with the numbers its fit fixed; `exponents` and `offsets` have one entry per band."""

    kind: Kind
    exponents: tuple[int, ...]
    offsets: tuple[float, ...]

    @classmethod
    def fit(cls, kind: Kind, values: Array) -> RasterScaling:
        """Choose units for float64 (bands, n) sample values, which may be empty."""
        bands = len(values)
        flat = values if values.size else np.ones((bands, 1))
        zeros = (0.0,) * bands
        if kind == "sqrt":  # one unit for all bands: their ratios are what a spectrum is
            top = _exponent(np.sqrt(np.abs(flat)).max(initial=0.0))
            return cls(kind, (12 - top,) * bands, zeros)
        if kind == "linear":
            offsets = tuple(float(np.float32(v)) for v in flat.mean(axis=1))
            spread = [_exponent(v) for v in flat.std(axis=1)]
            return cls(kind, tuple(9 - s for s in spread), offsets)
        if kind == "asinh":
            return cls(kind, tuple(_exponent(v) for v in np.sqrt((flat * flat).mean(axis=1))), zeros)
        return cls(kind, (0,) * bands, zeros)

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> RasterScaling:
        """The scaling an artefact's parameters describe."""
        return cls(params["scaling"], tuple(params["exponents"]), tuple(params["offsets"]))

    @property
    def header_length(self) -> int:
        """Integers that a tile's tokens hold for this scaling."""
        return 2 * len(self.exponents) if self.kind == "base" else 0

    def forward(self, values: Array, valid: Array) -> Scaled:
        """Integers of float64 (bands, ...) values; where `valid` (same shape) is False they are 0."""
        whole = bool(valid.all())
        x = values if whole else np.where(valid, values, 0.0)
        header: list[int] = []
        if self.kind == "base":
            header = [n for b in range(len(x)) for n in _tile_base(values[b][valid[b]])]
        y = np.empty(x.shape)
        with np.errstate(over="ignore"):  # infinite is beyond LIMIT like any other large number
            for b in range(len(x)):
                y[b] = self._forward(x[b], b, header)
        np.rint(y, out=y)
        if not whole:
            y[~valid] = 0.0
        outside = 0
        if y.size and (y.max() > LIMIT or y.min() < -LIMIT):
            outside = int((np.abs(y) > LIMIT).sum())
            np.clip(y, -LIMIT, LIMIT, out=y)
        return Scaled(y, outside, header)

    def _forward(self, x: Array, band: int, header: list[int]) -> Array:
        e = self.exponents[band]
        if self.kind == "sqrt":
            return by_power(np.copysign(np.sqrt(np.abs(x)), x), e)
        if self.kind == "linear":
            return by_power(x - self.offsets[band], e)
        if self.kind == "asinh":
            t = np.minimum(by_power(np.abs(x), -e), 1e100)
            return np.copysign(log2(t + np.sqrt(t * t + 1.0)) * (_LN_2 * 1024.0), x)
        shift, base = header[2 * band : 2 * band + 2]
        return by_power(x, shift) - float(base)

    def inverse(self, integers: Array, header: list[int]) -> Array:
        """Float64 values of integers (bands, ...)."""
        return np.stack([self._inverse(integers[b], b, header) for b in range(len(integers))])

    def _inverse(self, y: Array, band: int, header: list[int]) -> Array:
        e = self.exponents[band]
        if self.kind == "sqrt":
            root = by_power(y, -e)
            return np.asarray(root * np.abs(root))
        if self.kind == "linear":
            return by_power(y, -e) + self.offsets[band]
        if self.kind == "asinh":
            u = np.clip(y * (_LOG2_E / 1024.0), -500.0, 500.0)
            return by_power((exp2(u) - exp2(-u)) * 0.5, e)
        shift, base = header[2 * band : 2 * band + 2]
        if abs(shift) > 1 << 16 or abs(base) > 1 << 90:
            raise TokenizerError(f"a tile's base {base} * 2^{-shift} cannot be")
        return by_power(y + float(base), -shift)


def _exponent(value: float) -> int:
    """The least e with value < 2**e; 0 for 0."""
    return int(np.frexp(np.float64(value))[1])


def _tile_base(values: Array) -> tuple[int, int]:
    """(shift, base) so that (x * 2**shift - base) lies within ±2**11 for all of a tile's valid values."""
    if not len(values):
        return 0, 0
    low, high = float(values.min()), float(values.max())
    if low == high:
        digits, place = np.frexp(low)
        return 53 - int(place), int(np.ldexp(digits, 53))
    middle, half = high / 2 + low / 2, high / 2 - low / 2  # halved first: the range itself may overflow
    shift = _BASE_BITS - 1 - _exponent(half)
    return shift, int(np.rint(np.ldexp(middle, shift)))
