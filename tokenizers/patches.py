"""Pictures and rasters cut into square patches and put together again, at their native size.

An edge that does not fill a patch is filled by repeating the last row or column; the true size is kept beside the
patches and cut out again, so nothing is cropped and nothing is padded with zeros.

    picture (height, width, channels) → (rows * cols, patch * patch * channels), patches row by row
    raster  (bands, height, width)    → (rows * cols, bands * patch * patch)
"""

from __future__ import annotations

import numpy as np

from headrace.tokenizers.arrays import Array


def grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """(rows, cols) of patches that cover the picture."""
    return -(-height // patch), -(-width // patch)


def _filled(values: Array, patch: int, axes: tuple[int, int]) -> Array:
    pads = [(0, 0)] * values.ndim
    for axis in axes:
        pads[axis] = (0, -values.shape[axis] % patch)
    return np.pad(values, pads, mode="edge") if any(after for _, after in pads) else values


def cut_picture(pixels: Array, patch: int) -> Array:
    """Patches of a (height, width, channels) picture, in its dtype."""
    rows, cols = grid(pixels.shape[0], pixels.shape[1], patch)
    full = _filled(pixels, patch, (0, 1)).reshape(rows, patch, cols, patch, -1)
    return full.transpose(0, 2, 1, 3, 4).reshape(rows * cols, -1)


def join_picture(patches: Array, height: int, width: int, patch: int) -> Array:
    """The (height, width, channels) picture of its patches."""
    rows, cols = grid(height, width, patch)
    full = patches.reshape(rows, cols, patch, patch, -1).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(full.reshape(rows * patch, cols * patch, -1)[:height, :width])


def cut_raster(pixels: Array, patch: int) -> Array:
    """Patches of a (bands, height, width) raster, in its dtype."""
    bands, height, width = pixels.shape
    rows, cols = grid(height, width, patch)
    full = _filled(pixels, patch, (1, 2)).reshape(bands, rows, patch, cols, patch)
    return full.transpose(1, 3, 0, 2, 4).reshape(rows * cols, bands * patch * patch)


def join_raster(patches: Array, bands: int, height: int, width: int, patch: int) -> Array:
    """The (bands, height, width) raster of its patches."""
    rows, cols = grid(height, width, patch)
    full = patches.reshape(rows, cols, bands, patch, patch).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(full.reshape(bands, rows * patch, cols * patch)[:, :height, :width])


def inside(height: int, width: int, patch: int) -> Array | None:
    """bool (rows * cols, patch * patch), False where a patch lies beyond the edge; None if no patch does."""
    if height % patch == 0 and width % patch == 0:
        return None
    rows, cols = grid(height, width, patch)
    full = np.zeros((1, rows * patch, cols * patch), np.bool_)
    full[:, :height, :width] = True
    return cut_raster(full, patch)
