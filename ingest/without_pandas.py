"""Lets pyarrow decide that there is no pandas, which it would import at its first array (half a second).

Only for processes of our own, and where all code is ours: a plug-in may want to make Arrow tables of data frames.
"""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa

from headrace.connectors.registry import BUILTIN as CONNECTORS
from headrace.ingest.normalizers.registry import BUILTIN as NORMALIZERS
from headrace.schemas.pipeline import Pipeline
from headrace.tokenizers.registry import BUILTIN as TOKENIZERS
from headrace.tokenizers.registry import RAW


def all_built_in(pipeline: Pipeline) -> bool:
    """Whether no class of the pipeline comes from elsewhere."""
    for stream in pipeline.streams.values():
        tokenizers = stream.tokenizer
        several = list(tokenizers.values()) if isinstance(tokenizers, dict) else [tokenizers] if tokenizers else []
        known = [stream.source.type in CONNECTORS, stream.record.type in NORMALIZERS]
        known += [section.type in TOKENIZERS or section.type == RAW for section in several]
        if not all(known):
            return False
    return True


def leave_pandas_out() -> None:
    """For the rest of this process, pyarrow has no pandas; nothing if pandas is there already."""
    if "pandas" not in sys.modules:
        blocker = _NoPandas()
        sys.meta_path.insert(0, blocker)
        pa.array([0])
        sys.meta_path.remove(blocker)


class _NoPandas:
    """A finder that answers for pandas alone: it is not here."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out on purpose", name=name)
