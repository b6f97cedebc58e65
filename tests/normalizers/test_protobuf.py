"""Protobuf messages against google.protobuf itself: single messages, delimited streams, framings, hostile bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("google.protobuf", reason="the library protobuf is not installed (headrace[protobuf])")
from google.protobuf import descriptor_pb2, duration_pb2, json_format, timestamp_pb2, wrappers_pb2

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.logs_protobuf import message_class
from headrace.ingest.normalizers.payload_config import PayloadConfig
from headrace.ingest.normalizers.payload_rows import Decoded
from headrace.ingest.normalizers.protobuf import ProtobufReader
from headrace.ingest.normalizers.sensor import SensorNormalizer
from headrace.ingest.normalizers.text import TextNormalizer
from headrace.schemas.errors import ConfigError, RecordError

F = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "double": F.TYPE_DOUBLE, "int64": F.TYPE_INT64, "uint64": F.TYPE_UINT64, "bool": F.TYPE_BOOL,
    "string": F.TYPE_STRING, "bytes": F.TYPE_BYTES, "int32": F.TYPE_SINT32, "float": F.TYPE_FLOAT,
}  # fmt: skip


def descriptors() -> bytes:
    """harbour.Reading with its imports, as protoc would write it."""
    files = descriptor_pb2.FileDescriptorSet()
    for module in (timestamp_pb2, duration_pb2, wrappers_pb2):
        files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    file = files.file.add(name="harbour.proto", package="harbour", syntax="proto3")
    file.dependency.extend(f"google/protobuf/{n}.proto" for n in ("timestamp", "duration", "wrappers"))
    state = file.enum_type.add(name="State")
    state.value.add(name="UNKNOWN", number=0)
    state.value.add(name="OPEN", number=1)
    wind = file.message_type.add(name="Wind")
    wind.field.add(name="speed", number=1, type=F.TYPE_FLOAT, label=F.LABEL_OPTIONAL)
    message = file.message_type.add(name="Reading")
    add = message.field.add
    one, many = F.LABEL_OPTIONAL, F.LABEL_REPEATED
    stamp = ".google.protobuf.Timestamp"
    add(name="t", number=1, type=F.TYPE_MESSAGE, type_name=stamp, label=one)
    for n, (name, kind) in enumerate((k, v) for k, v in _KINDS.items()):
        add(name=f"a_{name}", number=10 + n, type=kind, label=one)
    add(name="wind", number=2, type=F.TYPE_MESSAGE, type_name=".harbour.Wind", label=one)
    add(name="state", number=3, type=F.TYPE_ENUM, type_name=".harbour.State", label=one)
    add(name="values", number=4, type=F.TYPE_DOUBLE, label=many)
    add(name="lasted", number=5, type=F.TYPE_MESSAGE, type_name=".google.protobuf.Duration", label=one)
    add(name="perhaps", number=6, type=F.TYPE_MESSAGE, type_name=".google.protobuf.DoubleValue", label=one)
    add(name="next", number=7, type=F.TYPE_MESSAGE, type_name=".harbour.Reading", label=one)
    message.oneof_decl.add(name="_maybe")
    add(name="maybe", number=8, type=F.TYPE_INT32, label=one, proto3_optional=True, oneof_index=0)
    entry = message.nested_type.add(name="TagsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=F.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type=F.TYPE_DOUBLE, label=one)
    add(name="tags", number=9, type=F.TYPE_MESSAGE, type_name=".harbour.Reading.TagsEntry", label=many)
    data: bytes = files.SerializeToString()
    return data


SET = descriptors()
Reading: Any = message_class("harbour.Reading", SET)


def config(tmp_path: Path, **more: Any) -> PayloadConfig:
    (tmp_path / "set").write_bytes(SET)
    given = {"format": "protobuf", "descriptors": "set", "message": "harbour.Reading", **more}
    return PayloadConfig.model_validate(given, context={"base": tmp_path})


@pytest.fixture
def plain(tmp_path: Path) -> ProtobufReader:
    return ProtobufReader(config(tmp_path), Limits())


@pytest.fixture
def delimited(tmp_path: Path) -> ProtobufReader:
    return ProtobufReader(config(tmp_path, framing="delimited"), Limits())


def decoded(data: bytes, by: ProtobufReader) -> tuple[list[Any], list[Any], RecordError | None]:
    values, bad = [], []
    try:
        for row in by.rows(BytesBlob("x", data)):
            if isinstance(row, Decoded):
                values.append(row.value)
            else:
                bad.append(row)
    except RecordError as exc:
        return values, bad, exc
    return values, bad, None


def number(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def framed(*messages: bytes) -> bytes:
    return b"".join(number(len(m)) + m for m in messages)


def test_a_message_gives_its_fields_by_name(plain: ProtobufReader) -> None:
    message = Reading(
        a_double=1.5, a_uint64=1 << 63, a_string="x", a_bytes=b"\xff", state=1, values=[1, 2], tags={"b": 2}
    )
    message.t.FromJsonString("2026-05-06T07:08:09.123456789Z")
    message.wind.speed = 2.5
    message.lasted.FromJsonString("1.5s")
    message.perhaps.value = 7
    ((value,), bad, error) = decoded(message.SerializeToString(), plain)
    assert (bad, error) == ([], None)
    assert value == {
        "t": "2026-05-06T07:08:09.123456789Z", "a_double": 1.5, "a_int64": 0, "a_uint64": 1 << 63, "a_bool": False,
        "a_string": "x", "a_bytes": b"\xff", "a_int32": 0, "a_float": 0.0, "wind": {"speed": 2.5}, "state": "OPEN",
        "values": [1.0, 2.0], "lasted": 1.5, "perhaps": 7.0, "tags": {"b": 2.0},
    }  # fmt: skip
    message.maybe = 0
    assert decoded(message.SerializeToString(), plain)[0][0]["maybe"] == 0, "sent, though it is the default"


@settings(max_examples=80, deadline=None)
@given(
    st.floats(width=64, allow_nan=False), st.integers(-(1 << 63), (1 << 63) - 1), st.text(), st.binary(),
    st.lists(st.floats(allow_nan=False), max_size=4), st.integers(-5, 5), st.dictionaries(st.text(), st.floats(-9, 9)),
)  # fmt: skip
def test_any_message_gives_what_protobufs_own_json_says(
    double: float, whole: int, text: str, raw: bytes, values: list[float], state: int, tags: dict[str, float]
) -> None:
    held = PayloadConfig.model_construct(format="protobuf", framing="none", descriptors=SET, message="harbour.Reading")
    message = Reading(a_double=double, a_int64=whole, a_string=text, a_bytes=raw, values=values, state=state, tags=tags)
    (value,) = decoded(message.SerializeToString(), ProtobufReader(held, Limits()))[0]
    said = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert value["a_int64"] == int(said.get("a_int64", 0))
    assert value["a_string"] == said.get("a_string", "")
    assert value.get("values", []) == [float(v) for v in said.get("values", [])]
    assert value["state"] == str(said.get("state", "UNKNOWN"))
    assert value["tags"] == {k: float(v) for k, v in said.get("tags", {}).items()}
    assert value["a_double"] == float(said.get("a_double", 0)) or math.isinf(double)
    assert value["a_bytes"] == raw


def test_a_delimited_stream_gives_every_message_and_a_bad_one_costs_itself(delimited: ProtobufReader) -> None:
    messages = [Reading(a_int64=i).SerializeToString() for i in range(50)]
    values, bad, error = decoded(framed(*messages), delimited)
    assert [v["a_int64"] for v in values] == list(range(50))
    assert (bad, error) == ([], None)
    messages[7] = b"\xff\xff\xff"
    values, bad, error = decoded(framed(*messages), delimited)
    assert [v["a_int64"] for v in values] == [i for i in range(50) if i != 7]
    assert [(b.reason, b.locator["item"], b.data) for b in bad] == [("corrupt", 7, b"\xff\xff\xff")]
    assert error is None
    values, bad, error = decoded(framed(*messages)[:-1], delimited)
    assert len(values) == 48
    assert error is not None
    assert error.reason == "truncated"


def test_confluents_header_and_indexes_are_taken_off(tmp_path: Path) -> None:
    by = ProtobufReader(config(tmp_path, framing="confluent"), Limits())
    body = Reading(a_int64=5).SerializeToString()
    for indexes in (b"\0", b"\x02\x00", b"\x04\x02\x06"):
        assert decoded(b"\0\0\0\0\7" + indexes + body, by)[0][0]["a_int64"] == 5
    for bad in (
        b"\1\0\0\0\7\0" + body,
        b"\0\0\0\0\7",
        b"\0\0\0\0\7\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0",
    ):
        _, _, error = decoded(bad, by)
        assert error is not None
        assert error.reason == "corrupt"


def test_hostile_bytes_end_in_reasons(plain: ProtobufReader, delimited: ProtobufReader) -> None:
    deep = b""
    for _ in range(5000):
        deep = b"\x3a" + number(len(deep)) + deep  # field 7, the message itself
    nested = b""
    for _ in range(90):
        nested = b"\x3a" + number(len(nested)) + nested
    for data, reasons in (
        (deep, ("corrupt", "unsupported:nesting")),
        (nested, ("unsupported:nesting",)),
        (b"\x0a\xff\xff\xff\xff\x0f", ("corrupt",)),  # a length beyond the end
        (b"\xff" * 20, ("corrupt",)),
        (b"\x82\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f", ("corrupt",)),
        (b"\x0a\x08\x08" + number(1 << 45), ("no_time",)),  # a Timestamp in the year 1,000,000
    ):
        _, _, error = decoded(data, plain)
        assert error is not None, data[:20]
        assert error.reason in reasons
    for data in (b"\xff" * 12, number(1 << 62) + b"x", number(5), b"\x80"):
        _, _, error = decoded(data, delimited)
        assert error is not None
        assert error.reason in ("corrupt", "truncated")
    assert decoded(b"", delimited)[2].reason == "empty"  # type: ignore[union-attr]
    small = Limits(max_bytes=1 << 12)
    by = ProtobufReader(delimited_config(delimited), small)
    _, bad, error = decoded(framed(bytes(2000), Reading(a_int64=1).SerializeToString()), by)
    assert [b.reason for b in bad] == ["too_large"]
    assert error is None


def delimited_config(by: ProtobufReader) -> PayloadConfig:
    return PayloadConfig.model_construct(
        format="protobuf", framing="delimited", descriptors=SET, message="harbour.Reading"
    )


def test_any_flipped_byte_ends_in_a_value_or_a_reason(plain: ProtobufReader) -> None:
    message = Reading(a_double=1.5, a_string="x", values=[1, 2], tags={"b": 2})
    message.t.FromJsonString("2026-05-06T07:08:09Z")
    data = message.SerializeToString()
    for at in range(len(data)):
        for flip in (1, 8, 0x80, 0xFF):
            broken = bytearray(data)
            broken[at] ^= flip
            decoded(bytes(broken), plain)


def test_descriptors_that_have_no_such_message_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FileDescriptorSet"):
        ProtobufReader(config(tmp_path, message="harbour.Other"), Limits())
    (tmp_path / "junk").write_bytes(b"\xff\xff")
    with pytest.raises(ConfigError, match="FileDescriptorSet"):
        ProtobufReader(config(tmp_path, descriptors="junk"), Limits())
    alone = descriptor_pb2.FileDescriptorSet.FromString(SET)
    del alone.file[:3]  # what it imports is missing
    (tmp_path / "alone").write_bytes(alone.SerializeToString())
    with pytest.raises(ConfigError, match="include_imports"):
        ProtobufReader(config(tmp_path, descriptors="alone"), Limits())


def test_messages_become_windows_and_texts(tmp_path: Path) -> None:
    rows = []
    for i in range(5):
        message = Reading(a_double=i / 2, a_string=f"note {i}")
        message.t.FromNanoseconds((1_700_000_000 + i) * 10**9)
        message.wind.speed = i
        rows.append(message.SerializeToString())
    item = Item(framed(*rows), 0, headers={"format": "unknown"})
    payload = config(tmp_path, framing="delimited")
    sensor = SensorNormalizer(SensorNormalizer.Config(payload=payload, channels={"a_double": "m", "wind.speed": "m/s"}))
    found = {r["channel"]: r for batch in sensor.open(item) for r in batch.to_pylist()}  # type: ignore[union-attr]
    assert sorted(found) == ["a_double", "wind.speed"]
    assert (found["a_double"]["value"], found["a_double"]["unit"]) == ([0.0, 0.5, 1.0, 1.5, 2.0], "m")
    text = TextNormalizer(TextNormalizer.Config(payload=payload, field="a_string", time="t"))
    records = [r for batch in text.open(item) for r in batch.to_pylist()]  # type: ignore[union-attr]
    assert [r["text"] for r in records] == [f"note {i}" for i in range(5)]
    assert json.loads(records[3]["extra"])["wind"] == {"speed": 3.0}
    assert records[3]["event_time"].timestamp() == 1_700_000_003
    assert not any(isinstance(batch, Bad) for batch in text.open(item))
