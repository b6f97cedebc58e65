"""The one sequence of sequences of a job, numbered g = 0, 1, …, whoever reads which part of it.

`Order` walks it in runs: stretches in which every component stays within its current window, so where each sequence
lies is known by arithmetic. All ranks and workers walk all runs and assemble only their own sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.schemas.errors import ConfigError
from headrace.shards.loader.component import Component
from headrace.shards.loader.mixture import Turns, integer_weights


@dataclass(frozen=True)
class Run:
    """Sequences [start, stop). Sequence g is number `g - base` of `turns`; that gives (component, n), and the pack of
    its current window is n - `begun[component]` after the spot at the run's start."""

    start: int
    stop: int
    base: int
    turns: Turns
    begun: list[int]
    anchor: dict[str, Any]  #: where the walk may begin again to reach any sequence of this run and some after it


class Order:
    """Walks from `start` on. After each run that was yielded the components' spots move to its end."""

    def __init__(
        self,
        components: Sequence[Component],
        schedules: Sequence[Sequence[tuple[int, float]]],
        at: Mapping[str, Any] | None,
    ) -> None:
        """schedules: of each component, pairs (from this sequence on, weight). at: an anchor, None for the start."""
        self._components = list(components)
        self._schedules = [list(s) for s in schedules]
        self._borders = sorted({g for s in schedules for g, _ in s})
        self.g = 0 if at is None else int(at["g"])
        self._base = 0 if at is None else int(at["from"])
        for i in [] if at is None else at["done"]:
            self._components[i].done = True

    def anchor(self) -> dict[str, Any]:
        """Where the walk stands, for a state."""
        done = [i for i, c in enumerate(self._components) if c.done]
        return {"g": self.g, "from": self._base, "spots": [c.spot.to_json() for c in self._components], "done": done}

    def runs(self) -> Iterator[Run]:
        """Runs up to the end. Raises: ConfigError if what is left has no weight; as `Component.advance`."""
        turns = self._turns()
        while turns is not None:
            border = next((b for b in self._borders if b > self.g), None)
            begun = turns.given(self.g - self._base)
            count = turns.reach(self.g - self._base, [c.left() for c in self._components])
            if border is not None:
                count = min(count, border - self.g)
            if count:
                yield Run(self.g, self.g + count, self._base, turns, begun, self.anchor())
                self.g += count
                for component, before, after in zip(self._components, begun, turns.given(self.g - self._base)):
                    component.spot.pack += after - before
                if self.g == border:
                    self._base = self.g
                    turns = self._turns()
                continue
            due = self._components[int(turns.of_one(self.g - self._base))]
            if not due.advance():
                self._base = self.g
                turns = self._turns()

    def _turns(self) -> Turns | None:
        """Of the components that have something left; None if none has."""
        weights = []
        for component, schedule in zip(self._components, self._schedules):
            weight = next(w for g, w in reversed(schedule) if g <= self.g)
            weights.append(0.0 if component.done else weight)
        if any(weights):
            return Turns(integer_weights(weights))
        # A source whose weight is 0 from here on was left out on purpose; one that would come later leaves a gap.
        later = [any(w for g, w in s if g > self.g) for s in self._schedules]
        if self.g and not any(more and not c.done for c, more in zip(self._components, later)):
            return None
        if all(c.done for c in self._components):
            return None
        raise ConfigError(
            f"from sequence {self.g} on no source that has samples left has a weight above 0", field="weight"
        )
