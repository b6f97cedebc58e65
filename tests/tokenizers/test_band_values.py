"""Rasters of values that are not plain numbers of up to 53 bits: complex bands and 64-bit integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.schemas.record import RecordBuilder, payload_views
from headrace.tokenizers.band_pca_fsq import BandPcaFsq


def raster(pixels: Any) -> Any:
    builder = RecordBuilder("raster")
    bands = [{"name": str(i)} for i in range(len(pixels))]
    builder.add(locator="{}", pixels=pixels, bands=bands, valid=np.ones(pixels.shape[1:], np.uint8))
    return builder.finish()


@pytest.fixture(scope="module")
def tokenizer() -> BandPcaFsq:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64]
    scenes = [np.sin(x / (5 + i)) * np.cos(y / 7) * 500 + rng.normal(0, 5, x.shape) for i in range(4)]
    records = [raster(scene[None].astype(np.float32)) for scene in scenes]
    return BandPcaFsq(BandPcaFsq.Config(), BandPcaFsq.fit(BandPcaFsq.Config(), records, 0))


def scene() -> Any:
    y, x = np.mgrid[0:64, 0:64]
    return np.sin(x / 9) * np.cos(y / 7) * 500 + 1000


def test_a_complex_band_becomes_a_real_and_an_imaginary_one(tokenizer: BandPcaFsq) -> None:
    value = (scene() + 1j * scene().T)[None].astype(np.complex64)
    encoded = tokenizer.encode(raster(value))
    rebuilt = next(payload_views(tokenizer.decode([encoded.values])))
    assert rebuilt.shape == (2, 64, 64) and encoded.error[0] < 0.25
    for plane, wanted in zip(rebuilt, (value[0].real, value[0].imag), strict=True):
        assert np.std(plane - wanted) < 0.3 * np.std(wanted)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_of_64_bits_are_tokenized_like_others(tokenizer: BandPcaFsq, dtype: str) -> None:
    value = scene()[None].astype(dtype)
    rebuilt = next(payload_views(tokenizer.decode([tokenizer.encode(raster(value)).values])))
    assert np.std(rebuilt - value) < 0.3 * np.std(value.astype(float))
