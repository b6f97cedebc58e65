"""Small records of every modality, for tests of tokenizers (see testing.py): arrays in, draft batches out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.schemas.record import RecordBuilder
from headrace.tokenizers.arrays import Array


def texts(*strings: str) -> pa.RecordBatch:
    """A batch of text drafts."""
    builder = RecordBuilder("text")
    for string in strings:
        builder.add(locator="{}", text=string)
    return builder.finish()


def images(*pictures: Array) -> pa.RecordBatch:
    """A batch of image drafts."""
    builder = RecordBuilder("image")
    for pixels in pictures:
        builder.add(locator="{}", pixels=pixels)
    return builder.finish()


def video(frames: Array, pts: Sequence[int], base: tuple[int, int] = (1, 90_000)) -> pa.RecordBatch:
    """A batch of one video draft."""
    builder = RecordBuilder("video")
    builder.add(locator="{}", pixels=frames, pts=np.array(pts, np.int64), time_base_num=base[0], time_base_den=base[1])
    return builder.finish()


def audio(*tracks: Array, rate: int = 16_000) -> pa.RecordBatch:
    """A batch of audio drafts."""
    builder = RecordBuilder("audio")
    for samples in tracks:
        builder.add(locator="{}", samples=samples, rate=rate)
    return builder.finish()


def sensors(*windows: tuple[Any, Any, Any]) -> pa.RecordBatch:
    """A batch of sensor drafts of (t in ns, value, valid)."""
    builder = RecordBuilder("sensor")
    for t, value, valid in windows:
        builder.add(
            locator="{}",
            t=np.asarray(t, np.int64),
            value=np.asarray(value, np.float64),
            valid=np.asarray(valid, np.bool_),
            channel="level",
            unit="m",
        )
    return builder.finish()


def regular(value: Any, step_ns: int = 1_000_000_000, valid: Any = None) -> tuple[Any, Any, Any]:
    """A window with an even clock."""
    value = np.asarray(value, np.float64)
    t = 1_700_000_000_000_000_000 + np.arange(len(value), dtype=np.int64) * step_ns
    return t, value, np.ones(len(value), np.bool_) if valid is None else valid


def rasters(
    *tiles: Array,
    masks: Sequence[Array | None] | None = None,
    names: Sequence[str] | None = None,
    nodata: float | None = None,
    unit: str | None = None,
) -> pa.RecordBatch:
    """A batch of raster drafts; masks None: all valid."""
    builder = RecordBuilder("raster")
    for i, pixels in enumerate(tiles):
        mask = masks[i] if masks else None
        valid = np.ones(pixels.shape[1:], np.uint8) if mask is None else mask.astype(np.uint8)
        labels = names or [f"B{b}" for b in range(len(pixels))]
        bands = [{"name": label, "nodata": nodata, "unit": unit} for label in labels]
        builder.add(locator="{}", pixels=pixels, bands=bands, valid=valid.tobytes())
    return builder.finish()


def smooth(shape: Sequence[int], seed: int, high: float = 255.0) -> Array:
    """float64 fields that look like pictures: a few waves and a little noise over the last two axes."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[-2], 0 : shape[-1]]
    field = np.zeros(tuple(shape))
    for _ in range(4):
        fy, fx, phase = random.uniform(0, 0.3, 3)
        gain = random.uniform(0.2, 1.0, (*shape[:-2], 1, 1))
        field = field + gain * np.sin(fy * y + fx * x + 20 * phase)
    field = field + 0.1 * random.normal(size=tuple(shape))
    return np.asarray((field - field.min()) / (field.max() - field.min()) * high)


def picture(height: int, width: int, seed: int) -> Array:
    """A uint8 RGB picture."""
    return np.ascontiguousarray(np.moveaxis(smooth((3, height, width), seed), 0, -1).astype(np.uint8))
