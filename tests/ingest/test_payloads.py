"""Every kind of payload as a message of a live stream: what each becomes, and that a bad one costs itself alone."""

from __future__ import annotations

import datetime as dt
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.connectors.contract import Item
from headrace.ingest.normalizers.sensor import SensorNormalizer
from headrace.shards.books import SourceCounts
from headrace.shards.verify import verify

from .live_world import World

T0 = 1_700_000_000
LINES = {"format": "line_protocol", "precision": "s"}
SENSOR = {"tokenizer": {"type": "zscore-mu-law"}, "windows": {"samples": 4}}


def world(payloads: list[bytes], record: dict[str, Any], **stream: Any) -> World:
    made = World(
        {"a": [Item(data, i, event_time=T0 * 10**6) for i, data in enumerate(payloads)]}, record=record, **stream
    )
    made.run()
    return made


def channels(made: World) -> list[str]:
    return sorted(set(made.column("channel")))


def counts(made: World) -> SourceCounts:
    return made.log.state.sources["tide"]


def reasons(made: World) -> list[str]:
    return sorted(r for _, batch in made.dataset().quarantine() for r in batch.column("reason").to_pylist())


def rows_json(i: int) -> bytes:
    return json.dumps({"t": T0 + i, "level": i / 4, "wind": {"speed": i}}).encode()


def rows_csv(i: int) -> bytes:
    return f"t,level,speed\n{T0 + 2 * i},{i / 4},1.5\n{T0 + 2 * i + 1},{i / 8},2.5\n".encode()


def table(i: int) -> pa.Table:
    times = pa.array([dt.datetime.fromtimestamp(T0 + 2 * i + k, dt.UTC) for k in range(2)], pa.timestamp("us", "UTC"))
    return pa.table({"t": times, "level": pa.array([i / 4, i / 8]), "speed": pa.array([1.5, 2.5])})


def rows_ipc(i: int) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table(i).schema) as writer:
        writer.write_table(table(i))
    return out.getvalue()


def rows_feather(i: int) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, table(i).schema) as writer:
        writer.write_table(table(i))
    return out.getvalue()


def rows_parquet(i: int) -> bytes:
    out = io.BytesIO()
    pq.write_table(table(i), out)
    return out.getvalue()


def rows_lines(i: int) -> bytes:
    return f"tide level={i / 4},speed=1.5 {T0 + 2 * i}\ntide level={i / 8},speed=2.5 {T0 + 2 * i + 1}".encode()


def rows_mcap(i: int) -> bytes:
    writer_module = pytest.importorskip("mcap.writer")
    out = io.BytesIO()
    writer = writer_module.Writer(out)
    writer.start()
    schema = writer.register_schema(name="tide", encoding="jsonschema", data=b"{}")
    channel = writer.register_channel(topic="/tide", message_encoding="json", schema_id=schema)
    for k in range(2):
        stamp = (T0 + 2 * i + k) * 10**9
        writer.add_message(channel, stamp, json.dumps({"level": i / 4, "speed": 1.5}).encode(), stamp)
    writer.finish()
    return out.getvalue()


AVRO = {"type": "record", "name": "Tide", "fields": [
    {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "level", "type": "double"},
    {"name": "speed", "type": "double"}]}  # fmt: skip


def avro_value(i: int) -> bytes:
    fastavro = pytest.importorskip("fastavro")
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(AVRO), avro_row(i))
    return out.getvalue()


def avro_row(i: int) -> dict[str, Any]:
    return {"t": dt.datetime.fromtimestamp(T0 + i, dt.UTC), "level": i / 4, "speed": 1.5}


def rows_avro(i: int) -> bytes:
    fastavro = pytest.importorskip("fastavro")
    out = io.BytesIO()
    fastavro.writer(out, AVRO, [avro_row(2 * i), avro_row(2 * i + 1)], codec="deflate")
    return out.getvalue()


@pytest.mark.parametrize(
    ("make", "bad", "names", "payload"),
    [
        (rows_json, b'{"t": 17000000', ["level", "wind.speed"], None),
        (rows_csv, b"\x00\x01\x02\x03" * 9, ["level", "speed"], None),
        (rows_ipc, rows_ipc(0)[:300], ["level", "speed"], None),
        (rows_feather, rows_feather(0)[:9], ["level", "speed"], None),
        (rows_parquet, rows_parquet(0)[:200], ["level", "speed"], None),
        (
            rows_lines,
            b"nothing of the kind",
            ["tide.level", "tide.speed"],
            {"format": "line_protocol", "precision": "s"},
        ),
        (rows_mcap, b"\x89MCAP0\r\n\xff", ["/tide/level", "/tide/speed"], None),
        (rows_avro, b"Obj\x01\xff", ["level", "speed"], None),
    ],
    ids=["json", "csv", "arrow stream", "arrow file", "parquet", "line protocol", "mcap", "avro"],
)
def test_messages_of_readings_become_windows_over_many_messages(
    make: Any, bad: bytes, names: list[str], payload: dict[str, Any] | None
) -> None:
    payloads = [make(i) for i in range(12)]
    payloads.insert(5, bad)
    record = {"type": "sensor", **({"payload": payload} if payload else {})}
    made = world(payloads, record, **SENSOR)
    assert channels(made) == names
    assert counts(made).read == 13
    assert len(reasons(made)) == 1
    assert verify(made.dataset()).problems == []


@pytest.mark.parametrize("framing", ["none", "confluent"])
def test_single_avro_values_are_read_with_the_schema_of_the_pipeline(tmp_path: Path, framing: str) -> None:
    (tmp_path / "7.avsc").write_text(json.dumps(AVRO))
    payload: dict[str, Any] = {"format": "avro", "framing": framing}
    payload |= {"schema_files": str(tmp_path)} if framing == "confluent" else {"schema_file": str(tmp_path / "7.avsc")}
    head = b"\0\0\0\0\7" if framing == "confluent" else b""
    payloads = [head + avro_value(i) for i in range(12)]
    payloads[4] = payloads[4][:-3]
    made = world(payloads, {"type": "sensor", "payload": payload}, **SENSOR)
    assert channels(made) == ["level", "speed"]
    assert (counts(made).read, counts(made).quarantined) == (12, 1)
    assert reasons(made) == ["truncated"]


def test_protobuf_messages_are_read_with_the_descriptors_of_the_pipeline(tmp_path: Path) -> None:
    pb = pytest.importorskip("google.protobuf.descriptor_pb2")
    files = pb.FileDescriptorSet()
    file = files.file.add(name="tide.proto", package="tide", syntax="proto3")
    message = file.message_type.add(name="Tide")
    for n, name in enumerate(("t", "level"), 1):
        message.field.add(name=name, number=n, type=pb.FieldDescriptorProto.TYPE_DOUBLE, label=1)
    (tmp_path / "tide.desc").write_bytes(files.SerializeToString())
    payloads = [b"\x09" + struct.pack("<d", T0 + i) + b"\x11" + struct.pack("<d", i / 4) for i in range(12)]
    payloads[4] = payloads[4][:-3]
    payload = {"format": "protobuf", "descriptors": str(tmp_path / "tide.desc"), "message": "tide.Tide"}
    made = world(payloads, {"type": "sensor", "payload": payload}, **SENSOR)
    assert channels(made) == ["level"]
    assert (counts(made).read, counts(made).quarantined) == (12, 1)
    assert reasons(made) == ["corrupt"]


def test_values_read_by_a_learned_shape_are_those_that_are_read_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "tide.avsc").write_text(json.dumps(AVRO))
    payload = {"format": "avro", "schema_file": str(tmp_path / "tide.avsc")}
    normalizer = SensorNormalizer(SensorNormalizer.Config.model_validate({"payload": payload}))
    for i in range(5):
        item = Item(avro_value(i), i, headers={"object": f"a@{i}", "format": "unknown"})
        rows = normalizer.rows(item)
        assert rows
        assert list(normalizer.open(item)) == [normalizer.gather(rows)]
    container = Item(rows_avro(1), 9, headers={"format": "avro"})
    assert normalizer.rows(container) is None


def test_texts_come_out_of_every_kind_of_message(tmp_path: Path) -> None:
    fastavro = pytest.importorskip("fastavro")
    schema = {
        "type": "record",
        "name": "N",
        "fields": [{"name": "body", "type": "string"}, {"name": "n", "type": "int"}],
    }
    rows = [{"body": f"text {i}", "n": i} for i in range(3)]
    avro = io.BytesIO()
    fastavro.writer(avro, schema, rows)
    ipc = io.BytesIO()
    arrow = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(ipc, arrow.schema) as writer:
        writer.write_table(arrow)
    kinds = {
        "json": [json.dumps(row).encode() for row in rows],
        "jsonl": [b"\n".join(json.dumps(row).encode() for row in rows)],
        "csv": [b"body,n\n" + "\n".join(f"{r['body']},{r['n']}" for r in rows).encode()],
        "arrow": [ipc.getvalue()],
        "avro": [avro.getvalue()],
    }
    for name, payloads in kinds.items():
        # Without a name, a table of words looks like prose.
        declared = {"payload": {"format": "csv"}} if name == "csv" else {}
        made = world(payloads, {"type": "text", "field": "body", **declared}, tokenizer={"type": "bytes"})
        assert len(made.column("tokens")) == 3, name
        assert counts(made).quarantined == 0, name
    lines = b'log message="text 0",n=0i 1\nlog message="text 1",n=1i 2\n'
    record = {"type": "text", "field": "fields.message", "payload": {"format": "line_protocol"}}
    made = world([lines], record, tokenizer={"type": "bytes"})
    assert len(made.column("tokens")) == 2


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_the_bytes_of_a_picture_are_a_picture(name: str) -> None:
    images = pytest.importorskip("PIL.Image")
    payloads = []
    for i in range(4):
        out = io.BytesIO()
        images.fromarray(np.full((32, 48, 3), 40 * i, np.uint8)).save(out, name)
        payloads.append(out.getvalue())
    payloads[2] = payloads[2][:20]
    made = world(payloads, {"type": "image"}, tokenizer={"type": "raw"})
    assert (counts(made).read, counts(made).quarantined) == (4, 1)
    assert len(made.column("uri")) == 3
