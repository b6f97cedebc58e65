"""MDS, for mosaicml-streaming: `StreamingDataset(local="OUT/<stream>", batch_size=…)`.

    OUT/<stream>/index.json, shard.00000.mds …

    sample    [u32 size of each column, by name] [meta: JSON] [tokens: ndarray of a fixed dtype]
    ndarray   [u8 ndim << 2 | log2 of the bytes of a dimension] [shape] [values]

Raw streams have their payload as bytes (or str) in place of tokens, with shape and dtype in `meta`.
Layout: streaming/base/format/mds of mosaicml-streaming 0.13; its MDSWriter makes the same shards of the same rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.canonical import canonical_json
from headrace.schemas.record import PAYLOAD, PAYLOAD_COLUMN
from headrace.schemas.sample import BULK
from headrace.shards.exports.contract import Cut, FileLine
from headrace.shards.exports.meta import meta_rows
from headrace.shards.exports.offset_file import OffsetFile, joined, mapped, read_offsets
from headrace.shards.exports.outfile import write_file
from headrace.shards.exports.parts import raw_parts, token_rows
from headrace.shards.exports.pieces import Piece
from headrace.shards.exports.plan import StreamPlan
from headrace.shards.exports.totals import Totals, sum_of

Rows = tuple[list[bytes], npt.NDArray[np.int64], Piece]


class MdsSink:
    """Writes one stream; see the module."""

    def __init__(self, plan: StreamPlan, out: Path, work: Path) -> None:
        self._plan, self._out, self._work = plan, out, work
        self._columns = columns_of(plan)
        names = sorted(self._columns)
        self._config: dict[str, Any] = {
            "column_encodings": [self._columns[n] for n in names],
            "column_names": names,
            "column_sizes": [None] * len(names),
            "compression": None,
            "format": "mds",
            "hashes": ["sha256"],
            "size_limit": plan.options.shard_bytes,
            "version": 2,
        }
        self._main = names.index("tokens" if plan.marks else PAYLOAD_COLUMN[plan.settings.modality])  # type: ignore[index]
        self._number = 0
        self._shard: OffsetFile | None = None
        self._totals = Totals()

    def restore(self, shards: int, open: dict[str, int]) -> None:
        self._number = shards

    def encode(self, piece: Piece) -> Rows:
        columns: dict[str, list[bytes]] = {"meta": meta_rows(piece)}
        if self._plan.marks is not None:
            columns["tokens"] = [array_bytes(row) for row in token_rows(piece, self._plan.marks)]
        else:
            for name, values in raw_parts(piece).items():
                columns[name] = [b"" if v is None else v if isinstance(v, bytes) else v.tobytes() for v in values]
        ordered = [columns[name] for name in sorted(columns)]
        sizes = np.array([[len(v) for v in column] for column in ordered], "<u4").T
        rows = [b"".join((head.tobytes(), *values)) for head, values in zip(sizes, zip(*ordered))]
        return rows, np.fromiter(map(len, rows), np.int64, len(rows)), piece

    def add(self, rows: Rows, start: int) -> int:
        parts, sizes, piece = rows
        if self._shard is None:
            path = f"{self._plan.name}/shard.{self._number:05d}.mds"
            head = json.dumps(self._config, sort_keys=True).encode()
            limit = self._plan.options.shard_bytes or 0
            self._shard = OffsetFile(self._out, path, self._work, head=head, limit=limit)
        stop = self._shard.room(sizes, start)
        if stop > start:
            data, taken = joined(parts[start:stop])
            self._shard.add(data, taken)
            self._totals = self._totals.plus(written(self._plan, piece, start, stop))
        return stop

    def cut(self, last: bool) -> Cut:
        if self._shard is None:
            return Cut([])
        shard, totals = self._shard, self._totals
        self._shard, self._totals = None, Totals()
        self._number += 1
        return Cut([shard.close(lambda path: read_mds(path, self._main, self._plan.dtype_name), totals)])

    def finish(self, shards: list[FileLine]) -> list[FileLine]:
        listed = []
        for line in shards:
            raw = {"basename": Path(line.path).name, "bytes": line.bytes, "hashes": {"sha256": line.sha256}}
            listed.append({**self._config, "raw_data": raw, "samples": line.samples, "zip_data": None})
        data = canonical_json({"shards": listed, "version": 2})
        return [write_file(self._out, f"{self._plan.name}/index.json", self._work / "index.json", data)]


def columns_of(plan: StreamPlan) -> dict[str, str]:
    """Column name → MDS encoding."""
    if plan.marks is not None:
        return {"meta": "json", "tokens": f"ndarray:{plan.dtype_name}"}
    payload = [f.name for f in PAYLOAD[plan.settings.modality] if f.name in BULK]  # type: ignore[index]
    return {"meta": "json", **{name: "str" if name == "text" else "bytes" for name in payload}}


def written(plan: StreamPlan, piece: Piece, start: int, stop: int) -> Totals:
    """What these rows must read back as."""
    found = piece.totals(start, stop)
    return plan.marks.expected(found) if plan.marks else found


def array_bytes(row: npt.NDArray[Any]) -> bytes:
    """A one-dimensional array as MDS's `ndarray:<dtype>` has it."""
    length = len(row)
    code, kind = (0, "<u1") if length < 1 << 8 else (1, "<u2") if length < 1 << 16 else (2, "<u4")
    return bytes([1 << 2 | code]) + np.array(length, kind).tobytes() + row.tobytes()


def read_mds(path: Path, main: int, dtype: str | None) -> Totals:
    """Totals of a shard's column number `main`: ids of `dtype`, or bytes. Raises: StorageError."""
    data = mapped(path)
    offsets = read_offsets(path, data).tolist()
    count = len(offsets) - 1
    names = json.loads(data[4 * (count + 2) : offsets[0]].tobytes())["column_names"] if count else []
    totals = Totals()
    for start in offsets[:-1]:
        sizes = data[start : start + 4 * len(names)].view("<u4").tolist()
        at = start + 4 * len(names) + sum(sizes[:main])
        value = data[at : at + sizes[main]]
        if dtype is not None:
            width = 1 << (int(value[0]) & 3)
            value = value[1 + width * (int(value[0]) >> 2) :].view(dtype)
        totals = totals.plus(Totals(1, len(value), sum_of(value)))
    return totals
