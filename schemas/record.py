"""Arrow schemas of records, one per modality, and the builder that normalizers fill.

A **draft** is what a normalizer yields: the columns of `DRAFT` plus the modality's payload. The engine completes it
with provenance (`PROVENANCE`) and so makes it a **record**; a normalizer never needs to know stream names, licenses
or hashes. Every payload is flat bytes plus a shape and a dtype, so a batch is one buffer and rows are views of it.

Layout of a payload column (C order, little-endian, no padding between rows):

    pixels[row]  = shape[row] values of dtype[row]        e.g. image (height, width, channels) uint8
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Modality = Literal["text", "image", "video", "audio", "sensor", "raster", "tensor"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

TIME = pa.timestamp("us", tz="UTC")
SENSOR_TIME = pa.timestamp("ns", tz="UTC")

#: Columns that a normalizer may set. Only `locator` is required: where in its undivided object the record lies.
DRAFT: list[pa.Field] = [
    pa.field("locator", pa.string(), nullable=False),  # JSON, e.g. {"byte":1024} {"window":[0,512,256,256]}
    pa.field("event_time", TIME),  # when it happened, from the source; null when unknown
    pa.field("event_end", TIME),
    pa.field("time_source", pa.string()),  # where event_time comes from: "exif", "container", "field:issued" …
    pa.field("group_id", pa.string()),  # what belongs together; the engine's default is the item
    pa.field("parent", pa.string()),  # locator of the record it derives from, in the same object
    pa.field("geometry", pa.binary()),  # WKB in OGC:CRS84
    pa.field("license", pa.string()),  # SPDX id; the engine's default is the stream's
    pa.field("attribution", pa.string()),
    pa.field("rights", pa.string()),  # JSON, evidence found at fetch
    pa.field("valid_fraction", pa.float32()),  # share of the payload that is data, not gap or nodata
    pa.field("flags", pa.list_(pa.string())),  # findings: "truncated", "clipped", "clock_backward" …
    pa.field("transforms", pa.list_(pa.string())),  # what was done to the values: "resize 4000x3000->512x384 lanczos"
    pa.field("extra", pa.string()),  # JSON, source fields that no column holds
]

BAND = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("wavelength_nm", pa.float32()),
        pa.field("gsd_m", pa.float32()),  # native ground sample distance, before any resampling
        pa.field("unit", pa.string()),
        pa.field("scale", pa.float64()),  # physical = stored * scale + offset
        pa.field("offset", pa.float64()),
        pa.field("nodata", pa.float64()),
        pa.field("resampling", pa.string()),  # null when the band was on the grid already
    ]
)

_SHAPE = pa.field("shape", pa.list_(pa.int64()), nullable=False)
_DTYPE = pa.field("dtype", pa.string(), nullable=False)  # numpy name: uint8, int16, float32 …

PAYLOAD: dict[Modality, list[pa.Field]] = {
    "text": [
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("language", pa.string()),  # BCP 47
        pa.field("part", pa.int32()),  # 0-based, of a divided document
        pa.field("parts", pa.int32()),
    ],
    "image": [  # shape (height, width, channels), orientation applied
        pa.field("pixels", pa.large_binary(), nullable=False),
        _SHAPE,
        _DTYPE,
        pa.field("mode", pa.string()),  # meaning of the channels: "RGB", "L", "RGBA", "CMYK" …
        pa.field("frame", pa.int32()),  # 0-based, of a multi-frame file
    ],
    "video": [  # shape (frames, height, width, channels), rotation applied
        pa.field("pixels", pa.large_binary(), nullable=False),
        _SHAPE,
        _DTYPE,
        pa.field("pts", pa.list_(pa.int64()), nullable=False),  # presentation time stamps in time_base units
        pa.field("time_base_num", pa.int64(), nullable=False),
        pa.field("time_base_den", pa.int64(), nullable=False),
        pa.field("rotation", pa.int32()),  # degrees that were applied
    ],
    "audio": [  # shape (samples, channels)
        pa.field("samples", pa.large_binary(), nullable=False),
        _SHAPE,
        _DTYPE,
        pa.field("rate", pa.int32(), nullable=False),  # Hz
        pa.field("start_sample", pa.int64()),  # of this window in its track, at `rate`
    ],
    "sensor": [
        pa.field("t", pa.list_(SENSOR_TIME), nullable=False),
        pa.field("value", pa.list_(pa.float64()), nullable=False),
        pa.field("valid", pa.list_(pa.bool_()), nullable=False),  # false: the source says there is no value here
        pa.field("channel", pa.string(), nullable=False),
        pa.field("unit", pa.string()),  # UCUM
        pa.field("device", pa.string()),
    ],
    "raster": [  # shape (bands, height, width)
        pa.field("pixels", pa.large_binary(), nullable=False),
        _SHAPE,
        _DTYPE,
        pa.field("bands", pa.list_(BAND), nullable=False),
        pa.field("valid", pa.large_binary(), nullable=False),  # height * width bytes, 1 where at least one band is data
        pa.field("cloud", pa.large_binary()),  # height * width bytes, 1 where cloud; null when unknown
        pa.field("crs", pa.string()),  # "EPSG:32633" or WKT2; null when the file has none
        pa.field("transform", pa.list_(pa.float64())),  # a b c d e f: x = a*col + b*row + c, y = d*col + e*row + f
    ],
    "tensor": [  # what the six modalities do not model; passes through raw
        pa.field("data", pa.large_binary(), nullable=False),
        _SHAPE,
        _DTYPE,
        pa.field("dims", pa.list_(pa.string())),
        pa.field("unit", pa.string()),
        pa.field("schema_name", pa.string()),
    ],
}

#: The column that holds the big bytes of each modality.
PAYLOAD_COLUMN: dict[Modality, str] = {
    "text": "text",
    "image": "pixels",
    "video": "pixels",
    "audio": "samples",
    "sensor": "value",
    "raster": "pixels",
    "tensor": "data",
}

#: Columns the engine adds. Together with DRAFT they are common to all records and samples.
PROVENANCE: list[pa.Field] = [
    pa.field("record_id", pa.binary(16), nullable=False),
    pa.field("source", pa.string(), nullable=False),  # the connector's type and root, from the pipeline
    pa.field("uri", pa.string(), nullable=False),  # the object, relative to the source's root
    pa.field("split", pa.string(), nullable=False),
    pa.field("position", pa.string(), nullable=False),  # canonical JSON of the item's position
    pa.field("content_sha256", pa.binary(32), nullable=False),
    pa.field("parent_id", pa.binary(16)),
    pa.field("fold", pa.string(), nullable=False),
    pa.field("place_id", pa.string()),
]

_MODALITY_KEY = b"headrace.modality"


@cache
def draft_schema(modality: Modality) -> pa.Schema:
    """What a normalizer of `modality` yields."""
    return pa.schema(DRAFT + PAYLOAD[modality], metadata={_MODALITY_KEY: modality.encode()})


@cache
def record_schema(modality: Modality) -> pa.Schema:
    """A draft completed with provenance: what tokenizers get."""
    return pa.schema(PROVENANCE + DRAFT + PAYLOAD[modality], metadata={_MODALITY_KEY: modality.encode()})


def modality_of(batch: pa.RecordBatch) -> Modality:
    """The modality of a draft or record batch, from its schema metadata.

    Raises: ValueError if the batch was not made by `RecordBuilder`.
    """
    name = (batch.schema.metadata or {}).get(_MODALITY_KEY, b"").decode()
    if name not in MODALITIES:
        raise ValueError(
            f"a record batch without a modality: build it with RecordBuilder (schema: {batch.schema.names})"
        )
    return name


@cache
def _layout(modality: Modality) -> tuple[pa.Schema, tuple[tuple[str, pa.DataType], ...], tuple[str, ...]]:
    schema = draft_schema(modality)
    return schema, tuple((f.name, f.type) for f in schema), tuple(f.name for f in schema if not f.nullable)


class RecordBuilder:
    """Collects rows of one modality and makes a draft batch of them.

    Payloads are given as numpy arrays (pixels, samples, data) and set `shape` and `dtype` by themselves; a batch of
    one row shares the array's memory, a batch of several copies each row once.
    """

    def __init__(self, modality: Modality) -> None:
        self.modality: Modality = modality
        self.schema, self._columns, self._required = _layout(modality)
        self.payload_bytes = 0
        self._rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, *, locator: str, **columns: Any) -> None:
        """Add one row. Unknown names and missing required columns raise TypeError at once."""
        row = dict(columns, locator=locator)
        column = PAYLOAD_COLUMN[self.modality]
        payload = row.get(column)
        if isinstance(payload, np.ndarray) and column not in ("text", "value"):
            payload = np.ascontiguousarray(payload)
            row[column] = payload
            row.setdefault("shape", list(payload.shape))
            row.setdefault("dtype", payload.dtype.name)
            self.payload_bytes += payload.nbytes
        elif isinstance(payload, np.ndarray):
            self.payload_bytes += payload.nbytes
        elif payload is not None:
            self.payload_bytes += len(payload)
        for name in self._required:
            if row.get(name) is None:
                raise TypeError(f"a {self.modality} record needs `{name}`")
        unknown = row.keys() - dict(self._columns).keys()
        if unknown:
            raise TypeError(f"a {self.modality} record has no column {sorted(unknown)}; unknown fields go to `extra`")
        self._rows.append(row)

    def finish(self) -> pa.RecordBatch:
        """The batch of all rows added so far; the builder is empty afterwards."""
        rows, self._rows, self.payload_bytes = self._rows, [], 0
        return pa.RecordBatch.from_arrays(
            [_column(kind, [row.get(name) for row in rows]) for name, kind in self._columns], schema=self.schema
        )


#: List types whose rows may be given as numpy arrays.
_NUMBER_LISTS = frozenset({pa.list_(SENSOR_TIME), pa.list_(pa.float64()), pa.list_(pa.bool_()), pa.list_(pa.int64())})


@lru_cache(maxsize=1024)
def _nulls(count: int, kind: pa.DataType) -> pa.Array:
    return pa.nulls(count, kind)


def _column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if all(v is None for v in values):
        return _nulls(len(values), kind) if len(values) <= 64 else pa.nulls(len(values), kind)
    if any(isinstance(v, np.ndarray) for v in values):
        if kind == pa.large_binary():
            return large_binary([None if v is None else np.ascontiguousarray(v) for v in values])
        if kind in _NUMBER_LISTS:
            return _list_column(kind, values)
    return pa.array(values, type=kind)


def large_binary(values: Sequence[npt.NDArray[Any] | None]) -> pa.Array:
    """A large_binary array of the bytes of each array; one value is shared, several are copied once."""
    lengths = [0 if v is None else v.nbytes for v in values]
    offsets = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if len(values) == 1 and values[0] is not None:
        data = pa.py_buffer(np.ascontiguousarray(values[0]).reshape(-1).view(np.uint8))
    else:
        joined = np.empty(int(offsets[-1]), dtype=np.uint8)
        for i, value in enumerate(values):
            if value is not None:
                joined[offsets[i] : offsets[i + 1]] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        data = pa.py_buffer(joined)
    mask = None
    nulls = sum(v is None for v in values)
    if nulls:
        mask = pa.py_buffer(np.packbits([v is not None for v in values], bitorder="little"))
    return pa.Array.from_buffers(pa.large_binary(), len(values), [mask, pa.py_buffer(offsets), data], nulls)


def _list_column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """A list array without a Python object per element. Times are given as int64 nanoseconds or datetime64[ns]."""
    inner = kind.value_type
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([0 if v is None else len(v) for v in values], out=offsets[1:])
    if pa.types.is_boolean(inner):
        flat = np.concatenate([np.asarray(v, dtype=np.bool_) for v in values if v is not None])
        child = pa.Array.from_buffers(inner, len(flat), [None, pa.py_buffer(np.packbits(flat, bitorder="little"))])
    else:
        dtype: Any = np.float64 if pa.types.is_floating(inner) else np.int64
        parts = [
            np.asarray(v).astype("datetime64[ns]").view(np.int64) if np.asarray(v).dtype.kind == "M" else np.asarray(v)
            for v in values
            if v is not None
        ]
        flat = np.ascontiguousarray(np.concatenate(parts), dtype=dtype)
        child = pa.Array.from_buffers(inner, len(flat), [None, pa.py_buffer(flat)])
    mask = None
    nulls = sum(v is None for v in values)
    if nulls:
        mask = pa.py_buffer(np.packbits([v is not None for v in values], bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [mask, pa.py_buffer(offsets)], nulls, children=[child])


def payload_views(batch: pa.RecordBatch, column: str | None = None) -> Iterator[npt.NDArray[Any]]:
    """Each row's payload as a read-only numpy view of the batch, in the row's shape and dtype.

    Raises: ValueError if a row's bytes do not fill its shape.
    """
    name = column or PAYLOAD_COLUMN[modality_of(batch)]
    array = batch.column(name)
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    shapes, dtypes = batch.column("shape").to_pylist(), batch.column("dtype").to_pylist()
    for i in range(len(array)):
        start, end = int(offsets[i]), int(offsets[i + 1])
        flat = (
            np.frombuffer(data, dtype=np.uint8, count=end - start, offset=start)
            if data is not None and end > start
            else np.empty(0, np.uint8)
        )
        yield flat.view(np.dtype(dtypes[i])).reshape(shapes[i])


def list_views(batch: pa.RecordBatch, column: str) -> Iterator[npt.NDArray[Any]]:
    """Each row of a list column of numbers as a numpy view: float64, int64 (times: ns or us), tokens or bool."""
    array = batch.column(column)
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64 if pa.types.is_large_list(array.type) else np.int32)
    offsets = offsets[array.offset : array.offset + len(array) + 1]
    child = array.values
    if pa.types.is_boolean(child.type):
        bits = np.frombuffer(child.buffers()[1], dtype=np.uint8) if len(child) else np.empty(0, np.uint8)
        flat = np.unpackbits(bits, bitorder="little", count=child.offset + len(child))[child.offset :].astype(np.bool_)
    else:
        kind: Any = np.float64 if pa.types.is_floating(child.type) else np.dtype(f"i{child.type.bit_width // 8}")
        if pa.types.is_unsigned_integer(child.type):
            kind = np.dtype(f"u{child.type.bit_width // 8}")
        flat = (
            np.frombuffer(child.buffers()[1], dtype=kind)[child.offset : child.offset + len(child)]
            if len(child)
            else np.empty(0, kind)
        )
    for i in range(len(array)):
        yield flat[int(offsets[i]) : int(offsets[i + 1])]


def content_hashes(batch: pa.RecordBatch) -> list[bytes]:
    """sha256 of each row's payload: the values with their shape and dtype, before any tokenizer.

    Text hashes its UTF-8 bytes alone, so `sha256sum` of an extracted document gives the same digest.
    """
    modality = modality_of(batch)
    if modality == "text":
        return [hashlib.sha256(text).digest() for text in _texts(batch.column("text"))]
    if modality == "sensor":
        channels = batch.column("channel").to_pylist()
        rows = zip(channels, list_views(batch, "t"), list_views(batch, "value"), list_views(batch, "valid"))
        return [_hash_arrays(channel, [t, value, valid]) for channel, t, value, valid in rows]
    hashes = []
    pts: Iterator[npt.NDArray[Any]] = list_views(batch, "pts") if modality == "video" else iter(())
    for i, view in enumerate(payload_views(batch)):
        arrays = [view, next(pts)] if modality == "video" else [view]
        if modality == "raster":
            arrays.append(np.frombuffer(batch.column("valid")[i].as_buffer(), dtype=np.uint8))
        hashes.append(_hash_arrays(f"{view.dtype.name}{list(view.shape)}", arrays))
    return hashes


def _texts(array: pa.Array) -> Iterator[memoryview]:
    """The UTF-8 bytes of each row of a large_string array without nulls."""
    borders = np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1].tolist()
    data = memoryview(array.buffers()[2] or b"")
    return (data[start:end] for start, end in itertools.pairwise(borders))


def _hash_arrays(label: str, arrays: Sequence[npt.NDArray[Any]]) -> bytes:
    state = hashlib.sha256(label.encode() + b"\0")
    for array in arrays:
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.digest()


def record_id(stream: str, object_id: str, locator: str, content_sha256: bytes) -> bytes:
    """The 16-byte id of a record: the same for the same content at the same place, on any machine and in any run."""
    (found,) = record_ids(stream, [object_id], [locator], [content_sha256])
    return found


def record_ids(stream: str, objects: Iterable[str], locators: Iterable[str], hashes: Iterable[bytes]) -> list[bytes]:
    """`record_id` of many records of one stream."""
    stream_part, found, sha256 = _sized(stream.encode()), [], hashlib.sha256
    last: str | None = None
    for object_id, locator, content_sha256 in zip(objects, locators, hashes):
        if object_id != last:  # most records come from the object of the one before
            head, last = stream_part + _sized(object_id.encode()), object_id
        place = locator.encode()
        parts = head + len(place).to_bytes(8, "little") + place + _HASH_SIZE + content_sha256
        found.append(sha256(parts).digest()[:16])
    return found


_HASH_SIZE = (32).to_bytes(8, "little")  # of a content hash


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part


def as_draft(modality: Modality, row: Mapping[str, Any]) -> pa.RecordBatch:
    """A draft batch of one row."""
    builder = RecordBuilder(modality)
    builder.add(**row)
    return builder.finish()
