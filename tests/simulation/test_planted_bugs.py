"""Each planted bug must be found in under 1,000 seeds: by all checks, and by what is lost and doubled alone."""

from __future__ import annotations

from typing import Any

import pytest

from .plants import PLANTS, Plant, no_fence, no_guard
from .replay import quiet, run, story
from .world import Broken, World, play

MOST = 1000


def found_after(how: dict[str, Any]) -> int | None:
    """How many seeds it takes until one history ends badly."""
    for seed in range(1, MOST):
        try:
            play(seed, **how)
        except Broken:
            return seed
    return None


@pytest.mark.parametrize(("plant", "how"), PLANTS, ids=[plant.__name__ for plant, _ in PLANTS])
def test_a_planted_bug_is_found(plant: Plant, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    quiet()
    plant(monkeypatch)
    assert found_after(how) is not None, f"{MOST} seeds found nothing"


@pytest.mark.parametrize(
    ("plant", "how"),
    [(no_guard, {}), *((plant, how) for plant, how in PLANTS if plant is not no_fence)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_bug_is_found_by_what_it_loses(
    plant: Plant, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet()
    plant(monkeypatch)
    assert found_after({**how, "only_items": True}) is not None, f"{MOST} seeds lost and doubled nothing"


def test_without_the_fence_the_expected_places_still_guard_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet()
    no_fence(monkeypatch)
    assert all(_plays(seed) for seed in range(1, 300))


def _plays(seed: int) -> World:
    return play(seed, only_items=True)


#: Each found a bug of the engine once. Their meaning holds as long as the simulator draws as it does now.
FOUND: dict[int, str] = {
    18: "a watermark fell after a restart",
    372: "a watermark fell after a restart, of a spooled stream",
    1038: "after a gap, records of another item were skipped",
    2334: "after a gap, a lane could not commit any more",
    5082: "acknowledged: an entry that was read back and not durable",
    30000: "gc deleted a tokenizer that a new writer had just stored",
    69492: "committed from a dead receiver's run what was never synced",
    107202: "two owners of a lane overwrote each other's dedup memory",
}


@pytest.mark.parametrize("seed", FOUND, ids=lambda seed: f"{seed}, {FOUND[seed]}")
def test_a_seed_that_found_a_bug_ends_well(seed: int) -> None:
    quiet()
    play(seed)


@pytest.mark.parametrize("seed", [7, 12, 100, 200])
def test_a_history_is_a_function_of_its_seed(seed: int) -> None:
    quiet()
    worlds = [play(seed, tracing=True) for _ in range(2)]
    assert worlds[0].scheduler.lines == worlds[1].scheduler.lines
    assert worlds[0].contents() == worlds[1].contents()


def test_a_failing_seed_tells_its_story(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet()
    no_guard(monkeypatch)
    _, broken = run(1, 200)
    said = story(min(broken))
    assert f"python -m tests.simulation.replay {min(broken)}" in said
    assert "starts" in said
