"""10,000 simulated histories; the other half of the 20,000 is in test_histories_second.py, so that two run at once.

What is real in them, said plainly (docs/simulation.md has more):

    every history  CommitLog, State, LocalStore (half of them, over a simulated system), dedup memory, gc, SpoolWriter
                   and SpoolReader over a simulated disk. Shards are of paper (paper.py): Arrow is most of the time
    1 in 6         also Service, discovery, lane ownership, LiveLoop, LiveLane, LaneOutput, walks, books
    the others     a lane of a few lines (thin.py) in place of service, worker and LiveLane
    1 in 100       everything: Arrow records and shards, JSON entries, windows open over commits in half of them; then
                   the whole dataset is checked by `headrace verify` too
"""

from __future__ import annotations

import pytest

from .replay import quiet, run, story

SEEDS = range(10_000)
PARTS = 5


@pytest.mark.parametrize("part", range(PARTS))
def test_no_history_loses_or_doubles_anything(part: int) -> None:
    quiet()
    size = len(SEEDS) // PARTS
    _, broken = run(SEEDS.start + part * size, size)
    assert not broken, f"{len(broken)} of {size}: seeds {sorted(broken)[:20]}\n{story(min(broken))}"
