"""Records and shards of paper: what stands in for Arrow in most histories, because Arrow is most of a history's time.

Everything that decides anything stays real: walks, dedup, books, ranges, cuts, places. Only the leaves are replaced: a
record is a line of text, a shard or quarantine file is a JSON document. Every 50th history runs without paper.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from headrace.connectors.contract import Item
from headrace.ingest import lane_output
from headrace.ingest.normalizers.contract import Bad, Normalizer
from headrace.ingest.origin import Origin
from headrace.schemas.errors import RecordError
from headrace.shards.entry import Block, Entry, QuarantineInfo, Range, ShardInfo
from headrace.shards.names import quarantine_name, shard_name
from headrace.shards.store import Store

RECORD_BYTES = 1 << 20  #: as many as the lane is told that a record has: a few records make it full, even amid an item


class _Column:
    """Of nulls, as far as anybody asks."""

    def __init__(self, rows: int) -> None:
        self.nbytes = rows * RECORD_BYTES
        self.null_count = rows

    def __len__(self) -> int:
        return self.null_count


class PaperBatch:
    """Rows of any JSON value."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows
        self.num_rows = len(rows)

    def column(self, name: str) -> _Column:
        return _Column(self.num_rows)

    def slice(self, begin: int, size: int | None = None) -> PaperBatch:
        return PaperBatch(self.rows[begin:] if size is None else self.rows[begin : begin + size])


class PaperNormalizer(Normalizer):
    """Payload `<kind>:<id>` → what sources.FATES says."""

    modality = "text"

    def open(self, item: Item) -> Iterator[Any]:
        assert isinstance(item.data, bytes)
        kind, _, name = item.data.decode().partition(":")
        if kind == "b":
            raise RecordError("corrupt", f"{name} is bad")
        if kind == "m":
            yield PaperBatch([f"{name}#0", f"{name}#1"])
            yield PaperBatch([f"{name}#2"])
        elif kind == "h":
            yield PaperBatch([f"{name}#0"])
            yield Bad("invalid_row", f"{name}#1 is bad", f'{{"row":"{name}#1"}}', b"bad")
            yield PaperBatch([f"{name}#2"])
        elif kind == "g":
            yield PaperBatch([f"{name}#0"])


    def rows(self, item: Item) -> list[Any] | None:
        """Good ones can be taken together; all others are for `open`."""
        assert isinstance(item.data, bytes)
        kind, _, name = item.data.decode().partition(":")
        return [f"{name}#0"] if kind == "g" else None

    def gather(self, rows: Sequence[Any]) -> Any:
        return PaperBatch(list(rows))


class PaperCompleter:
    """Adds to each row where it comes from."""

    def __init__(self, *_: Any) -> None: ...

    def complete(self, draft: PaperBatch, origins: Sequence[Origin], modality: str) -> PaperBatch:
        rows = iter(draft.rows)
        return PaperBatch([[o.row.split.id, o.item.position, next(rows)] for o in origins for _ in range(o.rows)])


class PaperShardWriter:
    def __init__(
        self, store: Store, stream: str, lane: int, epoch: int, schema: Any, *, target_block_bytes: int = 0
    ) -> None:
        self.stream, self.lane = stream, lane
        self.path = shard_name(stream, lane, epoch)
        self.data_bytes = 0
        self.seconds_behind = 0.0
        self._rows: list[Any] = []
        self._file = store.writer(self.path)

    def append(self, batch: PaperBatch) -> None:
        self._rows += batch.rows
        self.data_bytes += batch.num_rows

    def close(self, ranges: Sequence[Range]) -> ShardInfo:
        data = json.dumps(self._rows).encode()
        self._file.write(data)
        assert self._file.close()
        rows = len(self._rows)
        return ShardInfo(
            self.stream, self.lane, self.path, hashlib.sha256(data).hexdigest(), len(data), rows, 0, 0, "", "",
            [Block(0, len(data), rows, 0, "")], list(ranges),
        )  # fmt: skip

    def abort(self) -> None:
        self._file.abort()


class PaperQuarantineWriter:
    def __init__(self, store: Store, stream: str, epoch: int) -> None:
        self.stream = stream
        self.path = quarantine_name(stream, epoch)
        self._rows: list[Any] = []
        self._items = 0
        self._reasons: dict[str, int] = {}
        self._file = store.writer(self.path)

    def add(
        self, *, reason: str, split: str, position: Any, raw: bytes | None, locator: str | None, whole: bool = False,
        **_: Any,
    ) -> None:  # fmt: skip
        self._rows.append([split, position, reason, whole, raw.decode() if raw else None, locator])
        self._items += whole
        self._reasons[reason] = self._reasons.get(reason, 0) + 1

    def close(self) -> QuarantineInfo:
        data = json.dumps(self._rows).encode()
        self._file.write(data)
        assert self._file.close()
        digest = hashlib.sha256(data).hexdigest()
        return QuarantineInfo(
            self.stream, self.path, digest, len(data), len(self._rows), self._items, dict(sorted(self._reasons.items()))
        )


def _open_outputs(tokenizers: dict[str, str], stream: Any, store: Store, retired: Any = ()) -> dict[str, Any]:
    return {
        modality: lane_output.OpenOutput(output, None, "paper")  # type: ignore[arg-type]
        for modality, output in stream.outputs.items()
    }


def _joined(drafts: Sequence[tuple[PaperBatch, Sequence[Origin]]]) -> tuple[PaperBatch, list[Origin]]:
    return PaperBatch([row for batch, _ in drafts for row in batch.rows]), [o for _, origins in drafts for o in origins]


def seal(entry: Entry) -> tuple[bytes, str]:
    """As `shards.entry.seal`, but all fields are written, tables as objects: ten times as fast."""
    line = orjson.dumps(entry) + b"\n"
    digest = hashlib.sha256(line).hexdigest()
    return line + digest.encode() + b"\n", digest


#: (module, name, what stands there in a history of paper)
PATCHES: list[tuple[str, str, Any]] = [
    ("headrace.ingest.lane_output", "open_outputs", _open_outputs),
    ("headrace.ingest.lane_output", "Completer", PaperCompleter),
    ("headrace.ingest.lane_output", "make_samples", lambda records, encoded, schema: records),
    ("headrace.ingest.lane_output", "ShardWriter", PaperShardWriter),
    ("headrace.ingest.lane_output", "QuarantineWriter", PaperQuarantineWriter),
    ("headrace.ingest.lane_output", "joined", _joined),
    ("headrace.ingest.walk", "modality_of", lambda batch: "text"),
]
