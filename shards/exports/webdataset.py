"""WebDataset: `wds.WebDataset("OUT/<stream>/<stream>-{000000..000009}.tar")`.

    OUT/<stream>/<stream>-000000.tar …      parts of a sample side by side, by one key:

    <stream>-L0000-000000000017.json            address, provenance, findings
    <stream>-L0000-000000000017.tokens.npy      the ids; of raw streams .txt, or .pixels.npy, .samples.npy …

A key has no dot, since the first dot ends it: dots of a stream's name become `+`. It is the sample's address, so it is
unique in the whole dataset.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.schemas.record import PAYLOAD_COLUMN
from headrace.shards.exports.contract import Cut, FileLine
from headrace.shards.exports.mds import written
from headrace.shards.exports.meta import meta_rows
from headrace.shards.exports.offset_file import mapped
from headrace.shards.exports.outfile import OutFile
from headrace.shards.exports.parts import npy_array, npy_bytes, raw_parts, token_rows
from headrace.shards.exports.pieces import Piece
from headrace.shards.exports.plan import StreamPlan
from headrace.shards.exports.tar_file import ending, members, part, room
from headrace.shards.exports.totals import Totals, sum_of

Rows = tuple[list[bytes], npt.NDArray[np.int64], Piece]

_LONGEST_STREAM = 48


class WebDatasetSink:
    """Writes one stream; see the module."""

    def __init__(self, plan: StreamPlan, out: Path, work: Path) -> None:
        self._plan, self._out, self._work = plan, out, work
        self._limit = plan.options.shard_bytes or 0
        self._number = 0
        self._tar: OutFile | None = None
        self._totals = Totals()

    def restore(self, shards: int, open: dict[str, int]) -> None:
        self._number = shards

    def encode(self, piece: Piece) -> Rows:
        parts: dict[str, list[bytes | None]] = {"json": list(meta_rows(piece))}
        if self._plan.marks is not None:
            parts["tokens.npy"] = [npy_bytes(row) for row in token_rows(piece, self._plan.marks)]
        else:
            for name, values in raw_parts(piece).items():
                ending_ = "txt" if name == "text" else f"{name}.npy"
                parts[ending_] = [v if v is None or isinstance(v, bytes) else npy_bytes(v) for v in values]
        stem = key_stem(piece.stream, piece.lane)
        rows = [
            b"".join(part(f"{stem}{seq:012d}.{name}", data) for name, data in zip(parts, row) if data is not None)
            for seq, row in zip(piece.seqs.tolist(), zip(*parts.values()))
        ]
        return rows, np.fromiter(map(len, rows), np.int64, len(rows)), piece

    def add(self, rows: Rows, start: int) -> int:
        data, sizes, piece = rows
        if self._tar is None:
            self._tar = OutFile(self._out, shard_path(self._plan.name, self._number), self._work / "tar")
        left = room(self._limit) - self._tar.bytes
        stop = start + int(np.searchsorted(np.cumsum(sizes[start:]), left, side="right"))
        if stop == start and not self._tar.bytes:
            stop = start + 1
        if stop > start:
            self._tar.write(b"".join(data[start:stop]))
            self._totals = self._totals.plus(written(self._plan, piece, start, stop))
        return stop

    def cut(self, last: bool) -> Cut:
        if self._tar is None:
            return Cut([])
        tar, totals = self._tar, self._totals
        self._tar, self._totals = None, Totals()
        self._number += 1
        with tar:
            tar.write(ending(tar.bytes))
            return Cut([tar.publish(lambda path: read_tar(path, main_part(self._plan)), totals)])

    def finish(self, shards: list[FileLine]) -> list[FileLine]:
        return []


def shard_path(stream: str, number: int) -> str:
    """Where a shard lies in the export."""
    return f"{stream}/{stream}-{number:06d}.tar"


def key_stem(stream: str, lane: int) -> str:
    """The beginning of a sample's key; its sequence number in 12 digits follows. Long names end in their hash."""
    name = stream.replace(".", "+")
    if len(name) > _LONGEST_STREAM:
        name = f"{name[: _LONGEST_STREAM - 9]}-{hashlib.sha256(stream.encode()).hexdigest()[:8]}"
    return f"{name}-L{lane:04d}-"


def main_part(plan: StreamPlan) -> str:
    """The part that holds a sample's tokens or payload."""
    if plan.marks is not None:
        return "tokens.npy"
    column = PAYLOAD_COLUMN[plan.settings.modality]  # type: ignore[index]
    return "txt" if column == "text" else f"{column}.npy"


def read_tar(path: Path, main: str) -> Totals:
    """Totals of the parts that end in `main`. Raises: StorageError."""
    data = mapped(path)
    totals = Totals()
    for name, offset, size in members(path):
        if name.partition(".")[2] == main:
            part_ = data[offset : offset + size]
            values = part_ if main == "txt" else npy_array(part_)
            if main not in ("txt", "tokens.npy"):
                values = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            totals = totals.plus(Totals(1, values.size, sum_of(values)))
    return totals
