"""The short ways of the sensor and raster tokenizers against the long ones: the same bits for whatever comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from headrace.tokenizers import band_scores as bands
from headrace.tokenizers.bin_table import BinTable
from headrace.tokenizers.chronos import Chronos, ChronosConfig
from headrace.tokenizers.even_windows import deviation_even, root_mean_square_even
from headrace.tokenizers.exact_math import mean_and_deviation, rms_of_integers, root_mean_square, scaled
from headrace.tokenizers.sensor_scores import Scores
from headrace.tokenizers.sensor_times import Clocks, describe
from headrace.tokenizers.zscore_mu_law import bins

FINITE = st.floats(allow_nan=False, allow_infinity=False)
MODEST = st.floats(-1e4, 1e4, width=32)


def windows(elements: Any, most: int = 40) -> Any:
    return stn.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, most)), elements=elements)


@settings(max_examples=50, deadline=None)
@given(
    values=stn.arrays(np.float64, st.integers(0, 60), elements=st.one_of(FINITE, st.floats(-9, 9))),
    n=st.sampled_from([16, 128, 1024]),
)
def test_a_bin_that_is_looked_up_is_the_bin_that_is_searched_for(values: Any, n: int) -> None:
    thresholds, _ = bins(n)
    near = np.concatenate([np.nextafter(thresholds, np.inf), np.nextafter(thresholds, -np.inf), thresholds])
    x = np.concatenate([values, near, [0.0, -0.0, 5e-324, -5e-324, np.inf, -np.inf, 1.8e308, -1.8e308]])
    assert np.array_equal(BinTable(thresholds).bins(x), np.searchsorted(thresholds, x, side="right"))


def test_thresholds_too_close_for_a_table_are_searched() -> None:
    thresholds = np.array([1.0, np.nextafter(1.0, 2), 3.0])
    assert BinTable(thresholds).bins(np.array([0.0, 1.0, 2.0, 3.0])).tolist() == [0, 1, 2, 3]
    tiny = np.array([-1e-320, 0.0, 1.0])  # shares the cell of -0.0 with zero itself
    assert BinTable(tiny).bins(np.array([-1e-310, -0.0, 0.5, 2.0])).tolist() == [0, 2, 2, 3]


@settings(max_examples=50, deadline=None)
@given(x=st.one_of(windows(FINITE), windows(MODEST), windows(st.sampled_from([0.0, -0.0, 7.5, 1e-310, 1e300]))))
def test_whole_windows_score_as_windows_with_gaps_do(x: Any) -> None:
    thresholds, centres = bins(1024)
    scores = Scores(thresholds, centres, 2048.0, 30)
    lengths = np.full(len(x), x.shape[1])
    with np.errstate(over="ignore"):
        short, long = scores._even(x.copy()), scores._ragged(x.reshape(-1), np.ones(x.size, np.bool_), lengths)
    assert np.array_equal(np.stack(short.ids), np.stack(long.ids))
    for name in ("exponent", "scale", "loc", "errors", "clips"):
        assert np.array_equal(getattr(short, name), getattr(long, name)), name


def test_windows_with_and_without_gaps_keep_their_order() -> None:
    thresholds, centres = bins(1024)
    scores = Scores(thresholds, centres, 2048.0, 30)
    rng = np.random.default_rng(3)
    value = list(rng.normal(size=(200, 300)))
    valid = [rng.random(300) < 0.99 if i % 3 else np.ones(300, np.bool_) for i in range(200)]
    together = list(scores.of(value, valid))
    assert len(together) > 1
    alone = [next(scores.of([v], [ok])) for v, ok in zip(value, valid)]
    assert np.array_equal([row for part in together for row in part.ids], [part.ids[0] for part in alone])
    for name in ("exponent", "scale", "loc", "errors", "clips"):
        one = np.concatenate([getattr(part, name) for part in alone])
        assert np.array_equal(np.concatenate([getattr(part, name) for part in together]), one, equal_nan=True), name


@settings(max_examples=50, deadline=None)
@given(x=st.one_of(windows(FINITE), windows(MODEST)))
def test_moments_of_rows_are_moments_of_runs(x: Any) -> None:
    borders = np.arange(len(x) + 1) * x.shape[1]
    with np.errstate(over="ignore"):
        assert np.array_equal(deviation_even(x), mean_and_deviation(x.reshape(-1), borders)[1])
        assert np.array_equal(root_mean_square_even(x.copy()), root_mean_square(x.reshape(-1), borders))


@settings(max_examples=50, deadline=None)
@given(x=stn.arrays(np.float64, st.integers(1, 50), elements=FINITE), power=st.integers(-1100, 1100))
def test_scaling_by_a_product_is_ldexp(x: Any, power: int) -> None:
    with np.errstate(over="ignore", under="ignore"):
        expected = np.ldexp(x, power)
        assert np.array_equal(scaled(x, np.array([power], np.int32), np.array([len(x)])), expected)


@settings(max_examples=50, deadline=None)
@given(
    x=stn.arrays(np.int64, st.integers(1, 300), elements=st.one_of(st.integers(-9, 9), st.integers(-(2**30), 2**30)))
)
def test_the_sum_of_integers_squared_is_the_root_mean_square(x: Any) -> None:
    found = rms_of_integers(x.astype(np.float64))
    if found is not None:
        assert found == root_mean_square(x.astype(np.float64), np.array([0, len(x)]))[0]
    else:
        assert np.abs(x).max() > 1 << 18


@settings(max_examples=50, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["uint8", "int8", "uint16", "int16"]))
def test_a_band_that_is_counted_scores_as_one_that_is_not(data: st.DataObject, dtype: str) -> None:
    limits = np.iinfo(dtype)
    low = data.draw(st.integers(limits.min, limits.max))
    high = data.draw(st.integers(low, min(limits.max, low + data.draw(st.sampled_from([0, 3, 255, 65535])))))
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    pixels = data.draw(stn.arrays(dtype, shape, elements=st.integers(low, high), fill=st.just(low)))
    valid = data.draw(st.one_of(st.none(), stn.arrays(np.bool_, shape)))
    if data.draw(st.booleans()):
        pixels = pixels.copy()
        pixels[0, 0] = high
    short = bands.band_scores(pixels, valid, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "_counted", lambda pixels, valid: None)
        long = bands.band_scores(pixels, valid, 8)
    assert short.header == long.header and (short.known, short.beyond) == (long.known, long.beyond)
    assert np.array_equal(short.integers, long.integers) and np.array_equal(short.exact, long.exact)
    assert np.array_equal(short.filled, long.filled)


@settings(max_examples=50, deadline=None)
@given(
    x=stn.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 50)), elements=st.floats(-20, 20, width=32)),
    tokens=st.sampled_from([8, 100, 4096]),
)
def test_chronos_bins_that_are_computed_are_those_that_are_searched_for(x: Any, tokens: int) -> None:
    tokenizer = Chronos(ChronosConfig(n_tokens=tokens))
    borders = tokenizer._borders
    inner = borders[1:-1]
    near = [np.nextafter(inner, np.float32(np.inf)), np.nextafter(inner, np.float32(-np.inf)), inner]
    for values in (x, np.concatenate(near)[None], np.array([[0, -0.0, 1e30, -1e30, 3e38, np.inf, np.nan]], np.float32)):
        assert np.array_equal(tokenizer._find(values), np.searchsorted(borders, values, side="right"))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_many_clocks_are_described_as_each_alone(data: st.DataObject) -> None:
    even = st.builds(
        lambda start, step, n: start + step * np.arange(n, dtype=np.int64),
        st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40), st.integers(0, 6),
    )  # fmt: skip
    any_ = stn.arrays(np.int64, st.integers(0, 6), elements=st.integers(-(2**63), 2**63 - 1))
    t = data.draw(st.lists(st.one_of(even, any_), min_size=1, max_size=8))
    t += t[-2:]
    with np.errstate(over="ignore"):
        clocks = Clocks.of(t)
        for i, stamps in enumerate(t):
            header, at, differences = describe(stamps)
            if clocks.far[i]:
                assert clocks.odd[i][0] == header
            else:
                assert tuple(clocks.numbers[i].tolist()) == header
            kept = clocks.odd.get(i, (header, np.zeros(0), np.zeros(0)))
            assert np.array_equal(kept[1], at) and np.array_equal(kept[2], differences)
