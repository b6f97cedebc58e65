"""The documents of the loader benchmark: the same tokens for everybody, from a seed alone.

    tokens.bin   uint16, documents end to end, ids 1 … 49,999 (0 is left for padding)
    ends.npy     int64, where each document ends

Lengths are log-normal as those of web text are, of mean 500 (median 303), at most 32,768; the last document is cut so
that all of it is whole batches. Nothing here needs more than numpy: it is imported under every interpreter.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

LENGTH, BATCH = 2048, 8
MEAN = 500
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Corpus:
    """tokens: uint16, mapped; ends: int64 of every document."""

    tokens: npt.NDArray[np.uint16]
    ends: npt.NDArray[np.int64]

    def documents(self) -> Iterator[npt.NDArray[np.uint16]]:
        """Views, in order."""
        start = 0
        for end in self.ends.tolist():
            yield self.tokens[start:end]
            start = end

    def rows(self) -> Iterator[npt.NDArray[np.uint16]]:
        """Documents end to end, cut every `LENGTH`: what formats without documents hold."""
        yield from self.tokens.reshape(-1, LENGTH)


def make(folder: Path, tokens: int, seed: int = 1) -> None:
    """Write it, of about so many tokens."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(MEAN) - 0.5, 1.0, tokens // MEAN).astype(np.int64), 1, 1 << 15)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) // (LENGTH * BATCH) * (LENGTH * BATCH)
    ends = ends[: np.searchsorted(ends, total) + 1]
    ends[-1] = total
    folder.mkdir(parents=True)
    np.save(folder / "ends.npy", ends)
    with open(folder / "tokens.bin", "wb") as out:
        for start in range(0, total, _CHUNK):
            out.write(rng.integers(1, 50_000, min(_CHUNK, total - start), np.uint16).tobytes())


def read(folder: Path) -> Corpus:
    """Map it."""
    mapped = np.asarray(np.memmap(folder / "tokens.bin", np.uint16, mode="r"))
    return Corpus(mapped, np.load(folder / "ends.npy"))


@dataclass
class Sums:
    """What a reading must agree on: number and sum of the tokens, and their CRC-32 in the order they came."""

    count: int = 0
    total: int = 0
    crc: int = 0

    def add(self, tokens: npt.NDArray[np.generic]) -> None:
        """Padding (0) is left out."""
        real = tokens[tokens != 0].astype(np.uint16)
        self.count += len(real)
        self.total += int(real.sum(dtype=np.int64))
        self.crc = zlib.crc32(real.tobytes(), self.crc)
