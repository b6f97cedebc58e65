"""A tokenizer with a fast engine that is wrong when it is told to. Files beside this one say what it does to whom.

A line with WRONG gets a token too many from the fast engine, which decoding leaves out, so its text is proven by its
tokens. WORSE gives tokens of another text; LOSSY is a line of which tokens never give the text back, even from the
reference. A line with CHECKED is compared with the reference. `no-engine`: the reference encodes from the start.
`slow`: the reference takes its time once the engine is retired.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headrace import Artefact, Encoded, RecordBuilder, Tokenizer
from headrace.schemas.errors import EngineMismatch

QUICK = "quick 1.0"
NOTHING = 256  #: a token that decodes to nothing
HERE = Path(__file__).parent


class Words(Tokenizer):
    """One token a byte."""

    modalities = ("text",)

    def __init__(self, config: Any, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        self._engine = "reference" if (HERE / "no-engine").exists() else QUICK
        self._retired = False

    @property
    def artefact(self) -> Artefact:
        return Artefact("test-words", {})

    @property
    def vocab_size(self) -> int:
        return 257

    @property
    def engine(self) -> str:
        return self._engine

    def retire_engine(self) -> None:
        self._engine, self._retired = "reference", True

    def encode(self, records: pa.RecordBatch) -> Encoded:
        texts = records.column("text").to_pylist()
        rows = [_reference(text) for text in texts]
        if self._engine == QUICK:
            fast = [_quick(text) for text in texts]
            for i, text in enumerate(texts):
                if "CHECKED" in text and not np.array_equal(fast[i], rows[i]):
                    raise EngineMismatch(f"{len(fast[i])} tokens, not {len(rows[i])}", engine=QUICK, row=i)
            rows = fast
        elif self._retired and (HERE / "slow").exists():
            time.sleep(0.3)
        return Encoded.of(rows, [float(len(r)) for r in rows], [0.0] * len(rows), np.uint16)

    def decode(self, tokens: Sequence[Any]) -> pa.RecordBatch:
        builder = RecordBuilder("text")
        for row in tokens:
            text = bytes(np.asarray(row)[np.asarray(row) != NOTHING].astype(np.uint8)).decode()
            builder.add(locator="{}", text=text)
        return builder.finish()


def _reference(text: str) -> Any:
    return np.frombuffer((text.lower() if "LOSSY" in text else text).encode(), np.uint8).astype(np.uint16)


def _quick(text: str) -> Any:
    tokens = _reference(text)
    if "WORSE" in text:
        return np.array([200, *tokens[::-1]], np.uint16)  # no UTF-8 begins so
    return np.array([NOTHING, *tokens], np.uint16) if "WRONG" in text else tokens
