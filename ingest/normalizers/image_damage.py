"""What of a damaged image can be had: the rows before the damage, exactly those.

An image is decoded twice until the decoder gives up, once into black memory and once into white. A row that comes out
the same was written by the decoder, a row that differs was not. So no row is kept that holds even one pixel that nobody
decoded, and no global switch of Pillow is touched.

A progressive JPEG has all rows once its first scan is whole; what later scans would have added is missing everywhere.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.image_open import decoder_errors, open_image
from headrace.schemas.errors import RecordError

Array = npt.NDArray[Any]

#: What libjpeg writes where a scan has no data left: coefficients of zero, which are this gray.
_JPEG_FILL = 128
_STRIP = 64  # rows compared at a time
_EDGE = 8  # columns at the right that show whether a row of JPEG blocks was reached to its end


def decoded_part(
    data: bytes, name: str, limits: Limits, *, out_bytes: int, progressive: bool
) -> tuple[Any, int, int] | None:
    """(image cropped to them, first row, row behind the last) of what decodes; None if nothing does."""
    black = _decoded_into(data, name, limits, out_bytes, 0)
    if black is None:
        return None
    # where all is black, nothing was written (or nothing but black, which is no loss)
    rows = _row_digests(black) if black.getbbox(alpha_only=False) else []
    del black  # one image at a time is what the limits were checked for
    image = _decoded_into(data, name, limits, out_bytes, 255) if rows else None
    first = last = 0
    if image is not None and image.size[1] == len(rows):
        first, last = _longest_run(np.array([a == b for a, b in zip(rows, _row_digests(image))]))
    if first == last and progressive:
        whole = _decoded_into(data + b"\xff\xd9", name, limits, out_bytes, 0, must_end=True)
        return None if whole is None else (whole, 0, whole.size[1])
    if image is None:
        return None
    width, height = image.size
    if name == "jpeg" and first < last:
        last = first + _before_fill(np.asarray(image.crop((max(0, width - _EDGE), first, width, last))))
    if first == last:
        return None
    return (image if last - first == height else image.crop((0, first, width, last))), first, last


def _row_digests(image: Any) -> list[bytes]:
    width, height = image.size
    digests = []
    for top in range(0, height, _STRIP):
        strip = np.asarray(image.crop((0, top, width, min(height, top + _STRIP))))
        digests += [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in strip]
    return digests


def _longest_run(same: Array) -> tuple[int, int]:
    """The longest run of rows that are the same; most decoders begin at the top, that of BMP at the bottom."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], same.astype(np.int8), [0]))))
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    best = int(np.argmax(ends - starts))
    return int(starts[best]), int(ends[best])


def _before_fill(edge: Array) -> int:
    """How many rows there are before those in which libjpeg had no data any more; `edge` is their right end."""
    edge = edge.reshape(len(edge), -1)
    real = np.flatnonzero((edge != _JPEG_FILL).any(axis=1))
    return int(real[-1]) + 1 if len(real) else 0


def has_gray_tail(image: Any) -> bool:
    """Whether a whole JPEG ends in a row of blocks that is nothing but libjpeg's fill: a scan that was too short."""
    width, height = image.size
    if height <= 2 * _EDGE:
        return False
    channels = len(image.getbands())
    gray = ((_JPEG_FILL, _JPEG_FILL),) * channels
    extrema = image.crop((0, height - 1, width, height)).getextrema()
    if (extrema if channels > 1 else (extrema,)) != gray:
        return False
    extrema = image.crop((0, height - _EDGE, width, height)).getextrema()
    return bool((extrema if channels > 1 else (extrema,)) == gray)


def _decoded_into(
    data: bytes, name: str, limits: Limits, out_bytes: int, value: int, *, must_end: bool = False
) -> Any | None:
    """The image as far as its decoder came, in memory that was filled with `value`; None if it did not begin."""
    try:
        image, _ = open_image(data, name, limits, out_bytes=out_bytes)
    except RecordError:
        return None
    prepare = image.load_prepare

    def filled() -> None:
        prepare()
        image.im.paste(_ink(image.im.mode, value), (0, 0, *image.im.size))

    image.load_prepare = filled
    try:
        image.load()
    except decoder_errors():
        if must_end:
            return None
        image.tile = []  # there is nothing more to decode: what is there is the image
        try:
            image.load()
        except decoder_errors():
            return None
    return image


def _ink(mode: str, value: int) -> Any:
    bands = {"LA": 2, "PA": 2, "La": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3}
    bands |= {"RGBA": 4, "RGBa": 4, "RGBX": 4, "CMYK": 4}
    if mode in bands:
        return (value,) * bands[mode]
    if mode.startswith("I;16"):
        return value * 257
    return float(value) if mode == "F" else value
