"""Plug-ins of live tests: messages of a file, and a normalizer and a tokenizer that do to their process what one says.

Copied beside a test's pipeline file and named there as `./live_plugins.py:Class`.
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
    Idle,
    Item,
    Normalizer,
    RecordBuilder,
    Split,
    Tokenizer,
)


class Messages(Connector):
    """The lines of a file, all there at once, and then nothing."""

    class Config(ConnectorConfig):
        path: str

    bounded = False

    def splits(self) -> list[Split]:
        return [Split("m", bounded=False)]

    def read(self, split: Split, after: Any) -> Iterator[Item | Idle]:
        lines = Path(self.config.path).read_bytes().splitlines()
        for number in range(0 if after is None else after + 1, len(lines)):
            yield Item(lines[number], number)
        while True:
            time.sleep(0.2)
            yield Idle()


class Obedient(Normalizer):
    """A text record a message, said in rows; does to its process what the message says."""

    modality = "text"

    def rows(self, item: Item) -> list[str]:
        line = bytes(item.data)  # type: ignore[arg-type]
        if b"SEGFAULT" in line:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"LOOP" in line:
            while True:
                pass
        if b"RAISE" in line:
            raise ZeroDivisionError("the line says so")
        return [line.decode()]

    def gather(self, rows: Sequence[str]) -> pa.RecordBatch:
        builder = RecordBuilder("text")
        for row in rows:
            builder.add(locator="{}", text=row)
        return builder.finish()

    def open(self, item: Item) -> Iterator[pa.RecordBatch]:
        yield self.gather(self.rows(item))


class Frail(Tokenizer):
    """One token a byte; dies of some records."""

    modalities = ("text",)

    @property
    def artefact(self) -> Artefact:
        return Artefact("test-frail", {})

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, records: pa.RecordBatch) -> Encoded:
        texts = records.column("text").to_pylist()
        if any("ENCODE-CRASH" in text for text in texts):
            os.kill(os.getpid(), signal.SIGBUS)
        rows = [np.frombuffer(text.encode(), np.uint8).astype(np.uint16) for text in texts]
        return Encoded.of(rows, [0.0] * len(rows), [0.0] * len(rows), np.uint16)

    def decode(self, tokens: Sequence[Any]) -> pa.RecordBatch:
        builder = RecordBuilder("text")
        for row in tokens:
            builder.add(locator="{}", text=row.astype(np.uint8).tobytes().decode())
        return builder.finish()
