"""All 16 bits of a channel, where Pillow's own modes hold 8.

Pillow has no mode for colour of 16 bits: it takes the high byte of each sample. Its unpackers do so by name (`RGB;16B`
reads big-endian samples, `RGB;16L` little-endian ones), so decoding the same data a second time under the other name
gives the low bytes. Gray with alpha (`LA;16B`) needs one pass: its four bytes are those of an RGBA pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

#: Raw modes of 16-bit samples, and the one that reads the other byte of each. N is the machine's own order: little.
_OTHER = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX", "CMYK")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B"))
}

Wide = npt.NDArray[np.uint16]


def wide_pixels(opened: Any, again: Callable[[], Any]) -> Wide | None:
    """The samples of an opened, not yet loaded image, (height, width, channels); None if Pillow's mode holds them all.

    `again` opens the image once more. Raises: what decoding raises.
    """
    raw_modes = {_raw_mode(tile) for tile in opened.tile}
    if len(raw_modes) != 1:
        return None
    (raw,) = raw_modes
    if raw == "LA;16B":
        opened.tile = [_with_raw_mode(tile, "RGBA") for tile in opened.tile]
        four = np.asarray(opened).astype(np.uint16)
        gray, alpha = _joined(four[..., 0], four[..., 1]), _joined(four[..., 2], four[..., 3])
        return np.stack([gray, alpha], axis=2)
    other = _OTHER.get(raw or "")
    if other is None:
        return None
    second = again()
    second.tile = [_with_raw_mode(tile, other) for tile in second.tile]
    low = np.asarray(second).astype(np.uint16)
    return _joined(np.asarray(opened).astype(np.uint16), low)


def _joined(high: Wide, low: Wide) -> Wide:
    return np.left_shift(high, 8, dtype=np.uint16) | low


def is_cut_to_8_bits(opened: Any) -> bool:
    """Whether Pillow will take the high bytes of wider samples of an opened, not yet loaded image."""
    if opened.mode in ("I", "F") or opened.mode.startswith("I;16"):
        return False
    if opened.format == "PPM":
        return any(
            isinstance(tile[3], tuple) and isinstance(tile[3][-1], int) and tile[3][-1] > 255 for tile in opened.tile
        )
    return any(";16" in (_raw_mode(tile) or "") for tile in opened.tile)


def _raw_mode(tile: Any) -> str | None:
    args = tile[3]
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else None


def _with_raw_mode(tile: Any, mode: str) -> Any:
    args = tile[3]
    return tile._replace(args=(mode, *args[1:]) if isinstance(args, tuple) else mode)
