"""Avro that is damaged or made to hurt: each ends in values or reasons, and damage costs what it hit."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

fastavro = pytest.importorskip("fastavro", reason="the library fastavro is not installed (headrace[avro])")

from headrace.ingest.normalizers.avro import Schema  # noqa: E402
from headrace.ingest.normalizers.sensor_testing import read  # noqa: E402
from headrace.schemas.errors import RecordError  # noqa: E402

from .test_avro import container, decoded, readings, reason  # noqa: E402


def test_a_damaged_block_costs_its_own_values() -> None:
    data = container(readings(1000), codec="deflate", sync_interval=1000)
    sync = data[-16:]
    starts = [i + 16 for i in range(len(data)) if data[i : i + 16] == sync]
    blocks = len(starts) - 1
    assert blocks > 5
    whole = list(fastavro.reader(io.BytesIO(data)))
    broken = bytearray(data)
    broken[starts[2] + 40] ^= 0xFF  # inside the third block's bytes
    values, bad, error = decoded(bytes(broken))
    assert error is None
    assert len(bad) == 1
    assert json.dumps(bad[0].locator["block"]) == "2"
    assert len(whole) - len(values) < 2 * len(whole) // blocks
    assert values == [v for v in whole if v in values]
    for at, flip in ((starts[2], 0xFF), (starts[2] + 1, 0xFF), (starts[3] - 3, 1)):  # its count, its size, its marker
        broken = bytearray(data)
        broken[at] ^= flip
        values, bad, error = decoded(bytes(broken))
        assert bad
        assert len(values) >= len(whole) * (blocks - 3) // blocks, (at, len(values))


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_file_that_is_cut_says_so_and_keeps_what_came_before(codec: str) -> None:
    data = container(readings(1000), codec=codec, sync_interval=1000)
    values, _, error = decoded(data[: len(data) * 2 // 3])
    assert error is not None
    assert error.reason == "truncated"
    assert values == readings(1000)[: len(values)]
    assert len(values) > 500
    out = read(data[: len(data) * 2 // 3], None)
    assert all("truncated" in r["flags"] for r in out.of("sensor")[-3:])


def test_any_flipped_byte_ends_in_values_or_reasons() -> None:
    data = container(readings(25), codec="null", sync_interval=200)
    for at in range(len(data)):
        for flip in (1, 0xFF):
            broken = bytearray(data)
            broken[at] ^= flip
            decoded(bytes(broken))  # nothing but RecordError comes out


def header(schema: Any, codec: bytes = b"null") -> bytes:
    """The header of a container by hand, so that the schema and the codec may be anything."""
    text = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    meta = [(b"avro.schema", text), (b"avro.codec", codec)]
    out = b"Obj\x01" + number(2)
    for key, value in meta:
        out += number(len(key)) + key + number(len(value)) + value
    return out + b"\0" + b"s" * 16


def number(n: int) -> bytes:
    n = (n << 1) ^ (n >> 63)
    out = b""
    while True:
        n, low = n >> 7, n & 127
        if not n:
            return out + bytes([low])
        out += bytes([low | 128])


def block(count: int, body: bytes, size: int | None = None) -> bytes:
    return number(count) + number(len(body) if size is None else size) + body + b"s" * 16


def test_lengths_and_counts_that_lie_end_at_once() -> None:
    ints = {"type": "array", "items": "int"}
    for schema, body, count in (
        ("string", number(1 << 62) + b"abc", 1),
        ("string", number(-5) + b"abc", 1),
        ("bytes", number(1 << 40), 1),
        (ints, number(1 << 61) + b"\2", 1),
        (ints, number(-(1 << 61)) + number(3) + b"\2", 1),
        ("int", b"\2\2", 1 << 60),
        ({"type": "fixed", "name": "f", "size": 1 << 50}, b"\2\2", 1),
        (["null", "int"], number(99), 1),
        ({"type": "enum", "name": "e", "symbols": ["A"]}, number(-7), 1),
    ):
        values, bad, _ = decoded(header(schema) + block(count, body))
        assert len(bad) == 1, (schema, values)
        assert bad[0].reason in ("truncated", "corrupt")
    for size in (-1, 1 << 40):
        _, bad, error = decoded(header("int") + block(1, b"\2", size))
        assert [b.reason for b in bad] == ["corrupt"] or (error is not None and error.reason == "truncated")
    assert reason(b"Obj\x01" + number(1 << 50)) in ("corrupt", "truncated")
    assert reason(b"Obj\x01" + number(1) + number(1 << 40)) == "corrupt"
    assert reason(b"Obj\x01") == "truncated"
    assert reason(header("int")) == "empty"


def test_values_that_take_no_bytes_are_bounded() -> None:
    for schema in ("null", {"type": "record", "name": "E", "fields": []}, {"type": "fixed", "name": "z", "size": 0}):
        assert reason(header({"type": "array", "items": schema}) + block(1, number(1 << 50))) == "unsupported:schema"
        assert reason(header(schema) + block(1 << 50, b"")) == "unsupported:schema"


def test_schemas_that_contain_themselves_are_read_to_a_depth() -> None:
    node = {
        "type": "record",
        "name": "N",
        "fields": [{"name": "v", "type": "int"}, {"name": "next", "type": ["null", "N"]}],
    }
    schema = Schema(json.dumps(node).encode())
    assert schema.recursive
    assert schema.value(b"\2\2\4\0") == {"v": 1, "next": {"v": 2, "next": None}}
    deep = b"\2\2" * 1_000_000 + b"\2\0"
    with pytest.raises(RecordError, match="too deep"):
        schema.value(deep)
    direct = Schema(b'{"type":"record","name":"D","fields":[{"name":"d","type":"D"}]}')
    with pytest.raises(RecordError, match="too deep"):
        direct.value(b"")
    out = read(container([{"v": 1, "next": {"v": 2, "next": None}}], node), None)
    assert sorted(r["channel"] for r in out.of("sensor")) == ["next.v", "v"]


def test_schemas_that_are_none_or_too_deep_are_refused() -> None:
    nested: Any = "int"
    for _ in range(400):
        nested = {"type": "array", "items": nested}
    schemas = (
        b"", b"{", b'"nothing"', b'{"type":"record"}', b'{"type":"array"}', b"[" * 100_000,
        b'{"type":"fixed","name":"f"}', b'{"type":"record","name":"R","fields":[{"name":"a","type":"Other"}]}',
        b"\xff\xfe", b"17", b"null",
    )  # fmt: skip
    for bad in schemas:
        assert reason(header(bad) + block(1, b"\2")).split(":")[0] in ("corrupt", "unsupported"), bad
    decoded(header(nested) + block(1, b"\2" * 400 + b"\2"))


@pytest.mark.parametrize("codec", ["deflate", "bzip2", "xz", "zstandard", "snappy"])
def test_a_block_that_expands_without_end_is_a_bomb(codec: str) -> None:
    import bz2
    import lzma
    import zlib

    import pyarrow as pa
    import zstandard

    huge = bytes(80 << 20)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = {
        "deflate": lambda: deflate.compress(huge) + deflate.flush(), "bzip2": lambda: bz2.compress(huge),
        "xz": lambda: lzma.compress(huge, preset=0), "zstandard": lambda: zstandard.compress(huge),
        "snappy": lambda: pa.Codec("snappy").compress(huge, asbytes=True) + zlib.crc32(huge).to_bytes(4, "big"),
    }[codec]()  # fmt: skip
    good = container([1, 2], "int", codec) if codec != "snappy" else None
    _, bad, _ = decoded(header("bytes", codec.encode()) + block(1, body))
    assert [b.reason for b in bad] == ["bomb"]
    assert bad[0].data is not None
    _, bad, _ = decoded(header("bytes", codec.encode()) + block(1, body[: len(body) // 2]))
    assert bad[0].reason in ("bomb", "corrupt", "checksum")
    if good is not None:
        assert decoded(good)[0] == [1, 2]
    assert reason(header("int", b"lzo") + block(1, b"\2")) == "unsupported:lzo"
