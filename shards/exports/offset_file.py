"""The shard that MDS and LitData have in common: a table of 32-bit offsets, then the samples back to back.

    [u32 n] [u32 offset, n + 1 of them, from the start of the file] [head] [sample 0] … [sample n-1]      little-endian

`head` is MDS's own description of its columns; LitData has none. The table comes first and its length is known last, so
the samples wait in a file of their own and are copied behind it: memory is 4 bytes a sample, whatever their size.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.errors import ConfigError, StorageError
from headrace.shards.exports.contract import FileLine
from headrace.shards.exports.outfile import OutFile
from headrace.shards.exports.totals import Totals
from headrace.shards.store_local import storage_error

_CHUNK = 4 << 20
LIMIT = (1 << 32) - 1


class OffsetFile:
    """One such shard being written, of at most `limit` bytes unless its first sample is larger."""

    def __init__(self, folder: Path, path: str, work: Path, *, head: bytes = b"", limit: int = LIMIT) -> None:
        self._folder, self._path, self._work, self._head, self._limit = folder, path, work, head, limit
        self._body = OutFile(folder, path + ".body", work / "body")
        self._sizes = array("Q")
        self._size = 8 + len(head)

    def __len__(self) -> int:
        return len(self._sizes)

    def room(self, sizes: npt.NDArray[np.int64], start: int) -> int:
        """How far samples of these sizes fit from `start` on: the first one that does not."""
        ends = self._size + np.cumsum(sizes[start:] + 4)
        fitting = int(np.searchsorted(ends, self._limit, side="right"))
        if fitting or len(self._sizes):
            return start + fitting
        if ends[0] > LIMIT:
            raise ConfigError(
                f"a sample takes {int(sizes[start]):,} bytes, a shard of this format holds less than 4 GiB: export to"
                " parquet or webdataset",
                field="--to",
            )
        return start + 1

    def add(self, data: Any, sizes: npt.NDArray[np.int64]) -> None:
        """Append samples that lie back to back in `data`."""
        self._body.write(data)
        self._sizes.frombytes(np.ascontiguousarray(sizes, np.uint64).tobytes())
        self._size += int(sizes.sum()) + 4 * len(sizes)

    def close(self, read_back: Callable[[Path], Totals], expected: Totals, **detail: Any) -> FileLine:
        """Put the shard together and publish it. Raises: StorageError."""
        sizes = np.frombuffer(self._sizes, np.uint64).astype(np.int64)
        begin = 4 * (len(sizes) + 2) + len(self._head)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]) + begin
        with OutFile(self._folder, self._path, self._work / "shard") as out:
            out.write(np.uint32(len(sizes)).tobytes())
            out.write(offsets.astype("<u4"))
            out.write(self._head)
            self._body.flush()
            _copy(self._work / "body", out)
            self._body.abort()
            return out.publish(read_back, expected, **detail)


def read_offsets(path: Path, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """The table of a shard mapped as bytes. Raises: StorageError if it contradicts itself."""
    count = int(data[:4].view("<u4")[0])
    offsets: npt.NDArray[np.uint32] = data[4 : 4 * (count + 2)].view("<u4")
    if len(offsets) != count + 1 or int(offsets[-1]) != len(data) or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise StorageError(f"{path}: the table of offsets is damaged")
    return offsets


def mapped(path: Path) -> npt.NDArray[np.uint8]:
    """A file as bytes, without reading it at once. Raises: StorageError."""
    try:
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)  # slices of the subclass cost four times as much
    except (OSError, ValueError) as exc:
        raise StorageError(f"cannot read {path}: {exc}") from exc


def joined(parts: Sequence[bytes]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """(the parts back to back, their sizes)."""
    return b"".join(parts), np.fromiter(map(len, parts), np.int64, len(parts))


def _copy(source: Path, out: OutFile) -> None:
    try:
        with open(source, "rb", buffering=0) as f:
            while data := f.read(_CHUNK):
                out.write(data)
    except OSError as exc:
        raise storage_error("read", str(source), exc) from exc
