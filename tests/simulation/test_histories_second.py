"""The second 10,000 simulated histories: see test_histories_first.py for what is real in them."""

from __future__ import annotations

import pytest

from .replay import quiet, run, story

SEEDS = range(10_000, 20_000)
PARTS = 5


@pytest.mark.parametrize("part", range(PARTS))
def test_no_other_history_loses_or_doubles_anything(part: int) -> None:
    quiet()
    size = len(SEEDS) // PARTS
    _, broken = run(SEEDS.start + part * size, size)
    assert not broken, f"{len(broken)} of {size}: seeds {sorted(broken)[:20]}\n{story(min(broken))}"
