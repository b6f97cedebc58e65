"""Equal values give equal bytes, whatever lies between and behind them in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.record import BAND, MODALITIES, record_schema
from headrace.schemas.sample import sample_schema
from headrace.shards.ipc import BlockEncoder, head, read_schema, tail
from headrace.shards.plain_arrays import Flat, flatten, row_sizes

TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.text(max_size=5)),
    (pa.large_string(), st.text(max_size=5)),
    (pa.binary(), st.binary(max_size=5)),
    (pa.large_binary(), st.binary(max_size=5)),
    (pa.binary(16), st.binary(min_size=16, max_size=16)),
    (pa.bool_(), st.booleans()),
    (pa.int32(), st.integers(-9, 9)),
    (pa.float32(), st.floats(width=32)),
    (pa.timestamp("us", tz="UTC"), st.integers(0, 10**15)),
    (pa.list_(pa.string()), st.lists(st.none() | st.text(max_size=3), max_size=3)),
    (pa.list_(pa.bool_()), st.lists(st.none() | st.booleans(), max_size=9)),
    (pa.large_list(pa.field("item", pa.uint16(), nullable=False)), st.lists(st.integers(0, 65535), max_size=4)),
    (pa.list_(pa.list_(pa.int64())), st.lists(st.none() | st.lists(st.integers(0, 9), max_size=2), max_size=3)),
    (
        pa.struct([("a", pa.string()), ("b", pa.float64())]),
        st.fixed_dictionaries({"a": st.none() | st.text(max_size=3), "b": st.none() | st.floats()}),
    ),
    (
        pa.list_(pa.struct([("a", pa.int8()), ("b", pa.list_(pa.int8()))])),
        st.lists(
            st.none()
            | st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.none() | st.lists(st.integers(0, 9), max_size=2)}),
            max_size=2,
        ),
    ),
]


def flat(array: pa.Array) -> tuple[list[tuple[int, int]], list[bytes]]:
    out = Flat()
    flatten(array, out)
    return out.nodes, [np.ascontiguousarray(b).tobytes() for b in out.buffers]


@pytest.mark.parametrize(("kind", "value"), TYPES, ids=[str(k) for k, _ in TYPES])
def test_a_column_round_trips_and_its_bytes_do_not_depend_on_slicing(kind: pa.DataType, value: Any) -> None:
    schema = pa.schema([pa.field("x", kind)])
    encoder = BlockEncoder(schema)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.none() | value, min_size=1, max_size=20), st.integers(0, 9), st.data())
    def check(values: list[Any], before: int, data: st.DataObject) -> None:
        array = pa.array(values, type=kind)
        _, parts = encoder.encode([array])
        batch = pa.ipc.read_record_batch(pa.py_buffer(b"".join(parts)), schema)
        batch.validate(full=True)
        assert str(batch.column(0).to_pylist()) == str(array.to_pylist())  # as text: NaN equals NaN
        padding = data.draw(st.lists(st.none() | value, min_size=before, max_size=before))
        inside = pa.array([*padding, *values, *padding[:3]], type=kind).slice(before, len(values))
        assert flat(inside) == flat(array)
        assert row_sizes(inside).tolist() == row_sizes(array).tolist()
        middle = len(values) // 2
        assert [*row_sizes(array.slice(0, middle)), *row_sizes(array.slice(middle))] == row_sizes(array).tolist()

    check()


def test_what_lies_under_null_slots_does_not_matter() -> None:
    mask = pa.py_buffer(bytes([0b11111101]))  # row 1 is null; the bits after the end are set
    for kind, data in (
        (pa.int32(), [np.array([1, 77, 3], np.int32)]),
        (pa.binary(2), [np.frombuffer(b"aaXXbb", np.uint8)]),
        (pa.bool_(), [np.frombuffer(bytes([0b11111111]), np.uint8)]),
        (pa.string(), [np.array([0, 1, 3, 4], np.int32), np.frombuffer(b"aXXb", np.uint8)]),
    ):
        array = pa.Array.from_buffers(kind, 3, [mask, *map(pa.py_buffer, data)])
        assert flat(array) == flat(pa.array(array.to_pylist(), type=kind)), kind
        assert row_sizes(array).tolist() == row_sizes(pa.array(array.to_pylist(), type=kind)).tolist()
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], np.int32))
    values = pa.array([1, 9, 9, 2], pa.int16())
    nested = pa.Array.from_buffers(pa.list_(pa.int16()), 3, [mask, offsets], children=[values])
    assert flat(nested) == flat(pa.array([[1], None, [2]], pa.list_(pa.int16())))
    struct = pa.Array.from_buffers(pa.struct([("a", pa.int16())]), 3, [mask], children=[values.slice(0, 3)])
    assert flat(struct) == flat(pa.array([{"a": 1}, None, {"a": 9}], pa.struct([("a", pa.int16())])))


def test_a_bitmap_that_says_no_nulls_is_the_same_as_none() -> None:
    with_bits = pa.Array.from_buffers(pa.int8(), 3, [pa.py_buffer(b"\xff"), pa.py_buffer(b"abc")])
    assert flat(with_bits) == flat(pa.array([97, 98, 99], pa.int8()))


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_modality_has_a_schema_that_shards_can_hold(modality: Any) -> None:
    for schema in (record_schema(modality), sample_schema(modality, None), sample_schema(modality, "uint32")):
        assert read_schema(head(schema)).equals(schema, check_metadata=True)
        row = pa.RecordBatch.from_arrays([pa.nulls(3, f.type) for f in schema], schema=schema)
        metadata, parts = BlockEncoder(schema).encode(row.columns)
        body = sum(len(p) for p in parts) - metadata
        start = len(head(schema))
        data = head(schema) + b"".join(parts) + tail(schema, [(start, metadata, body)])
        assert pa.ipc.open_file(data).get_batch(0).to_pylist() == row.to_pylist()


def test_a_footer_lists_as_many_blocks_as_there_are() -> None:
    schema = pa.schema([pa.field("x", pa.list_(BAND))])
    blocks, data = [], head(schema)
    for n in range(70):
        metadata, parts = BlockEncoder(schema).encode([pa.array([[{"name": str(n), "scale": n / 7}]], schema[0].type)])
        blocks.append((len(data), metadata, sum(len(p) for p in parts) - metadata))
        data += b"".join(parts)
    data += tail(schema, blocks)
    table = pa.ipc.open_file(data).read_all()
    assert [row[0]["name"] for row in table.column("x").to_pylist()] == [str(n) for n in range(70)]


def test_a_type_that_shards_do_not_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="a shard column cannot have the Arrow type dictionary"):
        flat(pa.array(["a", "b", "a"]).dictionary_encode())
