"""What a format must do: take rows, end a segment, and say what it wrote.

A stream is written as a row of segments, each made durable and then noted in the journal, so that a run that was cut
off goes on behind the last one. Where segments end follows from the rows alone. Most formats end one with each shard;
Megatron, whose file is one for the whole stream, appends to it and notes how far it got.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace.shards.exports.pieces import Piece
from headrace.shards.exports.totals import Totals
from headrace.shards.wire import Wire


@dataclass(frozen=True, slots=True)
class FileLine(Wire):
    """A file of an export that is complete. `path` is relative to the export; totals are 0 for index files."""

    path: str
    bytes: int
    sha256: str
    samples: int = 0
    tokens: int = 0
    sum: int = 0
    detail: dict[str, Any] = field(default_factory=dict)  #: what the format's own index says of it

    @property
    def totals(self) -> Totals:
        return Totals(self.samples, self.tokens, self.sum)


@dataclass(frozen=True)
class Cut:
    """The end of a segment: files that are complete, read back and durable, and the state of one that stays open."""

    files: list[FileLine]
    open: dict[str, int] = field(default_factory=dict)


class Sink(Protocol):
    """Writes one stream. Errors: StorageError (disk), ConfigError (the format cannot hold this)."""

    def restore(self, shards: int, open: dict[str, int]) -> None:
        """Go on behind a journal that lists `shards` complete shards and this open state."""

    def encode(self, piece: Piece) -> Any:
        """The rows of a piece in the form that `add` takes."""

    def add(self, rows: Any, start: int) -> int:
        """Write rows from `start` on. Returns: the first row that no longer fits; the number of rows if all did."""

    def cut(self, last: bool) -> Cut:
        """End the segment; `last`: the stream ends here."""

    def finish(self, shards: list[FileLine]) -> list[FileLine]:
        """The stream's index files, made of the complete shards in order."""
