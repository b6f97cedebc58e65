"""Arrow schemas of samples: what shards hold, one row per record.

A sample is a record's provenance and findings, its tokens, and the measured fidelity of those tokens; raw streams
hold the record's payload instead of tokens. Columns marked `content` make up the canonical row, and so decide whether
two builds are the same; names of shards, lanes, times of runs never enter it.

Canonical row:

    [16 bytes record_id][u8 token width, 0 if raw][u64 LE count][tokens, little-endian][canonical JSON of the rest]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from headrace.schemas.canonical import canonical_json
from headrace.schemas.record import DRAFT, PAYLOAD, PAYLOAD_COLUMN, PROVENANCE, Modality, list_views

TokenDtype = Literal["uint16", "uint32"]

SCHEMA_VERSION = 1

#: Columns whose values decide whether two datasets hold the same content (with record_id and tokens).
CONTENT = (
    "content_sha256",
    "event_time",
    "event_end",
    "group_id",
    "fold",
    "license",
    "flags",
    "error",
    "clip_fraction",
)

FIDELITY: list[pa.Field] = [
    pa.field("error", pa.float32()),  # reconstruction error in the tokenizer's `error_unit`; null where not measured
    pa.field("clip_fraction", pa.float32()),  # share of values outside the tokenizer's range
]


#: Payload columns that tokens stand for. The others (channel, unit, CRS, bands, pts) stay beside the tokens.
BULK = frozenset({"text", "pixels", "samples", "t", "value", "valid", "cloud", "data"})


def sample_schema(modality: Modality, tokens: TokenDtype | None, metadata: dict[str, str] | None = None) -> pa.Schema:
    """Schema of a stream's shards; `tokens` None means raw pass-through, with the whole payload of the record."""
    fields = list(PROVENANCE + DRAFT + FIDELITY)
    if tokens is None:
        fields += PAYLOAD[modality]
    else:
        fields += [field for field in PAYLOAD[modality] if field.name not in BULK]
        kind = pa.uint16() if tokens == "uint16" else pa.uint32()
        fields.append(pa.field("tokens", pa.large_list(pa.field("item", kind, nullable=False)), nullable=False))
    marked = [f.with_metadata({"content": "1"}) if f.name in CONTENT else f for f in fields]
    base = {"headrace.modality": modality, "headrace.schema": str(SCHEMA_VERSION)}
    return pa.schema(marked, metadata={**base, **(metadata or {})})


def canonical_rows(batch: pa.RecordBatch) -> Iterator[bytes]:
    """The canonical row of every sample of a shard batch, in order."""
    ids = batch.column("record_id").to_pylist()
    others = [(name, _plain(batch.column(name))) for name in CONTENT if name in batch.schema.names]
    if "tokens" in batch.schema.names:
        column = batch.column("tokens")
        width = column.type.value_type.bit_width // 8
        bodies: Iterator[bytes] = (np.ascontiguousarray(view).tobytes() for view in list_views(batch, "tokens"))
    else:
        width = 0
        bodies = (b"" for _ in ids)  # raw rows are covered by content_sha256
    for i, (record_id, body) in enumerate(zip(ids, bodies)):
        rest = canonical_json({name: values[i] for name, values in others})
        count = len(body) // width if width else 0
        yield b"".join((record_id, bytes([width]), count.to_bytes(8, "little"), body, rest))


def _plain(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.int64()).to_pylist()
    if pa.types.is_floating(kind):
        return [None if v is None else np.float32(v).tobytes().hex() for v in column.to_pylist()]
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        return [None if v is None else v.hex() for v in column.to_pylist()]
    return column.to_pylist()


class ContentDigest:
    """Accumulates `content_digest`: sha256 over (stream, split, sha256 of the split's canonical rows), sorted."""

    def __init__(self) -> None:
        self._splits: dict[tuple[str, str], Any] = {}
        self.samples = 0
        self.tokens = 0

    def add(self, stream: str, batch: pa.RecordBatch) -> None:
        """Add one committed batch; the batches of a split must come in row order."""
        splits = batch.column("split").to_pylist()
        for split, row in zip(splits, canonical_rows(batch)):
            state = self._splits.get((stream, split))
            if state is None:
                state = self._splits[stream, split] = hashlib.sha256()
            state.update(len(row).to_bytes(8, "little"))
            state.update(row)
        self.samples += batch.num_rows
        if "tokens" in batch.schema.names:
            self.tokens += len(batch.column("tokens").flatten())

    def hexdigest(self) -> str:
        """The digest of everything added."""
        rows = sorted((stream, split, state.hexdigest()) for (stream, split), state in self._splits.items())
        return hashlib.sha256(canonical_json(rows)).hexdigest()


def payload_column(modality: Modality) -> str:
    """The column of a raw sample that holds its bytes."""
    return PAYLOAD_COLUMN[modality]
