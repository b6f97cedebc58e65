"""Megatron's `.bin/.idx`: `--data-path OUT/<stream>/<stream>`, or IndexedDataset of that prefix.

    .bin    tokens back to back
    .idx    "MMIDIDX\\0\\0" [u64 version 1] [u8 dtype] [u64 n] [u64 n + 1]
            [i32 length of each sequence] [i64 its byte in .bin] [i64 sequence at which each document begins, and n]

A sample is one sequence and one document, as its preprocess tool makes them; with `eod` it ends in that id, as with
--append-eod. dtype is 8 (uint16) where the ids fit and else 4 (int32): there is no uint32.
Source: megatron/core/datasets/indexed_dataset.py of megatron-core 0.16; the files are those that its
IndexedDatasetBuilder makes of the same documents, byte for byte.

One file holds a whole stream, so it is appended to: after each `SEGMENT_BYTES` its length is noted, and a run that was
cut off goes on from there. Lengths wait in a file of their own, so memory does not grow with the number of samples.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.errors import StorageError
from headrace.shards.exports.contract import Cut, FileLine
from headrace.shards.exports.lineage import Lineage
from headrace.shards.exports.outfile import OutFile, compared, digests, give_name
from headrace.shards.exports.pieces import Piece
from headrace.shards.exports.plan import StreamPlan
from headrace.shards.exports.totals import Totals, sum_of
from headrace.shards.store_local import storage_error

SEGMENT_BYTES = 256 << 20
_DTYPES = {"int32": 4, "uint16": 8}
_CHUNK = 1 << 20  #: sequences, or tokens, at a time

Rows = tuple[npt.NDArray[Any], npt.NDArray[np.int64], Piece]


class MegatronSink:
    """Writes one stream; see the module."""

    def __init__(self, plan: StreamPlan, out: Path, work: Path) -> None:
        assert plan.marks is not None, "the plan leaves raw streams out"
        self._plan, self._marks, self._out, self._work = plan, plan.marks, out, work
        self._itemsize = plan.marks.dtype.itemsize
        self._limit = plan.options.max_shard_bytes
        self._number = self._segment = 0
        self._bin: _Growing | None = None
        self._lengths: _Growing | None = None
        self._totals = Totals()  #: of the shard
        self._segment_bytes = 0
        self._full = False
        self._lineage: Lineage | None = None

    def restore(self, shards: int, open: dict[str, int]) -> None:
        self._number, self._segment = shards, open.get("segment", shards)
        if open.get("samples"):
            self._totals = Totals(open["samples"], open["tokens"], open["sum"])
            self._bin = _Growing(self._work / "bin", open["tokens"] * self._itemsize)
            self._lengths = _Growing(self._work / "lengths", open["samples"] * 4)

    def encode(self, piece: Piece) -> Rows:
        values, offsets = self._marks.apply(*piece.content)
        return values, offsets, piece

    def add(self, rows: Rows, start: int) -> int:
        values, offsets, piece = rows
        ends = np.cumsum(np.diff(offsets[start:])) * self._itemsize
        stop = start + int(np.searchsorted(ends, SEGMENT_BYTES - self._segment_bytes, side="right"))
        if stop == start and not self._segment_bytes:
            stop = start + 1
        if self._limit is not None:
            left = self._limit - self._totals.tokens * self._itemsize
            fitting = start + int(np.searchsorted(ends, left, side="right"))
            if fitting == start and not self._totals.samples:
                fitting = start + 1
            self._full = fitting <= stop and fitting < piece.rows
            stop = min(stop, fitting)
        if stop > start:
            self._write(values[int(offsets[start]) : int(offsets[stop])], np.diff(offsets[start : stop + 1]))
            if self._lineage is None:
                self._lineage = Lineage(
                    self._out, self._plan.name, self._segment, self._work,
                    shard=self._number, index=self._totals.samples, offset=self._totals.tokens,
                )  # fmt: skip
            self._lineage.add(piece, start, stop, np.diff(offsets[start : stop + 1]))
            self._totals = self._totals.plus(self._marks.expected(piece.totals(start, stop)))
        return stop

    def cut(self, last: bool) -> Cut:
        files = []
        if self._lineage is not None:
            files.append(self._lineage.close())
            self._lineage = None
            self._segment += 1
        self._segment_bytes = 0
        if self._bin is None or self._lengths is None:
            return Cut(files)
        self._bin.sync()
        self._lengths.sync()
        if self._full or last:
            return Cut([*self._close(), *files])
        totals = self._totals
        state = {"samples": totals.samples, "tokens": totals.tokens, "sum": totals.sum, "segment": self._segment}
        return Cut(files, state)

    def finish(self, shards: list[FileLine]) -> list[FileLine]:
        return []

    def _write(self, values: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> None:
        if self._bin is None or self._lengths is None:
            self._bin, self._lengths = _Growing(self._work / "bin", 0), _Growing(self._work / "lengths", 0)
        self._bin.write(values)
        self._lengths.write(lengths.astype("<i4"))
        self._segment_bytes += values.nbytes

    def _close(self) -> list[FileLine]:
        """Compare, write the index, and give both files their names: the index first, so that it is never missing."""
        assert self._bin is not None and self._lengths is not None
        self._bin.close()
        self._lengths.close()
        number = f"-{self._number:05d}" if self._limit is not None else ""
        prefix = f"{self._plan.name}/{self._plan.name}{number}"
        totals = compared(f"{prefix}.bin", self._read_back(), self._totals)
        size = os.path.getsize(self._work / "bin")
        idx = OutFile(self._out, f"{prefix}.idx", self._work / "idx")
        index = write_index(self._work / "lengths", self._marks.dtype, idx)
        sha256 = digests(self._work / "bin")[1]
        give_name(self._work / "bin", self._out / f"{prefix}.bin")
        self._bin = self._lengths = None
        self._totals, self._full = Totals(), False
        self._number += 1
        return [FileLine(f"{prefix}.bin", size, sha256, totals.samples, totals.tokens, totals.sum), index]

    def _read_back(self) -> Totals:
        """Totals of the two working files together."""
        lengths = np.memmap(self._work / "lengths", "<i4", mode="r")
        tokens = np.memmap(self._work / "bin", self._marks.dtype, mode="r")
        if int(lengths.sum(dtype=np.int64)) != len(tokens):
            raise StorageError(f"{self._work / 'bin'}: the lengths do not add up to its {len(tokens)} tokens")
        found = Totals(len(lengths), 0, 0)
        for start in range(0, len(tokens), _CHUNK):
            part = tokens[start : start + _CHUNK]
            found = found.plus(Totals(0, len(part), sum_of(part)))
        return found


def write_index(lengths: Path, dtype: np.dtype[Any], out: OutFile) -> FileLine:
    """The `.idx` of sequences with these lengths, each its own document. Raises: StorageError."""
    sizes = np.memmap(lengths, "<i4", mode="r")
    count = len(sizes)
    with out:
        out.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, _DTYPES[dtype.name], count, count + 1))
        for start in range(0, count, _CHUNK):
            out.write(np.ascontiguousarray(sizes[start : start + _CHUNK]))
        at = 0
        for start in range(0, count, _CHUNK):
            part = sizes[start : start + _CHUNK].astype("<i8") * dtype.itemsize
            out.write(at + np.cumsum(part) - part)
            at += int(part.sum())
        for start in range(0, count + 1, _CHUNK):
            out.write(np.arange(start, min(start + _CHUNK, count + 1), dtype="<i8"))
        return out.publish()


class _Growing:
    """A working file that is appended to, and cut to the length that the journal noted."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        try:
            self._file = open(path, "r+b" if size else "w+b", buffering=1 << 20)  # noqa: SIM115
            have = os.fstat(self._file.fileno()).st_size
            if have < size:
                raise StorageError(f"{path} has {have} bytes, {size} were noted: remove the export and begin again")
            self._file.truncate(size)
            self._file.seek(size)
        except OSError as exc:
            raise storage_error("write", str(path), exc) from exc

    def write(self, data: npt.NDArray[Any]) -> None:
        try:
            self._file.write(np.ascontiguousarray(data).view(np.uint8).data)
        except OSError as exc:
            raise storage_error("write", str(self._path), exc) from exc

    def sync(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise storage_error("write", str(self._path), exc) from exc

    def close(self) -> None:
        self._file.close()
