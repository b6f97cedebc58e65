"""What of a damaged image can be had: the rows before the damage, exactly those.

An image is decoded twice until the decoder gives up, once into black memory and once into white. A row that comes out
the same was written by the decoder; from the first row that differs on nothing was. So no row is kept that holds even one
pixel that nobody decoded, and no global switch of Pillow is touched.

A progressive JPEG has all rows once its first scan is whole; what later scans would have added is missing everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.image_open import DECODER_ERRORS, open_image
from headrace.schemas.errors import RecordError


def decoded_part(
    data: bytes, name: str, limits: Limits, *, out_bytes: int, progressive: bool
) -> tuple[Any, int] | None:
    """(image, decoded rows) of a damaged file, or None if nothing decodes. The image is cropped to the rows."""
    black = _decoded_into(data, name, limits, out_bytes, 0)
    white = _decoded_into(data, name, limits, out_bytes, 255)
    if black is None or white is None or black.size != white.size:
        return None
    one, two = np.asarray(black), np.asarray(white)
    same = (one == two).reshape(one.shape[0], -1).all(axis=1)
    rows = len(same) if same.all() else int(np.argmin(same))
    if rows == 0 and progressive:
        whole = _decoded_into(data + b"\xff\xd9", name, limits, out_bytes, 0, must_end=True)
        return None if whole is None else (whole, whole.size[1])
    if rows == 0:
        return None
    return (black if rows == len(same) else black.crop((0, 0, black.size[0], rows))), rows


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
    except DECODER_ERRORS:
        if must_end:
            return None
        image.tile = []  # there is nothing more to decode: what is there is the image
        try:
            image.load()
        except DECODER_ERRORS:
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
