"""Seeded noise in world coordinates: the same hill, wave or cloud whatever grid or camera looks at it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]


def rng(seed: int, name: str) -> np.random.Generator:
    """A generator for one purpose; adding a purpose changes no other."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big"))


def on_grid(
    seed: int, name: str, *, half_m: float, cells: int, period_m: float, octaves: int, gain: float = 0.5
) -> Array:
    """Noise of about unit spread on the square [-half_m, half_m]², row 0 in the north; (cells, cells) float32.

    The lattice lies in world coordinates, so grids of different size and resolution show the same ground.
    """
    total = np.zeros((cells, cells), np.float32)
    weight = 0.0
    for octave in range(octaves):
        period = period_m / 2**octave
        knots = int(np.ceil(2 * 4096 / period)) + 7
        lattice = rng(seed, f"{name}/{octave}").standard_normal((knots, knots)).astype(np.float32)
        centre = knots / 2
        reach = half_m / period
        box = (centre - reach, centre - reach, centre + reach, centre + reach)
        scaled = Image.fromarray(lattice).resize((cells, cells), Image.Resampling.BICUBIC, box=box)
        total += gain**octave * np.asarray(scaled)
        weight += gain ** (2 * octave)
    return total / np.float32(np.sqrt(weight))


class Texture:
    """A tile of noise that repeats without a seam, for looking up at any point. `cells` is a power of two."""

    def __init__(self, seed: int, name: str, *, cells: int = 512, slope: float = 1.0) -> None:
        """`slope` is the fall of the amplitude with frequency: 0 is white, 1 is ground-like, 1.6 is cloud-like."""
        white = np.fft.rfft2(rng(seed, name).standard_normal((cells, cells)))
        fy = np.fft.fftfreq(cells)[:, None]
        fx = np.fft.rfftfreq(cells)[None, :]
        radius = np.maximum(np.hypot(fx, fy), 1.0 / cells)
        shaped = np.fft.irfft2(white * radius ** (-slope) * (radius > 1.5 / cells), s=(cells, cells))
        self.cells = cells
        self.values: Array = (shaped / shaped.std()).astype(np.float32)

    def at(self, x: Array, y: Array) -> Array:
        """Bilinear value at points in cells."""
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
        wrap = self.cells - 1
        i, j = x0.astype(np.int32) & wrap, (y0.astype(np.int32) & wrap) * self.cells
        i1, j1 = (i + 1) & wrap, (j + self.cells) & (self.cells * wrap)
        v = self.values.ravel()
        a, b = v.take(j + i), v.take(j1 + i)
        top = a + (v.take(j + i1) - a) * fx
        return top + (b + (v.take(j1 + i1) - b) * fx - top) * fy

    def slopes(self) -> Texture:
        """The rise per cell to the east (real part) and north (imaginary part) so that one look-up gives both."""
        other = object.__new__(Texture)
        other.cells = self.cells
        east = np.roll(self.values, -1, axis=1) - self.values
        north = np.roll(self.values, -1, axis=0) - self.values
        other.values = (east + 1j * north).astype(np.complex64)
        return other

    def near(self, x: Array, y: Array) -> Array:
        """Nearest value at points in cells."""
        wrap = self.cells - 1
        return self.values.ravel().take(
            (np.floor(y).astype(np.int32) & wrap) * self.cells + (np.floor(x).astype(np.int32) & wrap)
        )


def smooth(low: float, high: float, x: Array) -> Array:
    """0 below `low`, 1 above `high`, a soft step between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3.0 - 2.0 * t)


def blur(a: Array, sigma: float) -> Array:
    """Gaussian blur of a 2-D array with edges repeated."""
    radius = max(1, int(3 * sigma))
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(a, [(radius, radius) if k == axis else (0, 0) for k in (0, 1)], mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis)
        a = views @ kernel
    return a.astype(np.float32)
