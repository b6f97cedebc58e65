"""A connector in a file, since a pipeline must name one; the simulated sources take its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.connectors.contract import Connector, ConnectorConfig, Split


class Ticker(Connector):
    Config = ConnectorConfig
    bounded = False

    def splits(self) -> list[Split]:
        return []

    def read(self, split: Split, after: Any) -> Iterator[Any]:
        return iter(())
