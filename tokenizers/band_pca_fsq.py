"""`band-pca-fsq`: rasters of any bands and dtype, each band on its own; the default for raster.

A folder holds products of one, three or two hundred bands, in bytes, reflectances and metres; no band list fits them
all. So each band of a tile is brought to standard scores by its own location and scale, which its tokens hold, and its
8×8 patches are coded by one PCA that was fitted to such scores of every band seen.

    body   wide height width bands { exponent scale loc [patch]* }*
    patch  [code]*stages  or  NODATA  or  PARTIAL mask [code]*stages            (see patch_masks.py)

Decoded pixels are float32, or float64 where the record held wider integers or float64; missing pixels are NaN; complex
bands come back as two, real and imaginary. Where the products are all of one kind, `pca-fsq` codes the bands together
and needs far fewer tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from headrace.schemas.errors import NotFitted, SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, modality_of, payload_views
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.band_scores import LIMIT, UNIT, BandScores, band_scores
from headrace.tokenizers.contract import Artefact, Encoded, FitBudget, Tokenizer, TokenizerConfig
from headrace.tokenizers.exact_math import root_mean_square
from headrace.tokenizers.fit_rows import fit_rows, held_out, summary, thinned, training_card
from headrace.tokenizers.integer_pca import IntegerPca
from headrace.tokenizers.integers import Reader
from headrace.tokenizers.loc_scale import plausible, restore
from headrace.tokenizers.patch_ids import PatchIds
from headrace.tokenizers.patches import grid, join_raster
from headrace.tokenizers.pca_fit import fit_pca, grid_prior
from headrace.tokenizers.pca_pictures import Body
from headrace.tokenizers.raster_rows import DTYPES, valid_pixels

KIND = "band-pca-fsq"
_SAMPLE_VALUES = 16 << 20
_MAX_SIDE = 1 << 20
_WIDE = ("uint32", "int32", "float64")


class BandPcaFsqConfig(TokenizerConfig):
    """Settings of `band-pca-fsq`."""

    patch: int = Field(8, ge=2, le=32, description="side of a patch in pixels")
    codes: int = Field(64_000, ge=2, le=1 << 20, description="most codes a token has; a patch's tokens share them")
    stages: int = Field(1, ge=1, le=16, description="tokens per patch and band")


class BandPcaFsq(Tokenizer):
    """See the module."""

    Config = BandPcaFsqConfig
    modalities: ClassVar[tuple[Modality, ...]] = ("raster",)
    fitted = True
    error_unit = "nrmse"
    fit_budget = FitBudget(records=2_000)

    def __init__(self, config: BandPcaFsqConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        if artefact is not None:
            check_artefact(artefact, KIND, BandPcaFsqConfig.model_fields)
        params = artefact.params if artefact else config.model_dump(mode="json")
        self._patch, self._stages = int(params["patch"]), int(params["stages"])
        self._ids = PatchIds(int(params["codes"]))
        if artefact is not None:
            self._pca = IntegerPca(artefact.arrays, self._stages, LIMIT)

    @property
    def artefact(self) -> Artefact:
        if self._artefact is None:
            raise NotFitted(f"`{KIND}` is fitted on the stream's records: run `headrace fit` first")
        return self._artefact

    @property
    def vocab_size(self) -> int:
        return self._ids.size

    @classmethod
    def fit(cls, config: BandPcaFsqConfig, records: Sequence[pa.RecordBatch], seed: int) -> Artefact:
        rows = fit_rows(records, cls.modalities, KIND)
        train, held = held_out(rows, seed)
        area = config.patch**2
        share = _SAMPLE_VALUES / max(1, sum(next(payload_views(row)).size for row in train))
        chosen = [np.zeros((0, area), np.int16)]
        for band in (band for row in train for band in _bands(row, 0, config.patch) or []):
            whole = np.arange(len(band.integers)) if band.valid is None else np.flatnonzero(band.valid.all(axis=1))
            chosen.append(band.integers[whole[thinned(len(whole), share, seed)]].astype(np.int16))
        sample = np.concatenate(chosen)

        def chunks() -> Iterator[Array]:
            step = max(1, (1 << 22) // area)
            return (sample[start : start + step] for start in range(0, len(sample), step))

        prior = grid_prior(config.patch, config.patch, 1)
        fitted = fit_pca(chunks, prior, LIMIT, codes=config.codes, stages=config.stages)
        params = config.model_dump(mode="json")
        tokenizer = cls(config, Artefact(KIND, params, fitted.arrays))
        measured = [tokenizer.encode(row) for row in held if _bands(row, 0, config.patch) is not None]
        result = None
        if measured:
            clips = np.concatenate([m.clip_fraction for m in measured])
            result = summary(np.concatenate([m.error for m in measured]), clips)
        card = {**fitted.card, **training_card(rows, len(held), seed), "held_out_result": result}
        return Artefact(KIND, params, fitted.arrays, card=card)

    def encode(self, records: pa.RecordBatch) -> Encoded:
        _ = self.artefact
        if modality_of(records) != "raster":
            raise SchemaMismatch(f"`{KIND}` takes raster records, not {modality_of(records)}")
        bodies = [self._encode(records, i, pixels) for i, pixels in enumerate(payload_views(records))]
        errors, clips = [b.error for b in bodies], [b.clip_fraction for b in bodies]
        return Encoded.of([b.tokens for b in bodies], errors, clips, np.dtype(self.token_dtype))

    def _encode(self, records: pa.RecordBatch, row: int, pixels: Array) -> Body:
        bands = _bands(records, row, self._patch)
        if bands is None:
            raise SchemaMismatch(f"`{KIND}` takes {', '.join(DTYPES)} pixels, not {pixels.dtype}")
        spell = self._ids.integers.spell
        pixels = _planes(pixels)
        parts = [np.array(spell(int(pixels.dtype.name in _WIDE), *pixels.shape[1:], len(pixels)))]
        errors, clipped, known, outside, coefficients = [], 0, 0, 0, 0
        for band in bands:
            parts.append(np.array(spell(*band.header)))
            codes, rebuilt, beyond = self._pca.encode_all(band.filled)
            parts.append(codes.reshape(-1) if band.valid is None else self._ids.masks.write(codes, band.valid))
            errors.append(band.relative_error(rebuilt))
            clipped, known, outside = clipped + band.beyond, known + band.known, outside + beyond
            coefficients += len(codes) * self._pca.components
        measured = [e for e in errors if e is not None]
        error = float(root_mean_square(np.array(measured), np.array([0, len(measured)]))[0]) if measured else np.nan
        return Body(np.concatenate(parts), error, max(clipped / max(1, known), outside / max(1, coefficients)))

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        _ = self.artefact
        builder = RecordBuilder("raster")
        for body in tokens:
            pixels = self._decode(self._ids.integers.reader(body))
            valid = ~np.all(np.isnan(pixels), axis=0)
            names: list[dict[str, Any]] = [{"name": None} for _ in pixels]
            builder.add(locator="{}", pixels=pixels, bands=names, valid=valid.tobytes())
        return builder.finish()

    def _decode(self, reader: Reader) -> Array:
        wide, height, width, bands = reader.numbers(4)
        if not (0 <= height <= _MAX_SIDE and 0 <= width <= _MAX_SIDE and 0 <= bands <= len(reader.tokens)):
            raise TokenizerError(f"a raster of {bands} bands of {height} by {width} cannot be")
        rows, cols = grid(height, width, self._patch)
        dtype = np.float64 if wide else np.float32
        limit = float(np.finfo(dtype).max)
        out = []
        for _ in range(bands):
            exponent, scale, loc = reader.numbers(3)
            if not plausible(exponent, scale, loc):
                raise TokenizerError(f"({loc} + {scale} z) * 2^{exponent} cannot be a band's values")
            codes, valid, used = self._ids.masks.read(
                reader.tokens[reader.at :], rows * cols, self._patch**2, self._stages
            )
            reader.take(used)
            values = restore(self._pca.decode(codes) / UNIT, exponent, scale, loc)
            values = np.where(valid, np.clip(values, -limit, limit), np.nan).astype(dtype)
            empty = np.zeros((height, width), dtype)
            out.append(join_raster(values, 1, height, width, self._patch)[0] if len(values) else empty)
        reader.end()
        return np.stack(out) if out else np.zeros((0, height, width), dtype)


def _bands(records: pa.RecordBatch, row: int, patch: int) -> Iterator[BandScores] | None:
    """Every band of a record as integers; None if its dtype cannot be tokenized. Raises: RecordError."""
    stored = next(payload_views(records.slice(row, 1)))
    pixels = _planes(stored)
    if pixels.dtype.name not in DTYPES:
        return None
    valid = valid_pixels(records, row, stored)
    if valid.all():
        return (band_scores(band, None, patch) for band in pixels)
    if stored.dtype.kind == "c":
        valid = np.repeat(valid, 2, axis=0)
    return (band_scores(band, None if there.all() else there, patch) for band, there in zip(pixels, valid))


def _planes(pixels: Array) -> Array:
    """(bands, height, width) of a dtype that can be tokenized.

    A complex band becomes two, real and imaginary; 64-bit integers become float64, finer than any token.
    """
    if pixels.dtype.kind == "c" and pixels.ndim == 3:
        parts = np.stack([pixels.real, pixels.imag], axis=1)
        return np.ascontiguousarray(parts.reshape(2 * pixels.shape[0], *pixels.shape[1:]))
    if pixels.dtype.name in ("int64", "uint64"):
        return pixels.astype(np.float64)
    return pixels
