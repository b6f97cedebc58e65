"""Pictures in windows of one fixed shape, for neural codecs: a network's arithmetic depends on the shape it is given.

A picture of any size is covered by tiles of `tile` pixels; each is given to the network with `halo` pixels of its
surroundings, and the codes of the halo are thrown away, so that tiles meet without a seam. Beyond the picture's edge
the last row or column is repeated. Codes are kept for the picture alone, ceil(height / stride) by ceil(width / stride).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.fidelity import psnr_db
from headrace.tokenizers.integers import IntegerIds

_MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class Tiling:
    """Side of a tile, of its halo, and of the square of pixels that one code stands for; all in pixels."""

    tile: int
    halo: int
    stride: int

    @property
    def window(self) -> int:
        """Side of what a network is given."""
        return self.tile + 2 * self.halo

    def codes(self, height: int, width: int) -> tuple[int, int]:
        """(rows, cols) of codes of a picture."""
        return -(-height // self.stride), -(-width // self.stride)

    def encode(self, pixels: Array, network: Callable[[Array], Array]) -> Array:
        """int64 (rows, cols) codes; `network` maps (window, window, channels) uint8 to its grid of codes."""
        rows, cols = self.codes(*pixels.shape[:2])
        edge = self.halo // self.stride
        out = np.zeros((rows, cols), np.int64)
        for top, left in self._tiles(rows * self.stride, cols * self.stride):
            grid = network(_around(pixels, top - self.halo, left - self.halo, self.window))
            if grid.shape != (self.window // self.stride,) * 2:
                side = self.window // self.stride
                raise TokenizerError(f"the encoder gives codes of shape {grid.shape}, {side} by {side} are expected")
            r, c = top // self.stride, left // self.stride
            side = self.tile // self.stride
            inner = grid[edge : edge + side, edge : edge + side][: rows - r, : cols - c]
            out[r : r + inner.shape[0], c : c + inner.shape[1]] = inner
        return out

    def decode(self, codes: Array, height: int, width: int, network: Callable[[Array], Array]) -> Array:
        """uint8 (height, width, channels); `network` maps a window's grid of codes to (window, window, channels)."""
        parts: list[tuple[int, int, Array]] = []
        for top, left in self._tiles(height, width):
            r, c = (top - self.halo) // self.stride, (left - self.halo) // self.stride
            window = network(_around(codes[..., None], r, c, self.window // self.stride)[..., 0])
            parts.append((top, left, window[self.halo : self.halo + self.tile, self.halo : self.halo + self.tile]))
        out = np.zeros((height, width, parts[0][2].shape[2] if parts else 3), np.uint8)
        for top, left, part in parts:
            out[top : top + self.tile, left : left + self.tile] = part[: height - top, : width - left]
        return out

    def _tiles(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        return ((top, left) for top in range(0, height, self.tile) for left in range(0, width, self.tile))


def _around(pixels: Array, top: int, left: int, side: int) -> Array:
    """A square of an array, edges repeated beyond it."""
    rows = np.clip(np.arange(top, top + side), 0, pixels.shape[0] - 1)
    cols = np.clip(np.arange(left, left + side), 0, pixels.shape[1] - 1)
    return np.ascontiguousarray(pixels[rows][:, cols])


class PictureCodes:
    """Bodies `height width [code]*` of pictures, for any network that maps windows to codes and back."""

    def __init__(self, tiling: Tiling, size: int, measured: float) -> None:
        self.tiling = tiling
        self.size = size
        self.ids = IntegerIds(size)
        self._measured = measured

    def body(
        self, pixels: Array, encode: Callable[[Array], Array], decode: Callable[[Array], Array] | None
    ) -> tuple[Array, float]:
        """(tokens, PSNR in dB or NaN where this picture's hash does not choose it to be measured)."""
        height, width = pixels.shape[:2]
        codes = self.tiling.encode(pixels, encode)
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < self.size:
            found = f"{int(codes.min())} to {int(codes.max())}"
            raise TokenizerError(f"the encoder gives codes from {found}, they must lie in [0, {self.size})")
        tokens = np.concatenate([np.array(self.ids.spell(height, width)), codes.reshape(-1)])
        if decode is None or not pixels.size or not self._chosen(pixels):
            return tokens, float("nan")
        difference = self.tiling.decode(codes, height, width, decode).astype(np.int64) - pixels
        return tokens, psnr_db(float((difference * difference).sum()), pixels.size, 255.0)

    def _chosen(self, pixels: Array) -> bool:
        head = hashlib.sha256(np.ascontiguousarray(pixels).data).digest()[:8]
        return int.from_bytes(head, "big") < self._measured * 2.0**64

    def picture(self, tokens: Array, decode: Callable[[Array], Array]) -> Array:
        """The picture of a body. Raises: TokenizerError."""
        reader = self.ids.reader(tokens)
        height, width = reader.numbers(2)
        if not (0 <= height <= _MAX_SIDE and 0 <= width <= _MAX_SIDE):
            raise TokenizerError(f"a picture of {height} by {width} cannot be")
        rows, cols = self.tiling.codes(height, width)
        codes = reader.take(rows * cols).astype(np.int64).reshape(rows, cols)
        reader.end()
        if codes.size and int(codes.max()) >= self.size:
            raise TokenizerError(f"id {int(codes.max())} is not a code: they are below {self.size}")
        return self.tiling.decode(codes, height, width, decode)
