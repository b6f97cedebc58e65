"""Completes drafts with provenance, and joins records and tokens into samples."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from headrace.connectors.contract import Blob, Item, Split
from headrace.ingest.place import position_key
from headrace.ingest.place_id import place_id
from headrace.ingest.resolve import Output, ResolvedStream
from headrace.schemas.canonical import canonical_json
from headrace.schemas.pipeline import Folds, Grid
from headrace.schemas.record import DRAFT, PROVENANCE, Modality, content_hashes, record_id, record_schema
from headrace.schemas.sample import SCHEMA_VERSION, sample_schema
from headrace.shards.entry import StreamSettings
from headrace.shards.writer import shard_metadata
from headrace.tokenizers.contract import Encoded, Tokenizer

_REMEMBERED_PARENTS = 4096

T = TypeVar("T")


def object_id(item: Item, split: Split) -> str:
    """The undivided object an item comes from, relative to the source's root."""
    if "object" in item.headers:
        return item.headers["object"]
    if isinstance(item.data, Blob):
        return item.data.id
    return split.id


class Completer:
    """Turns the drafts of one stream into records. One per lane: it remembers the parents of the current item."""

    def __init__(self, stream: ResolvedStream, folds: Folds, source: str, grid: Grid | None = None) -> None:
        self._stream = stream
        self._folds = folds
        self._grid = grid
        self._source = source
        self._parents: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def complete(self, drafts: Sequence[tuple[pa.RecordBatch, Item, Split]], modality: Modality) -> pa.RecordBatch:
        """The record batch of draft batches, each of one item: ids, source, license, fold, group."""
        draft = drafts[0][0] if len(drafts) == 1 else pa.concat_batches([batch for batch, _, _ in drafts])
        n = draft.num_rows
        output = self._stream.outputs[modality]
        counts = [batch.num_rows for batch, _, _ in drafts]
        items = _Each([item for _, item, _ in drafts], counts)
        objects = _Each([object_id(item, split) for _, item, split in drafts], counts)
        hashes = content_hashes(draft)
        locators = draft.column("locator").to_pylist()
        ids = [record_id(output.name, o, locator, digest) for o, locator, digest in zip(objects, locators, hashes)]
        many = _Each([isinstance(item.data, pa.RecordBatch) for _, item, _ in drafts], counts)
        groups = [
            group or (f"{object_}#{locator}" if of_many else object_)
            for group, locator, object_, of_many in zip(draft.column("group_id").to_pylist(), locators, objects, many)
        ]
        parents = [
            self._parents.get((object_, p)) if p else None
            for object_, p in zip(objects, draft.column("parent").to_pylist())
        ]
        for object_, locator, id_ in zip(objects, locators, ids):
            self._parents[object_, locator] = id_
        while len(self._parents) > _REMEMBERED_PARENTS:
            self._parents.popitem(last=False)
        own: dict[str, pa.Array] = {
            "record_id": pa.array(ids, pa.binary(16)),
            "source": _repeat(self._source, n),
            "uri": objects.strings(),
            "split": _Each([split.id for _, _, split in drafts], counts).strings(),
            "position": _Each([position_key(item.position) for _, item, _ in drafts], counts).strings(),
            "content_sha256": pa.array(hashes, pa.binary(32)),
            "parent_id": pa.array(parents, pa.binary(16)),
            "fold": pa.array([self._fold(g, i) for g, i in zip(groups, ids)], pa.string()),
            "place_id": self._places(draft),
            "group_id": pa.array(groups, pa.string()),
        }
        if any("truncated" in item.headers for _, item, _ in drafts):  # the connector could read only a part of it
            flags = [
                f if "truncated" not in item.headers or (f and "truncated" in f) else [*(f or []), "truncated"]
                for item, f in zip(items, draft.column("flags").to_pylist())
            ]
            own["flags"] = pa.array(flags, pa.list_(pa.string()))
        if draft.column("license").null_count:
            own["license"] = pa.array(
                [v or self._stream.license for v in draft.column("license").to_pylist()], pa.string()
            )
        if self._stream.spec.attribution and draft.column("attribution").null_count:
            own["attribution"] = pa.array(
                [v or self._stream.spec.attribution for v in draft.column("attribution").to_pylist()], pa.string()
            )
        if any(item.event_time is not None for _, item, _ in drafts) and draft.column("event_time").null_count:
            own.update(_event_time(draft, items))
        if any("rights" in item.headers for _, item, _ in drafts) and draft.column("rights").null_count:
            rights = zip(items, draft.column("rights").to_pylist())
            own["rights"] = pa.array([v or item.headers.get("rights") for item, v in rights], pa.string())
        schema = record_schema(modality)
        return pa.RecordBatch.from_arrays(
            [own[f.name] if f.name in own else draft.column(f.name) for f in schema], schema=schema
        )

    def _places(self, draft: pa.RecordBatch) -> pa.Array:
        geometries = draft.column("geometry")
        if self._grid is None or geometries.null_count == len(geometries):
            return pa.nulls(len(geometries), pa.string())
        return pa.array([place_id(g, self._grid) if g else None for g in geometries.to_pylist()], pa.string())

    def _fold(self, group: str, id_: bytes) -> str:
        share = self._folds.validation
        if not share:
            return "train"
        key = group.encode() if self._folds.by == "group_id" else id_
        chosen = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64 < share
        return "validation" if chosen else "train"


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


class _Each(Generic[T]):
    """A value for each batch, iterated as often as the batch has rows."""

    def __init__(self, values: Sequence[T], counts: Sequence[int]) -> None:
        self._values = values
        self._counts = counts

    def __iter__(self) -> Iterator[T]:
        for value, count in zip(self._values, self._counts):
            for _ in range(count):
                yield value

    def strings(self) -> pa.Array:
        """As a string array."""
        if len(self._values) == 1:
            return _repeat(str(self._values[0]), self._counts[0])
        return pa.array(list(self), pa.string())


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
