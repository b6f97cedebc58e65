"""FSQ index formulas: equal to vector-quantize-pytorch, and TerraMind's as its code has it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.fsq import Fsq

LEVELS = [(8, 8, 8, 5, 5, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (3, 4), (8, 8, 8, 6, 5)]


@pytest.mark.parametrize("levels", LEVELS)
def test_cosmos_indices_and_codes_are_those_of_vector_quantize_pytorch(levels: tuple[int, ...]) -> None:
    library: Any = pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    reference = library.FSQ(levels=list(levels))
    fsq = Fsq(levels, "cosmos")
    z = np.random.default_rng(0).normal(0, 2, (40_000, len(levels))).astype(np.float32)
    codes, indices = reference(torch.tensor(z)[None])
    level = fsq.quantize(z)
    assert np.array_equal(fsq.index(level), indices[0].numpy())
    assert np.array_equal(fsq.codes(level), codes[0].detach().numpy())
    every = np.arange(fsq.size)
    expected = reference.indices_to_codes(torch.tensor(every)).numpy()
    assert np.array_equal(fsq.codes(fsq.levels_of_index(every)), expected)


def test_terramind_formula_by_hand() -> None:
    fsq = Fsq((8, 6, 5), "terramind")
    for z in itertools.product((-9.0, -0.7, 0.0, 0.31, 4.0), repeat=3):
        n = [round(1 / (1 + math.exp(-v)) * (L - 1)) for v, L in zip(z, (8, 6, 5), strict=True)]
        level = fsq.quantize(np.array(z))
        assert level.tolist() == n
        assert fsq.index(level) == n[0] + 8 * n[1] + 48 * n[2]
        assert np.allclose(fsq.codes(level), [n[0] / 7, n[1] / 5, n[2] / 4])


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("variant", ["cosmos", "terramind"])
def test_index_level_and_code_are_one_to_one(levels: tuple[int, ...], variant: Any) -> None:
    fsq = Fsq(levels, variant)
    every = np.arange(fsq.size)
    level = fsq.levels_of_index(every)
    assert np.array_equal(fsq.index(level), every) and np.array_equal(fsq.levels_of_codes(fsq.codes(level)), level)
    assert (level >= 0).all() and (level < np.array(levels)).all()


def test_the_variants_differ_and_must_be_named() -> None:
    z = np.random.default_rng(1).normal(size=(1000, 3))
    assert not np.array_equal(Fsq((8, 8, 8), "cosmos").quantize(z), Fsq((8, 8, 8), "terramind").quantize(z))
    with pytest.raises(TokenizerError, match="cosmos"):
        Fsq((8, 8), "fsq")  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="3 or more"):
        Fsq((8, 2), "cosmos")
    with pytest.raises(TokenizerError, match="lie in"):
        Fsq((3, 3), "cosmos").levels_of_index(np.array([9]))
