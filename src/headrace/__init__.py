"""headrace: any stream in, exact tokens out, nothing lost, every token traceable.

The public names load what they need on first use, so that importing headrace costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.api import build, open
    from headrace.connectors.contract import Blob, Broken, Connector, ConnectorConfig, Gap, Idle, Item, Split
    from headrace.ingest.normalizers.contract import Bad, Normalizer, NormalizerConfig
    from headrace.schemas.record import RecordBuilder
    from headrace.shards.loader.dataset import ShardDataset
    from headrace.shards.loader.sources import Source
    from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer, TokenizerConfig

__version__ = "0.1.0"

_HOME = {
    "build": "headrace.api",
    "open": "headrace.api",
    "Blob": "headrace.connectors.contract",
    "Broken": "headrace.connectors.contract",
    "Connector": "headrace.connectors.contract",
    "ConnectorConfig": "headrace.connectors.contract",
    "Gap": "headrace.connectors.contract",
    "Idle": "headrace.connectors.contract",
    "Item": "headrace.connectors.contract",
    "Split": "headrace.connectors.contract",
    "Bad": "headrace.ingest.normalizers.contract",
    "Normalizer": "headrace.ingest.normalizers.contract",
    "NormalizerConfig": "headrace.ingest.normalizers.contract",
    "RecordBuilder": "headrace.schemas.record",
    "ShardDataset": "headrace.shards.loader.dataset",
    "Source": "headrace.shards.loader.sources",
    "Artefact": "headrace.tokenizers.contract",
    "Encoded": "headrace.tokenizers.contract",
    "Tokenizer": "headrace.tokenizers.contract",
    "TokenizerConfig": "headrace.tokenizers.contract",
}

__all__ = [
    "Artefact",
    "Bad",
    "Blob",
    "Broken",
    "Connector",
    "ConnectorConfig",
    "Encoded",
    "Gap",
    "Idle",
    "Item",
    "Normalizer",
    "NormalizerConfig",
    "RecordBuilder",
    "ShardDataset",
    "Source",
    "Split",
    "Tokenizer",
    "TokenizerConfig",
    "__version__",
    "build",
    "open",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module `headrace` has no attribute `{name}`")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
