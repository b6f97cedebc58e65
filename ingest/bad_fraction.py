"""Stops a stream that has turned to garbage, before it drains into quarantine."""

from __future__ import annotations

from collections import deque

WINDOW = 10_000  #: records


class BadFraction:
    """The share of bad records among the last `window` of a lane."""

    def __init__(self, limit: float, window: int = WINDOW) -> None:
        self._limit = limit
        self._window = window
        self._recent: deque[tuple[int, int]] = deque()
        self._good = self._bad = 0

    def add(self, good: int = 0, bad: int = 0) -> None:
        """Count records, in order."""
        self._recent.append((good, bad))
        self._good += good
        self._bad += bad
        while self._recent and self._good + self._bad - sum(self._recent[0]) >= self._window:
            first_good, first_bad = self._recent.popleft()
            self._good -= first_good
            self._bad -= first_bad

    @property
    def exceeded(self) -> bool:
        """Whether a full window holds more bad records than allowed."""
        total = self._good + self._bad
        return total >= self._window and self._bad > self._limit * total

    def message(self) -> str:
        """For people."""
        return (
            f"{self._bad:,} of the last {self._good + self._bad:,} records are bad, more than max_bad_fraction ="
            f" {self._limit:g} allows: look at `headrace quarantine ls`, then resume the stream"
        )
