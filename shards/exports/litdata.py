"""LitData, for its TokensLoader: `StreamingDataset("OUT/<stream>", item_loader=TokensLoader(block_size=…))`.

    OUT/<stream>/index.json, chunk-0-0.bin …        [u32 n] [u32 offset, n + 1] [int32 tokens of each sample]

The loader cuts each chunk's tokens into blocks across samples and drops what is left of a chunk, so samples are told
apart by their end of document. It reads tokens only: where they came from stands in lineage/.
Layout: litdata/streaming/writer.py and item_loader.py of litdata 0.2.76; 16 is its number for int32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.canonical import canonical_json
from headrace.shards.exports.contract import Cut, FileLine
from headrace.shards.exports.lineage import Lineage
from headrace.shards.exports.offset_file import OffsetFile, mapped, read_offsets
from headrace.shards.exports.outfile import write_file
from headrace.shards.exports.pieces import Piece
from headrace.shards.exports.plan import StreamPlan
from headrace.shards.exports.totals import Totals, sum_of

Rows = tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64], Piece]

#: The JSON of torch.utils._pytree's tree of one leaf, which LitData stores of each sample.
_LEAF = '[1, {"type": null, "context": null, "children_spec": []}]'


class LitDataSink:
    """Writes one stream; see the module."""

    def __init__(self, plan: StreamPlan, out: Path, work: Path) -> None:
        assert plan.marks is not None, "the plan leaves raw streams out"
        self._plan, self._marks, self._out, self._work = plan, plan.marks, out, work
        self._number = 0
        self._chunk: OffsetFile | None = None
        self._lineage: Lineage | None = None
        self._totals = Totals()

    def restore(self, shards: int, open: dict[str, int]) -> None:
        self._number = shards

    def encode(self, piece: Piece) -> Rows:
        values, offsets = self._marks.apply(*piece.content)
        return values, offsets, np.diff(offsets) * values.itemsize, piece

    def add(self, rows: Rows, start: int) -> int:
        values, offsets, sizes, piece = rows
        if self._chunk is None or self._lineage is None:
            name = self._plan.name
            limit = self._plan.options.shard_bytes or 0
            self._chunk = OffsetFile(self._out, f"{name}/chunk-0-{self._number}.bin", self._work, limit=limit)
            self._lineage = Lineage(self._out, name, self._number, self._work)
        stop = self._chunk.room(sizes, start)
        if stop > start:
            self._chunk.add(values[int(offsets[start]) : int(offsets[stop])], sizes[start:stop])
            self._lineage.add(piece, start, stop, np.diff(offsets[start : stop + 1]))
            self._totals = self._totals.plus(self._marks.expected(piece.totals(start, stop)))
        return stop

    def cut(self, last: bool) -> Cut:
        if self._chunk is None or self._lineage is None:
            return Cut([])
        chunk, lineage, totals = self._chunk, self._lineage, self._totals
        self._chunk, self._lineage, self._totals = None, None, Totals()
        self._number += 1
        return Cut([chunk.close(read_tokens, totals), lineage.close()])

    def finish(self, shards: list[FileLine]) -> list[FileLine]:
        chunks = [
            {"chunk_bytes": s.bytes, "chunk_size": s.samples, "dim": s.tokens, "filename": Path(s.path).name}
            for s in shards
        ]
        config = {
            "chunk_bytes": self._plan.options.shard_bytes,
            "chunk_size": None,
            "compression": None,
            "compression_batch_size": None,
            "compression_level": None,
            "data_format": ["no_header_tensor:16"],
            "data_spec": _LEAF,
            "encryption": None,
            "ipc_compression": None,
            "item_loader": "TokensLoader",
            "types": "tensor",
        }
        # LitData names its cache after `updated_at`: other content, another name.
        index = canonical_json({"chunks": chunks, "config": config, "updated_at": self._plan.export_id[:16]})
        return [write_file(self._out, f"{self._plan.name}/index.json", self._work / "index.json", index)]


def read_tokens(path: Path) -> Totals:
    """Totals of a chunk. Raises: StorageError."""
    data = mapped(path)
    offsets = read_offsets(path, data)
    tokens = data[int(offsets[0]) :].view("<i4")
    return Totals(len(offsets) - 1, len(tokens), sum_of(tokens))
