"""Plug-ins of the engine tests: lines that crash, hang, eat memory or fail when they are told to.

Copied beside a test's pipeline file and named there as `./plugins.py:Class`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headrace import (
    Artefact,
    Connector,
    ConnectorConfig,
    Encoded,
    Item,
    Normalizer,
    NormalizerConfig,
    RecordBuilder,
    Split,
    Tokenizer,
)
from headrace.schemas.errors import RecordError


class Lines(Connector):
    """Every line of every *.txt file; positions are byte offsets."""

    class Config(ConnectorConfig):
        root: str

    def splits(self) -> Iterator[Split]:
        for path in sorted(Path(self.config.root).glob("*.txt")):
            yield Split(path.name, weight=path.stat().st_size)

    def read(self, split: Split, after: Any) -> Iterator[Item]:
        with open(Path(self.config.root) / split.id, "rb") as f:
            f.seek(after or 0)
            while line := f.readline():
                yield Item(line.rstrip(), position=f.tell())


class Obedient(Normalizer):
    """One text record a line, two where it says TWO; does to its process what the line says."""

    class Config(NormalizerConfig):
        slow_s: float = 0.0

    modality = "text"

    def open(self, item: Item) -> Iterator[Any]:
        line = bytes(item.data)  # type: ignore[arg-type]
        if self.config.slow_s:
            time.sleep(self.config.slow_s)
        if b"SEGFAULT" in line:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"LOOP" in line:
            while True:
                pass
        if b"MEMORY" in line:
            bytearray(4 << 30)
        if b"REFUSE" in line:
            raise RecordError("corrupt", "the line says so")
        if b"RAISE" in line:
            raise ZeroDivisionError("the line says so")
        if b"NOTHING" in line:
            return
        builder = RecordBuilder("text")
        builder.add(locator='{"n":1}', text=line.decode())
        yield builder.finish()
        if b"TWO" in line:
            builder.add(locator='{"n":2}', text=line.decode()[::-1])
            yield builder.finish()
        if b"HALF" in line:
            raise RecordError("truncated", "the second half is missing")


class Bytes(Tokenizer):
    """One token a byte, shifted by what it was fitted to."""

    modalities = ("text",)
    fitted = True

    @classmethod
    def fit(cls, config: Any, records: Sequence[pa.RecordBatch], seed: int) -> Artefact:
        return Artefact("test-bytes", {"shift": sum(len(r.column("text")[0].as_py()) for r in records) % 7})

    @property
    def artefact(self) -> Artefact:
        assert self._artefact is not None
        return self._artefact

    @property
    def vocab_size(self) -> int:
        return 263

    def encode(self, records: pa.RecordBatch) -> Encoded:
        rows = []
        for text in records.column("text").to_pylist():
            if "ENCODE-NO" in text:
                raise RecordError("encode_failed", "the line says so")
            if "ENCODE-CRASH" in text:
                os.kill(os.getpid(), signal.SIGBUS)
            rows.append(np.frombuffer(text.encode(), np.uint8).astype(np.uint16) + self.artefact.params["shift"])
        return Encoded.of(rows, [0.0] * len(rows), [0.0] * len(rows), np.uint16)

    def decode(self, tokens: Sequence[Any]) -> pa.RecordBatch:
        builder = RecordBuilder("text")
        for row in tokens:
            builder.add(locator="{}", text=(row - self.artefact.params["shift"]).astype(np.uint8).tobytes().decode())
        return builder.finish()
