"""Play seeds from the command line, at the top of the repository:

    python -m tests.simulation.replay 4711                  one history, with its trace
    python -m tests.simulation.replay 4711 --full --windows as a test of older carry files plays it
    python -m tests.simulation.replay --run 1000000 50000   many, with counts as one line of JSON
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter

from .world import Broken, play

_LINES = 60  #: of a trace, from its end


def story(seed: int, **how: bool) -> str:
    """Why a seed failed: its trace and the command that plays it again."""
    try:
        play(seed, tracing=True, **how)
    except Broken as exc:
        flags = "".join(f" --{name.replace('_', '-')}" for name, value in how.items() if value)
        lines = "\n".join(exc.lines[-_LINES:])
        return f"seed {seed}: {exc}\n{lines}\nplay it again: python -m tests.simulation.replay {seed}{flags}"
    return f"seed {seed} is fine when it is played again: something in it is not drawn from the seed"


def run(start: int, count: int) -> tuple[Counter[str], dict[int, str]]:
    """What happened in so many histories, counted, and which of them ended badly."""
    counts: Counter[str] = Counter()
    broken: dict[int, str] = {}
    for seed in range(start, start + count):
        try:
            counts.update(play(seed).counts)
        except Broken as exc:
            broken[seed] = str(exc)
    return counts, broken


def quiet() -> None:
    """What services say of the faults that they meet is not for here."""
    logging.getLogger("headrace").setLevel(logging.CRITICAL)


def main() -> int:
    parser = argparse.ArgumentParser(description="play simulated histories")
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--full", action="store_true", help="with real Arrow records and shards")
    parser.add_argument("--windows", action="store_true", help="with windows that stay open over commits")
    parser.add_argument("--only-items", action="store_true", help="judge by what is lost and doubled alone")
    parser.add_argument("--run", type=int, nargs=2, metavar=("START", "COUNT"))
    told = parser.parse_args()
    quiet()
    if told.run:
        began = time.process_time()
        counts, broken = run(*told.run)
        print(json.dumps({"cpu_s": time.process_time() - began, "counts": counts, "broken": broken}))
        return bool(broken)
    if told.seed is None:
        parser.error("which seed?")
    how = {name: True for name in ("full", "windows", "only_items") if getattr(told, name)}
    try:
        world = play(told.seed, tracing=True, **how)
    except Broken:
        print(story(told.seed, **how))
        return 1
    print("\n".join(world.scheduler.lines or []))
    print(f"seed {told.seed} ends well: {world.version} entries")
    return 0


if __name__ == "__main__":
    sys.exit(main())
