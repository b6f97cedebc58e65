"""The lane side of a source that cannot be replayed: its spool, read as an exact source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from headrace.connectors.contract import Connector, Lag, Position, Read, Split
from headrace.ingest.spool import SpoolSettings
from headrace.ingest.spool_reader import SpoolReader
from headrace.schemas.errors import SourceError
from headrace.schemas.pipeline import Spool


class SpooledConnector(Connector):
    """What the receiver of an `inner` connector wrote down; `inner` itself is only asked who it is, never read."""

    bounded = False
    replay = "exact"

    def __init__(
        self, inner: type[Connector], config: Any, spool: Spool | SpoolSettings, folder: str | os.PathLike[str]
    ) -> None:
        super().__init__(config)
        self._inner = inner
        settings = spool if isinstance(spool, SpoolSettings) else SpoolSettings.of(spool)
        self.reader = SpoolReader(os.fspath(folder), settings)

    def describe(self) -> str:
        return self._inner(self.config).describe()

    def splits(self) -> Iterable[Split]:
        """The runs. Deletes on the way what was released and has become old enough since."""
        self.reader.sweep()
        return self.reader.runs()

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        return self.reader.read(split, after)

    def ack(self, split: Split, upto: Position) -> None:
        self.reader.release(split, upto)

    def lag(self, split: Split, after: Position) -> Lag | None:
        return self.reader.lag(split, after)

    def end_of(self, split: Split) -> Position:
        return self.reader.end_of(split)

    def probe(self) -> None:
        """Whether the spool can be listed. Raises: SourceError."""
        if not self.reader.exists():
            raise SourceError(f"there is no spool at {self.reader.folder}: start the receiver, which makes it")
        self.reader.runs()
