"""The bars of benchmarks/fidelity.py hold; of the satellite places only the cloudy one is tried here, the worst."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from headrace.schemas.record import payload_views
from headrace.tokenizers.fidelity import LOSSLESS_DB, decibels, psnr_db, psnr_of_rms

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "fidelity.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fidelity_benchmark", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
@pytest.mark.parametrize("what", ["image", "sensor", "dem"])
def test_held_out_data_is_kept_as_well_as_promised(benchmark: ModuleType, corpus: Path, what: str) -> None:
    pytest.importorskip({"image": "PIL", "dem": "rasterio"}.get(what, "numpy"))
    rows = list(benchmark.MEASURES[what](corpus))
    assert sum(bool(row.bar) for row in rows) >= 2
    assert [row for row in rows if not row.ok] == []


@pytest.mark.data
def test_a_cloudy_place_that_no_fit_saw_is_above_17_db_at_two_bits(benchmark: ModuleType, corpus: Path) -> None:
    pytest.importorskip("rasterio")
    places = benchmark.tiles(corpus, "S2L2A")
    held = places.pop("609U_541L_3_0")
    tokenizer = benchmark.fitted({"type": "pca-fsq", "stages": 8, "peak": 10_000.0}, list(places.values()))
    back, encoded = benchmark.through(tokenizer, held)
    given = next(payload_views(held))
    assert benchmark.psnr(given, next(payload_views(back)), 10_000.0) >= 20.0
    assert len(encoded.values) * math.log2(64_000) / given[0].size <= 2.0


def test_decibels_know_their_limits() -> None:
    assert decibels(100.0, 1.0) == 20.0 and decibels(1.0, 0.0) == LOSSLESS_DB and math.isnan(decibels(0.0, 1.0))
    assert decibels(1e300, 1e-300) == LOSSLESS_DB
    assert psnr_db(255.0**2 * 4, 4, 255.0) == 0.0 and math.isnan(psnr_db(0.0, 0, 255.0))
    assert psnr_of_rms(2.55, 255.0) == 40.0 and psnr_of_rms(0.0, 1.0) == LOSSLESS_DB
    assert math.isnan(psnr_of_rms(float(np.inf), 1.0)) and psnr_of_rms(1e300, 1e299) == -20.0
