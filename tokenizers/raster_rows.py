"""Raster records as arrays: which pixels are data, what bands a tokenizer was made for, patches to fit to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.schemas.errors import RecordError, SchemaMismatch, TokenizerError
from headrace.schemas.record import payload_views
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.fit_rows import thinned
from headrace.tokenizers.patches import cut_raster
from headrace.tokenizers.raster_scaling import RasterScaling

#: Dtypes whose values float64 holds exactly.
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")


def valid_pixels(records: pa.RecordBatch, row: int, pixels: Array) -> Array:
    """bool (bands, height, width): inside the record's mask, finite, and not the band's nodata value.

    Raises: RecordError if mask or band list does not fit the pixels.
    """
    if pixels.ndim != 3:
        raise RecordError("inconsistent", f"a raster has three dimensions, this one has shape {list(pixels.shape)}")
    bands, height, width = pixels.shape
    mask = np.frombuffer(records.column("valid")[row].as_buffer(), np.uint8)
    described = records.column("bands")[row].as_py()
    if len(mask) != height * width or len(described) != bands:
        found = f"{len(mask)} mask bytes and {len(described)} bands"
        raise RecordError("inconsistent", f"a raster of shape {list(pixels.shape)} cannot have {found}")
    valid = np.repeat((mask != 0).reshape(1, height, width), bands, axis=0)
    if pixels.dtype.kind in "fc":
        valid &= np.isfinite(pixels)
    for b, band in enumerate(described):
        if band["nodata"] is not None and not np.isnan(band["nodata"]):
            with np.errstate(over="ignore"):  # a nodata value that float32 cannot hold is infinite there, and no pixel
                valid[b] &= pixels[b] != np.float64(band["nodata"]).astype(np.result_type(pixels.dtype, np.float16))
    return valid


@dataclass(frozen=True)
class RasterForm:
    """What a joint tokenizer is made for: band names and units in order, and the dtype."""

    names: tuple[str | None, ...]
    units: tuple[str | None, ...]
    dtype: str

    @classmethod
    def of(cls, records: pa.RecordBatch, row: int) -> RasterForm:
        """The form of one record."""
        bands = records.column("bands")[row].as_py()
        return cls(
            tuple(b["name"] for b in bands), tuple(b["unit"] for b in bands), records.column("dtype")[row].as_py()
        )

    @classmethod
    def most_common(cls, rows: Sequence[pa.RecordBatch]) -> tuple[RasterForm, list[pa.RecordBatch]]:
        """The form that most one-row batches have (the first by name among equals), and those rows."""
        forms = [cls.of(row, 0) for row in rows]
        counts = Counter(forms)
        form = min(counts, key=lambda f: (-counts[f], repr(f)))
        if form.dtype not in DTYPES:
            raise TokenizerError(f"rasters of dtype {form.dtype} cannot be tokenized; there are {', '.join(DTYPES)}")
        return form, [row for row, its in zip(rows, forms) if its == form]

    def check(self, records: pa.RecordBatch, row: int) -> None:
        """Raises: SchemaMismatch if a record has other bands, units or dtype."""
        found = RasterForm.of(records, row)
        if found != self:
            raise SchemaMismatch(f"this tokenizer was made for {self.text()}, the record has {found.text()}")

    def text(self) -> str:
        """The form in words."""
        bands = ", ".join(f"{n or '?'}{f' [{u}]' if u else ''}" for n, u in zip(self.names, self.units))
        return f"{self.dtype} bands ({bands})"

    def params(self) -> dict[str, Any]:
        """As artefact parameters."""
        return {"bands": list(self.names), "units": list(self.units), "dtype": self.dtype}

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> RasterForm:
        """From artefact parameters."""
        return cls(tuple(params["bands"]), tuple(params["units"]), params["dtype"])

    def band_rows(self) -> list[dict[str, Any]]:
        """Values of the `bands` column of a decoded record."""
        return [{"name": n, "unit": u} for n, u in zip(self.names, self.units)]


def sample_raster_patches(rows: Sequence[pa.RecordBatch], patch: int, most: int, seed: int, *, per_tile: bool) -> Array:
    """Up to about `most` patches without a missing pixel, float64 (n, bands * patch * patch), in the order of `rows`.

    per_tile: give each tile's patches as the integers of scaling `base` instead of its values.
    """
    shapes = [next(payload_views(row)).shape for row in rows]
    total = sum((height // patch) * (width // patch) for _, height, width in shapes)
    base = RasterScaling("base", (0,), (0.0,))
    out = [np.zeros((0, shapes[0][0] * patch * patch))]
    for row, (bands, height, width) in zip(rows, shapes):
        if height < patch or width < patch:
            continue
        pixels = next(payload_views(row))
        valid = valid_pixels(row, 0, pixels)
        whole = (slice(None), slice(0, height // patch * patch), slice(0, width // patch * patch))
        full = np.flatnonzero(cut_raster(valid[whole], patch).all(axis=1))
        chosen = full[thinned(len(full), most / max(1, total), seed)]
        if per_tile:
            alone = (base.forward(pixels[b : b + 1].astype(np.float64), valid[b : b + 1]) for b in range(bands))
            pixels = np.concatenate([scaled.integers for scaled in alone])
        out.append(cut_raster(pixels[whole], patch)[chosen].astype(np.float64))
    return np.concatenate(out)
