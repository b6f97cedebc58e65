"""One component of a mixture: where it stands in its windows, passes and eras, and the packs it gives.

A *pass* reads every block of a table once. Without `follow` there is one table, of the pinned version, and every pass
shuffles it anew. With `follow` each pass is an era: what was committed since the version of the era before.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from headrace.schemas.errors import ConfigError
from headrace.shards.loader.assemble import Assembler
from headrace.shards.loader.blocks import Blocks
from headrace.shards.loader.packing import Cut, Layout, Packing, Ragged, Shuffled, Whole
from headrace.shards.loader.permutation import key_of, permutation
from headrace.shards.loader.window import Course, Window, course

#: So many bad blocks may be skipped before the state would grow too large; then the run stops.
MOST_SKIPPED = 16


@dataclass(frozen=True)
class Plan:
    """What decides the order within a component."""

    number: int
    seed: int
    shuffle: bool
    window_bytes: int | None
    packing: Packing
    length: int
    fold: str | None
    tolerant: bool


@dataclass
class Spot:
    """The next pack: `pack` of `window` of `lap` (a pass, or an era); `skipped` are (lap, block) that were left out."""

    lap: int = 0
    window: int = 0
    pack: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> list[Any]:
        """For the state: short."""
        return [self.lap, self.window, self.pack, *([[list(s) for s in self.skipped]] if self.skipped else [])]

    @classmethod
    def from_json(cls, value: list[Any]) -> Spot:
        """Raises: ValueError, TypeError for anything else."""
        lap, window, pack, *rest = value
        skipped = tuple((int(a), int(b)) for a, b in (rest[0] if rest else ()))
        return cls(int(lap), int(window), int(pack), skipped)


class Component:
    """Reads one component forward from a spot."""

    def __init__(
        self,
        plan: Plan,
        assembler: Assembler,
        blocks_of: Callable[[int], Blocks | None],
        spot: Spot,
        warn: Callable[[str], None],
    ) -> None:
        """`blocks_of` gives the blocks of a lap, None when there are no more laps; `warn` hears of skipped blocks."""
        self.plan, self.assembler = plan, assembler
        self._blocks_of, self._warn = blocks_of, warn
        self.spot = spot
        self.done = False
        self._lap: tuple[int, Blocks, Course] | None = None
        self._window: tuple[Window, Layout] | None = None
        self._ahead: tuple[tuple[int, int], Future[tuple[Window, Layout]]] | None = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def window(self) -> Window:
        """The current window, which has packs left."""
        assert self._window is not None
        return self._window[0]

    @property
    def layout(self) -> Layout:
        """Of the current window."""
        assert self._window is not None
        return self._window[1]

    def left(self) -> int:
        """Packs left in the current window; 0 before the first."""
        return 0 if self._window is None else self._window[1].packs - self.spot.pack

    def advance(self) -> bool:
        """Enter the next window that has packs (at first, the one of the spot); False if nothing is left.

        Raises: ShardError, StorageError; whatever `blocks_of` raises.
        """
        if self._window is not None:
            self._window[0].close()
            self.spot = Spot(self.spot.lap, self.spot.window + 1, 0, self.spot.skipped)
        while not self.done:
            if self._lap is None or self._lap[0] != self.spot.lap:
                blocks = self._blocks_of(self.spot.lap)
                if blocks is None:
                    break
                self._lap = self.spot.lap, blocks, self._course(blocks, self.spot.lap)
            if self.spot.window >= len(self._lap[2]):
                self.spot = Spot(self.spot.lap + 1, 0, 0, tuple(s for s in self.spot.skipped if s[0] > self.spot.lap))
                continue
            self._window = self._entered()
            if self.left() > 0:
                return True
            self.spot = Spot(self.spot.lap, self.spot.window + 1, 0, self.spot.skipped)
        self._window, self.done = None, True
        return False

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._window, self._ahead, self._lap = None, None, None

    def _course(self, blocks: Blocks, lap: int) -> Course:
        key = key_of("blocks", self.plan.seed, self.plan.number, lap) if self.plan.shuffle else None
        return course(blocks.table, self.plan.window_bytes, key)

    def _entered(self) -> tuple[Window, Layout]:
        here = self.spot.lap, self.spot.window
        if self._ahead is not None and self._ahead[0] == here:
            made = self._ahead[1].result()
        else:
            made = self._made(*here)
        for block, why in made[0].bad:
            self._warn(why)
            self.spot.skipped = (*self.spot.skipped, (self.spot.lap, block))
        if len(self.spot.skipped) > MOST_SKIPPED:
            raise ConfigError(f"more than {MOST_SKIPPED} blocks are bad: repair the dataset (headrace verify)")
        self._ahead = None
        assert self._lap is not None
        if self.spot.window + 1 < len(self._lap[2]):
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="headrace-window")
            following = here[0], here[1] + 1
            self._ahead = following, self._pool.submit(self._made, *following)
        return made

    def _made(self, lap: int, number: int) -> tuple[Window, Layout]:
        assert self._lap is not None
        _, blocks, windows = self._lap
        plan = self.plan
        window = Window(
            blocks,
            windows.window(number),
            key_of("rows", plan.seed, plan.number, lap, number) if plan.shuffle else None,
            eager=plan.packing != "ragged",
            fold=plan.fold,
            skip=[block for skipped, block in self.spot.skipped if skipped == lap],
            tolerant=plan.tolerant,
        )
        if plan.packing == "ragged":
            return window, Ragged(len(window))
        lengths = self.assembler.lengths(window)
        layout: Layout
        if plan.packing == "cut":
            layout = Cut(lengths, plan.length)
        else:
            layout = Whole(lengths, plan.length, joined=plan.packing == "whole")
        if plan.shuffle:
            layout = Shuffled(layout, permutation(layout.packs, key_of("packs", plan.seed, plan.number, lap, number)))
        return window, layout
