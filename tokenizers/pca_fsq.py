"""`pca-fsq`: square patches of pictures, videos and multi-band rasters as finite scalar codes of principal components.

The default for image (one token per 8×8 patch of RGB) and video; for rasters it codes all bands of a fixed list
together, the right choice for one kind of product (Sentinel-2, say). It is fitted on the stream's own records and needs
numpy alone. What a body looks like: pca_pictures.py, pca_rasters.py; the arithmetic: integer_pca.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from headrace.schemas.errors import NotFitted, SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, list_views, modality_of, payload_views
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, FitBudget, Tokenizer, TokenizerConfig
from headrace.tokenizers.fit_rows import fit_rows, held_out, summary, training_card
from headrace.tokenizers.integer_pca import IntegerPca
from headrace.tokenizers.patch_ids import PatchIds
from headrace.tokenizers.pca_fit import Chunks, fit_pca, grid_prior
from headrace.tokenizers.pca_pictures import LIMIT as PICTURE_LIMIT
from headrace.tokenizers.pca_pictures import Body, Pictures, sample_patches
from headrace.tokenizers.pca_rasters import Rasters
from headrace.tokenizers.raster_rows import RasterForm, sample_raster_patches, valid_pixels
from headrace.tokenizers.raster_scaling import LIMIT as RASTER_LIMIT
from headrace.tokenizers.raster_scaling import Kind, RasterScaling

KIND = "pca-fsq"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: Values of sample patches that a fit keeps (float64: eight bytes each).
_SAMPLE_VALUES = 16 << 20
#: Brightness factors at which each fit patch of a raster is seen, so that a cloud or a dark lake is not out of range.
_GAINS = (0.3, 0.55, 1.0, 1.8, 3.3, 6.0)
#: Above this many values in a patch the covariance no longer fits in memory; bands are then better coded alone.
_MAX_SIZE = 4096


class PcaFsqConfig(TokenizerConfig):
    """Settings of `pca-fsq`."""

    patch: int = Field(8, ge=2, le=32, description="side of a patch in pixels")
    codes: int = Field(64_000, ge=2, le=1 << 20, description="most codes a token has; a patch's tokens share them")
    stages: int = Field(1, ge=1, le=64, description="tokens per patch")
    levels: tuple[int, ...] | None = Field(None, description="levels per component instead of sharing `codes` out")
    channels: int = Field(3, ge=1, le=4, description="channels of pictures: 1, 3 (RGB) or 4")
    scaling: Kind | None = Field(None, description="rasters: sqrt (default), linear, asinh or base")
    gain_jitter: bool | None = Field(None, description="rasters: fit at several brightnesses; default for sqrt, asinh")
    peak: float | None = Field(None, gt=0, description="rasters: what PSNR refers to; default the range of the fit")

    @model_validator(mode="after")
    def _consistent(self) -> PcaFsqConfig:
        if self.levels is not None:
            product = int(np.prod([float(n) for n in self.levels])) if self.levels else 0
            if self.stages != 1 or not self.levels or min(self.levels) < 2 or product > self.codes:
                raise ValueError(f"levels need one stage, 2 or more each, and a product of at most codes={self.codes}")
        return self


class PcaFsq(Tokenizer):
    """See the module."""

    Config = PcaFsqConfig
    modalities: ClassVar[tuple[Modality, ...]] = ("image", "video", "raster")
    fitted = True
    error_unit = "psnr_db"
    fit_budget = FitBudget(records=2_000)

    def __init__(self, config: PcaFsqConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        self._ids = PatchIds(config.codes)
        if artefact is None:
            return
        params = artefact.params
        check_artefact(artefact, KIND, ("modality", *PcaFsqConfig.model_fields))
        if params["modality"] == "raster":
            check_artefact(artefact, KIND, ("bands", "units", "dtype", "exponents", "offsets"))
        self._ids = PatchIds(int(params["codes"]))
        self.modality: Modality = params["modality"]
        patch, stages = int(params["patch"]), int(params["stages"])
        limit = RASTER_LIMIT if self.modality == "raster" else PICTURE_LIMIT
        pca = IntegerPca(artefact.arrays, stages, limit)
        if max(pca.sizes) > self._ids.codes:
            raise TokenizerError(f"the artefact has {max(pca.sizes)} codes, its parameters allow {self._ids.codes}")
        if self.modality == "raster":
            self._form = RasterForm.from_params(params)
            scaling = RasterScaling.from_params(params)
            self._rasters = Rasters(pca, self._ids, patch, scaling, self._form.dtype, float(params["peak"]))
        else:
            self._channels = int(params["channels"])
            self._pictures = Pictures(pca, self._ids, patch, self._channels)

    @property
    def artefact(self) -> Artefact:
        if self._artefact is None:
            raise NotFitted(f"`{KIND}` is fitted on the stream's records: run `headrace fit` first")
        return self._artefact

    @property
    def vocab_size(self) -> int:
        return self._ids.size

    @classmethod
    def fit(cls, config: PcaFsqConfig, records: Sequence[pa.RecordBatch], seed: int) -> Artefact:
        rows = fit_rows(records, cls.modalities, KIND)
        kinds = {modality_of(row) for _, row in rows}
        if len(kinds) > 1:
            raise TokenizerError(f"`{KIND}` is fitted to one modality, these records are {' and '.join(sorted(kinds))}")
        modality = kinds.pop()
        train, held = held_out(rows, seed)
        params: dict[str, Any] = {**config.model_dump(mode="json"), "modality": modality}
        if modality == "raster":
            fitted = _fit_rasters(config, train, seed, params)
        elif config.scaling is not None or config.peak is not None:
            raise TokenizerError(f"`scaling` and `peak` are for rasters, these records are {modality}")
        else:
            fitted = _fit_pictures(config, train, seed)
        card = {**fitted.card, **training_card(rows, len(held), seed)}
        tokenizer = cls(config, Artefact(KIND, params, fitted.arrays))
        card["held_out_result"] = tokenizer._result(held)
        return Artefact(KIND, params, fitted.arrays, card=card)

    def _result(self, rows: Iterable[pa.RecordBatch]) -> dict[str, float | None] | None:
        """Error and clip fraction of rows that fit the artefact's schema; None without any."""
        done = []
        for row in rows:
            try:
                done.append(self.encode(row))
            except SchemaMismatch:
                continue  # such rows are quarantined in a run and did not enter the fit either
        if not done:
            return None
        return summary(np.concatenate([d.error for d in done]), np.concatenate([d.clip_fraction for d in done]))

    def encode(self, records: pa.RecordBatch) -> Encoded:
        _ = self.artefact
        modality = modality_of(records)
        if modality != self.modality:
            raise SchemaMismatch(f"this `{KIND}` was fitted to {self.modality} records, not {modality}")
        bodies = list(self._bodies(records))
        errors, clips = [b.error for b in bodies], [b.clip_fraction for b in bodies]
        return Encoded.of([b.tokens for b in bodies], errors, clips, np.dtype(self.token_dtype))

    def _bodies(self, records: pa.RecordBatch) -> Iterator[Body]:
        if self.modality == "raster":
            for i, pixels in enumerate(payload_views(records)):
                self._form.check(records, i)
                yield self._rasters.encode(pixels, valid_pixels(records, i, pixels))
        elif self.modality == "image":
            for pixels in payload_views(records):
                yield self._pictures.encode_picture(_checked(pixels, 3, self._channels))
        else:
            bases = zip(records.column("time_base_num").to_pylist(), records.column("time_base_den").to_pylist())
            for pixels, pts, base in zip(payload_views(records), list_views(records, "pts"), bases):
                yield self._pictures.encode_video(_checked(pixels, 4, self._channels), pts, base)

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        _ = self.artefact
        builder = RecordBuilder(self.modality)
        for body in tokens:
            reader = self._ids.integers.reader(body)
            if self.modality == "raster":
                pixels, valid = self._rasters.decode(reader)
                builder.add(locator="{}", pixels=pixels, bands=self._form.band_rows(), valid=valid.tobytes())
            elif self.modality == "image":
                pixels = self._pictures.decode_picture(reader)
                builder.add(locator="{}", pixels=pixels, mode=MODES.get(self._channels))
            else:
                pixels, pts, (num, den) = self._pictures.decode_video(reader)
                builder.add(locator="{}", pixels=pixels, pts=pts, time_base_num=num, time_base_den=den)
        return builder.finish()


def _checked(pixels: Array, dimensions: int, channels: int) -> Array:
    if pixels.ndim != dimensions or pixels.shape[-1] != channels or pixels.dtype != np.uint8:
        found = f"{pixels.dtype} of shape {list(pixels.shape)}"
        raise SchemaMismatch(f"this `{KIND}` takes uint8 pictures of {channels} channels, this record is {found}")
    return pixels


def _fit_pictures(config: PcaFsqConfig, train: Sequence[pa.RecordBatch], seed: int) -> Any:
    pictures, others = [], Counter[str]()
    for row in train:
        pixels = next(payload_views(row))
        if pixels.dtype == np.uint8 and pixels.ndim > 2 and pixels.shape[-1] == config.channels:
            pictures.append(pixels)
        else:
            others[f"{pixels.dtype} with {pixels.shape[-1] if pixels.ndim else 0} channels"] += 1
    if not pictures:
        found = ", ".join(f"{n} of {what}" for what, n in sorted(others.items()))
        raise TokenizerError(f"`{KIND}` is fitted to uint8 records of {config.channels} channels, there are {found}")
    size = config.patch**2 * config.channels
    sample = sample_patches(pictures, config.patch, _SAMPLE_VALUES // size, seed)
    prior = grid_prior(config.patch, config.patch, config.channels)
    return _run(config, lambda: _chunks(sample), prior, PICTURE_LIMIT)


def _fit_rasters(config: PcaFsqConfig, train: Sequence[pa.RecordBatch], seed: int, params: dict[str, Any]) -> Any:
    form, same = RasterForm.most_common(train)
    bands = len(form.names)
    size = bands * config.patch**2
    if size > _MAX_SIZE:
        raise TokenizerError(f"{bands} bands are too many to be coded together: use `band-pca-fsq`")
    kind: Kind = config.scaling or "sqrt"
    jitter = kind in ("sqrt", "asinh") if config.gain_jitter is None else config.gain_jitter and kind != "base"
    gains = _GAINS if jitter else (1.0,)
    most = _SAMPLE_VALUES // (size * len(gains))
    sample = sample_raster_patches(same, config.patch, most, seed, per_tile=kind == "base")
    flat = np.moveaxis(sample.reshape(-1, bands, config.patch**2), 1, 0).reshape(bands, -1)
    scaling = RasterScaling.fit(kind, flat)
    spread = float(flat.max() - flat.min()) if flat.size else 1.0
    params |= form.params()
    params |= {"scaling": kind, "exponents": list(scaling.exponents), "offsets": list(scaling.offsets)}
    params["peak"] = config.peak or float(np.float32(spread)) or 1.0

    def chunks() -> Iterator[Array]:
        for part in _chunks(sample):
            for gain in gains:
                values = np.moveaxis(part.reshape(len(part), bands, -1), 1, 0) * gain
                if kind == "base":  # already integers: each tile by its own base and unit
                    scaled = values
                else:
                    scaled = scaling.forward(values, np.ones(values.shape, np.bool_)).integers
                yield np.moveaxis(scaled, 0, 1).reshape(len(part), -1)

    chain = 0.9 ** np.abs(np.subtract.outer(np.arange(bands), np.arange(bands)))
    return _run(config, chunks, np.kron(chain, grid_prior(config.patch, config.patch, 1)), RASTER_LIMIT)


def _run(config: PcaFsqConfig, chunks: Chunks, prior: Array, limit: int) -> Any:
    return fit_pca(chunks, prior, limit, codes=config.codes, stages=config.stages, levels=config.levels)


def _chunks(sample: Array) -> Iterator[Array]:
    step = max(1, (1 << 22) // max(1, sample.shape[1]))
    for start in range(0, len(sample), step):
        yield sample[start : start + step]
