"""Completes drafts with provenance, and joins records and tokens into samples."""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from headrace.connectors.contract import Item
from headrace.ingest.origin import Origin
from headrace.ingest.place import position_key
from headrace.ingest.place_id import place_id
from headrace.ingest.resolve import Output, ResolvedStream
from headrace.schemas.canonical import canonical_json
from headrace.schemas.pipeline import Folds, Grid
from headrace.schemas.record import DRAFT, PROVENANCE, Modality, content_hashes, record_ids, record_schema
from headrace.schemas.sample import SCHEMA_VERSION, sample_schema
from headrace.shards.entry import StreamSettings
from headrace.shards.writer import shard_metadata
from headrace.tokenizers.contract import Encoded, Tokenizer

_REMEMBERED_PARENTS = 4096

T = TypeVar("T")


class Completer:
    """Turns the drafts of one stream into records. One per lane: it remembers the parents of the current item."""

    def __init__(self, stream: ResolvedStream, folds: Folds, source: str, grid: Grid | None = None) -> None:
        self._stream = stream
        self._folds = folds
        self._grid = grid
        self._source = source
        self._parents: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def complete(self, draft: pa.RecordBatch, origins: Sequence[Origin], modality: Modality) -> pa.RecordBatch:
        """The record batch of a draft batch whose rows come from `origins`: ids, source, license, fold, group."""
        n = draft.num_rows
        output = self._stream.outputs[modality]
        items = _each([origin.item for origin in origins], origins, n)
        objects = _each([origin.object_id for origin in origins], origins, n)
        hashes = content_hashes(draft)
        locators = draft.column("locator").to_pylist()
        ids = record_ids(output.name, objects, locators, hashes)
        groups = self._groups(draft, origins, objects, locators)
        own: dict[str, pa.Array] = {
            "record_id": pa.array(ids, pa.binary(16)),
            "source": _repeat(self._source, n),
            "uri": _strings([origin.object_id for origin in origins], origins, n),
            "split": _strings([origin.row.split.id for origin in origins], origins, n),
            "position": _strings([position_key(origin.item.position) for origin in origins], origins, n),
            "content_sha256": pa.array(hashes, pa.binary(32)),
            "parent_id": self._parent_ids(draft, objects, locators, ids),
            "fold": pa.array(self._folds_of(groups, ids), pa.string()),
            "place_id": self._places(draft),
            "group_id": pa.array(groups, pa.string()),
        }
        if any("truncated" in origin.item.headers for origin in origins):  # the connector could read only a part of it
            flags = [
                f if "truncated" not in item.headers or (f and "truncated" in f) else [*(f or []), "truncated"]
                for item, f in zip(items, draft.column("flags").to_pylist())
            ]
            own["flags"] = pa.array(flags, pa.list_(pa.string()))
        if draft.column("license").null_count:
            own["license"] = _filled(draft, "license", self._stream.license)
        if self._stream.spec.attribution and draft.column("attribution").null_count:
            own["attribution"] = _filled(draft, "attribution", self._stream.spec.attribution)
        if draft.column("event_time").null_count and any(origin.item.event_time is not None for origin in origins):
            own.update(_event_time(draft, items))
        if draft.column("rights").null_count and any("rights" in origin.item.headers for origin in origins):
            rights = zip(items, draft.column("rights").to_pylist())
            own["rights"] = pa.array([v or item.headers.get("rights") for item, v in rights], pa.string())
        schema = record_schema(modality)
        return pa.RecordBatch.from_arrays(
            [own[f.name] if f.name in own else draft.column(f.name) for f in schema], schema=schema
        )

    def _groups(
        self, draft: pa.RecordBatch, origins: Sequence[Origin], objects: Sequence[str], locators: Sequence[str]
    ) -> Sequence[str]:
        """What each row belongs to: what its draft says, else its object, or the row itself in a table."""
        of_table = [isinstance(origin.item.data, pa.RecordBatch) for origin in origins]
        named = _values(draft, "group_id")
        if not any(of_table):
            return [group or object_ for group, object_ in zip(named, objects)]
        many = _each(of_table, origins, draft.num_rows)
        return [
            group or (f"{object_}#{locator}" if of_many else object_)
            for group, locator, object_, of_many in zip(named, locators, objects, many)
        ]

    def _parent_ids(
        self, draft: pa.RecordBatch, objects: Sequence[str], locators: Sequence[str], ids: Sequence[bytes]
    ) -> pa.Array:
        """Of each row's parent, which came in an earlier batch of the same item."""
        if not self._stream.normalizer.derived:
            return pa.nulls(len(ids), pa.binary(16))  # records of one kind have no parents among each other
        parents = [
            self._parents.get((object_, p)) if p else None for object_, p in zip(objects, _values(draft, "parent"))
        ]
        for object_, locator, id_ in zip(objects, locators, ids):
            self._parents[object_, locator] = id_
        while len(self._parents) > _REMEMBERED_PARENTS:
            self._parents.popitem(last=False)
        return pa.array(parents, pa.binary(16))

    def _places(self, draft: pa.RecordBatch) -> pa.Array:
        geometries = draft.column("geometry")
        if self._grid is None or geometries.null_count == len(geometries):
            return pa.nulls(len(geometries), pa.string())
        return pa.array([place_id(g, self._grid) if g else None for g in geometries.to_pylist()], pa.string())

    def _folds_of(self, groups: Sequence[str], ids: Sequence[bytes]) -> list[str]:
        share = self._folds.validation
        if not share:
            return ["train"] * len(ids)
        border, sha256 = _border(share), hashlib.sha256
        keys = (group.encode() for group in groups) if self._folds.by == "group_id" else ids
        return ["validation" if sha256(key).digest() < border else "train" for key in keys]


@functools.cache
def _border(share: float) -> bytes:
    """What the sha256 of a key is below if the number that it stands for, its first 8 bytes / 2^64, is below `share`.

    The division rounds, so the border is the first whole number whose quotient is not below.
    """
    low, high = 0, 1 << 64
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle / 2**64 < share else (low, middle)
    return low.to_bytes(8, "big") if low < 1 << 64 else b"\xff" * 33


def _values(draft: pa.RecordBatch, name: str) -> Sequence[Any]:
    """The values of a column, which most often has none."""
    column = draft.column(name)
    values: Sequence[Any] = column.to_pylist() if column.null_count < len(column) else (None,) * len(column)
    return values


def _filled(draft: pa.RecordBatch, name: str, default: str) -> pa.Array:
    """A string column with a default where it has no value."""
    column = draft.column(name)
    if column.null_count == len(column):
        return _repeat(default, len(column))
    return pa.array([value or default for value in column.to_pylist()], pa.string())


def _event_time(draft: pa.RecordBatch, items: Iterable[Item]) -> dict[str, pa.Array]:
    """Event times of the items, where the payload names none."""
    known = zip(draft.column("event_time").cast(pa.int64()).to_pylist(), draft.column("time_source").to_pylist(), items)
    rows = [
        (t, source) if t is not None or item.event_time is None else (item.event_time, _time_source(item))
        for t, source, item in known
    ]
    return {
        "event_time": pa.array([t for t, _ in rows], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
        "time_source": pa.array([s for _, s in rows], pa.string()),
    }


def _time_source(item: Item) -> str:
    return item.headers.get("time_source", "source")


def _each(values: list[T], origins: Sequence[Origin], rows: int) -> list[T]:
    """For every row the value of its origin."""
    if len(values) == rows:
        return values
    return [value for value, origin in zip(values, origins) for _ in range(origin.rows)]


def _strings(values: list[str], origins: Sequence[Origin], rows: int) -> pa.Array:
    """The same as a string array."""
    return _repeat(values[0], rows) if len(values) == 1 else pa.array(_each(values, origins, rows), pa.string())


def _repeat(value: str, n: int) -> pa.Array:
    data = value.encode()
    if n == 1:
        return pa.array([value], pa.string())
    offsets = np.arange(0, (n + 1) * len(data), len(data), dtype=np.int32) if data else np.zeros(n + 1, np.int32)
    return pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(offsets), pa.py_buffer(data * n)])


def output_schema(output: Output, tokenizer: Tokenizer | None) -> pa.Schema:
    """The schema of an output's shards, with what a reader must know in its metadata."""
    fingerprint = tokenizer.fingerprint if tokenizer else None
    metadata = shard_metadata(
        output.name,
        output.digest(fingerprint),
        fingerprint,
        tokenizer_type=output.tokenizer_type,
        vocab_size=str(tokenizer.vocab_size) if tokenizer else "",
        error_unit=tokenizer.error_unit if tokenizer else "none",
        settings=canonical_json(output.settings).decode(),
    )
    return sample_schema(output.modality, tokenizer.token_dtype if tokenizer else None, metadata)


def output_settings(
    output: Output, stream: ResolvedStream, fingerprint: str | None, tokenizer: Tokenizer | None
) -> StreamSettings:
    """What the log keeps of an output, for ever."""
    return StreamSettings(
        digest=output.digest(fingerprint),
        modality=output.modality,
        source=stream.name,
        tokenizer=fingerprint,
        tokens=tokenizer.token_dtype if tokenizer else None,
        vocab_size=tokenizer.vocab_size if tokenizer else None,
        schema_version=SCHEMA_VERSION,
        license=stream.license,
        error_unit=tokenizer.error_unit if tokenizer else "none",
        detail=output.settings,
    )


def make_samples(records: pa.RecordBatch, encoded: Encoded | None, schema: pa.Schema) -> pa.RecordBatch:
    """One sample row per record: provenance, findings, fidelity, and the tokens or the raw payload."""
    n = records.num_rows
    columns: dict[str, pa.Array] = {f.name: records.column(f.name) for f in PROVENANCE + DRAFT}
    if encoded is None:
        columns["error"] = pa.nulls(n, pa.float32())
        columns["clip_fraction"] = pa.nulls(n, pa.float32())
    else:
        columns["error"] = _floats(encoded.error)
        columns["clip_fraction"] = _floats(encoded.clip_fraction)
        kind = schema.field("tokens").type
        values = np.ascontiguousarray(encoded.values, dtype=np.dtype(str(kind.value_type)))
        child = pa.Array.from_buffers(kind.value_type, len(values), [None, pa.py_buffer(values)])
        offsets = pa.py_buffer(np.ascontiguousarray(encoded.offsets, dtype=np.int64))
        columns["tokens"] = pa.Array.from_buffers(kind, n, [None, offsets], children=[child])
    return pa.RecordBatch.from_arrays(
        [columns[f.name] if f.name in columns else records.column(f.name) for f in schema], schema=schema
    )


def _floats(values: Any) -> pa.Array:
    """float32 with NaN (not measured) as null."""
    flat = np.ascontiguousarray(values, dtype=np.float32)
    missing = np.isnan(flat)
    nulls = int(missing.sum())
    mask = pa.py_buffer(np.packbits(~missing, bitorder="little")) if nulls else None
    return pa.Array.from_buffers(pa.float32(), len(flat), [mask, pa.py_buffer(flat)], nulls)
