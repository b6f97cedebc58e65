"""What a loader reads: datasets, the streams of each, and in which proportion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.schemas.errors import ConfigError

#: A weight, or a schedule of them: pairs (from this sequence number on, weight), the first from 0.
Weight = float | Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Source:
    """Streams that are shuffled together, and their weight among the other sources.

    dataset: folder or `s3://bucket/prefix`. streams: names, `name@*` for all versions of one, or None for every stream
    that holds tokens. weight: a share of the *sequences*; a schedule [(0, 1), (50_000, 3)] changes it at global
    sequence numbers. version: a version number or digest to pin; None takes the newest. fold: "train", "validation",
    "test", or None for all rows. options: of the store (endpoint_url, …).
    """

    dataset: str
    streams: str | Sequence[str] | None = None
    weight: Weight = 1
    version: int | str | None = None
    fold: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def names(self) -> list[str] | None:
        """The patterns of its streams."""
        if self.streams is None or isinstance(self.streams, str):
            return None if self.streams is None else [self.streams]
        return list(self.streams)

    def steps(self) -> list[tuple[int, float]]:
        """The weight as a schedule. Raises: ConfigError for one that is negative, or does not begin at 0."""
        steps = [(0, self.weight)] if isinstance(self.weight, (int, float)) else [(int(g), w) for g, w in self.weight]
        starts = [g for g, _ in steps]
        if not steps or starts[0] != 0 or starts != sorted(set(starts)) or any(not 0 <= w < 1e9 for _, w in steps):
            raise ConfigError(
                "a weight is a number of 0 or more, or pairs (sequence number, weight) that begin at 0 and ascend",
                field=f"weight of {self.dataset}",
                value=self.weight,
            )
        return steps


def as_sources(given: str | Source | Sequence[str | Source]) -> list[Source]:
    """The sources, whatever form they were given in. Raises: ConfigError if there is none."""
    listed = [given] if isinstance(given, (str, Source)) else list(given)
    if not listed:
        raise ConfigError("name at least one dataset", field="sources")
    return [s if isinstance(s, Source) else Source(str(s)) for s in listed]
