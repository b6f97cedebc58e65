"""MCAP against the mcap package's own iteration, damaged recordings, and every kind of message."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import NonSeekingReader
from mcap.writer import CompressionType, Writer

from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.sensor_testing import Read, read

SECOND = 1_000_000_000
START = 1_600_000_000 * SECOND


def mcap(
    messages: list[tuple[str, Any]],
    *,
    schema: tuple[str, str, bytes] = ("", "", b""),
    encoding: str = "json",
    **options: Any,
) -> bytes:
    """A recording of (topic, JSON value or bytes), a second apart."""
    sink = io.BytesIO()
    writer = Writer(sink, **options)
    writer.start()
    known = writer.register_schema(*schema) if schema[0] else 0
    topics: dict[str, int] = {}
    for i, (topic, value) in enumerate(messages):
        if topic not in topics:
            topics[topic] = writer.register_channel(topic, encoding, known)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        writer.add_message(topics[topic], START + i * SECOND, data, START + i * SECOND + 7)
    writer.finish()
    return sink.getvalue()


def test_numbers_are_channels_of_their_topic_and_words_are_lines() -> None:
    out = read(
        mcap(
            [
                ("/imu", {"a": {"x": i, "y": -i}, "state": "on" if i < 5 else "off", "cov": [0.5, 1.5]})
                for i in range(10)
            ]
        ),
        "mcap",
    )
    assert out.channels == ["/imu/a.x", "/imu/a.y", "/imu/cov[0]", "/imu/cov[1]"]
    t, value, _ = out.channel("/imu/a.y")
    assert value.tolist() == [-i for i in range(10)] and t.tolist() == [START + i * SECOND for i in range(10)]
    assert out.of("sensor")[0]["locator"] == '{"channel":"/imu/a.x","message":0,"topic":"/imu"}'
    assert out.of("sensor")[0]["time_source"] == "mcap:log_time"
    assert [json.loads(line) for line in out.text.splitlines()] == [
        {"state": "on", "t": START},
        {"state": "off", "t": START + 5 * SECOND},
    ]


def test_the_stamp_of_a_header_is_the_time_where_there_is_one() -> None:
    stamp = {"sec": 5, "nanosec": 6}
    out = read(mcap([("/a", {"header": {"stamp": stamp, "frame_id": "base"}, "v": i}) for i in range(3)]), "mcap")
    assert out.channel("/a/v", "base")[0].tolist() == [5 * SECOND + 6] * 3
    assert out.of("sensor")[0]["time_source"] == "header.stamp" and out.flags() == {"duplicate_time": 2}
    logged = read(mcap([("/a", {"header": {"stamp": stamp}, "v": 1})]), "mcap", clock="log")
    assert logged.channel("/a/v")[0].tolist() == [START]
    published = read(mcap([("/a", {"v": 1})]), "mcap", clock="publish")
    assert (
        published.channel("/a/v")[0].tolist() == [START + 7]
        and published.records[0]["time_source"] == "mcap:publish_time"
    )
    mixed = read(mcap([("/a", {"timestamp": stamp, "v": 1}), ("/a", {"v": 2})]), "mcap")
    assert mixed.channel("/a/v")[0].tolist() == [5 * SECOND + 6, START + SECOND] and "clock_mixed" in mixed.flags()


def test_topics_can_be_chosen() -> None:
    out = read(mcap([("/a/x", {"v": 1}), ("/b", {"v": 2})]), "mcap", topics=("/a/*",))
    assert out.channels == ["/a/x/v"]


def test_long_arrays_are_tensors_named_by_their_field() -> None:
    out = read(mcap([("/scan", {"ranges": list(range(100)), "n": 1})]), "mcap")
    tensor = out.of("tensor")[0]
    assert tensor["data"].tolist() == list(range(100)) and tensor["dims"] == ["ranges"]
    assert json.loads(tensor["locator"]) == {"field": "ranges", "message": 0, "topic": "/scan"}
    assert out.channels == ["/scan/n"]


def test_what_no_decoder_reads_passes_as_its_bytes() -> None:
    out = read(mcap([("/x", b"\1\2\3"), ("/x", b"")], schema=("Thing", "odd", b"?"), encoding="odd"), "mcap")
    assert [t["data"].tolist() for t in out.of("tensor")] == [[1, 2, 3], []]
    assert out.of("tensor")[0]["schema_name"] == "Thing" and "no decoder for odd" in out.of("tensor")[0]["extra"]


def test_one_bad_message_costs_one_message() -> None:
    out = read(
        mcap([("/a", {"v": 1}), ("/a", b"{oops"), ("/a", {"v": 3}), ("/a", {"v": "four"}), ("/a", {"v": 5})]), "mcap"
    )
    assert out.channel("/a/v")[1].tolist() == [1, 3, 5]
    assert [(b.reason, json.loads(b.locator)["message"]) for b in out.bad] == [("invalid_json", 1), ("wrong_type", 3)]


def test_protobuf_messages_are_read_by_their_own_descriptors() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2  # type: ignore[import-untyped]

    file = descriptor_pb2.FileDescriptorProto(
        name="x.proto", package="my", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    kind = file.message_type.add(name="Reading")
    optional, repeated = (
        descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    kind.field.add(name="timestamp", number=1, type=11, label=optional, type_name=".google.protobuf.Timestamp")
    kind.field.add(name="level", number=2, type=1, label=optional)
    kind.field.add(name="samples", number=3, type=2, label=repeated)
    kind.field.add(name="note", number=4, type=9, label=optional)
    stamp_file = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(stamp_file)
    files = descriptor_pb2.FileDescriptorSet(file=[file, stamp_file])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(stamp_file)
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("my.Reading"))
    rows = [
        made(timestamp={"seconds": 100 + i, "nanos": 5}, level=i * 0.5, samples=[i] * 70, note="hi").SerializeToString()
        for i in range(3)
    ]
    out = read(
        mcap(
            [("/r", row) for row in rows],
            schema=("my.Reading", "protobuf", files.SerializeToString()),
            encoding="protobuf",
        ),
        "mcap",
    )
    assert out.channel("/r/level")[1].tolist() == [0, 0.5, 1.0]
    assert out.channel("/r/level")[0].tolist() == [(100 + i) * SECOND + 5 for i in range(3)]
    assert out.of("tensor")[2]["data"].tolist() == [2.0] * 70 and '"note":"hi"' in out.text
    broken = read(
        mcap([("/r", b"\xff\xff")], schema=("my.Reading", "protobuf", files.SerializeToString()), encoding="protobuf"),
        "mcap",
    )
    assert [b.reason for b in broken.bad] == ["corrupt"]
    odd = read(mcap([("/r", rows[0])], schema=("my.Reading", "protobuf", b"\1\2\3"), encoding="protobuf"), "mcap")
    assert [r["modality"] for r in odd.records] == ["tensor"]


def foxglove(value: dict[str, Any], kind: str, count: int = 1) -> Read:
    return read(
        mcap([("/x", {"timestamp": {"sec": 9, "nsec": 1}, **value})] * count, schema=(kind, "jsonschema", b"{}")),
        "mcap",
    )


def test_raw_pictures_become_images() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8)
    padded = b"".join(row.tobytes() + b"\0\0" for row in pixels.reshape(2, 9))
    padded += bytes(100)  # long enough to be base64 of bytes, not a short word
    value = {"width": 3, "height": 2, "encoding": "bgr8", "step": 11, "data": base64.b64encode(padded).decode()}
    out = foxglove(value, "foxglove.RawImage")
    image = out.of("image")[0]
    assert image["pixels"].tolist() == pixels.reshape(2, 3, 3)[:, :, ::-1].tolist() and image["mode"] == "RGB"
    assert image["event_time"] == 9_000_000 and image["time_source"] == "header.stamp"
    bad = foxglove({**value, "height": 200}, "foxglove.RawImage")
    assert [b.reason for b in bad.bad] == ["inconsistent"]
    assert next(r["modality"] for r in foxglove({**value, "encoding": "yuv422"}, "foxglove.RawImage").records) in (
        "tensor",
        "sensor",
    )


def test_sound_is_joined_to_windows() -> None:
    samples = np.arange(8000, dtype=np.int16)
    messages = [
        (
            "/mic",
            {
                "timestamp": {"sec": 100 + i, "nsec": 0},
                "format": "pcm-s16",
                "sample_rate": 8000,
                "number_of_channels": 1,
                "data": base64.b64encode((samples + i).tobytes()).decode(),
            },
        )
        for i in [*range(23), 40]
    ]
    out = read(mcap(messages, schema=("foxglove.RawAudio", "jsonschema", b"{}")), "mcap")
    audio = out.of("audio")
    assert [a["shape"] for a in audio] == [[80_000, 1], [80_000, 1], [24_000, 1], [8000, 1]]
    assert (
        np.concatenate([a["samples"] for a in audio]).ravel().tolist()
        == np.concatenate([samples + i for i in [*range(23), 40]]).tolist()
    )
    assert [a["event_time"] for a in audio] == [100_000_000, 110_000_000, 120_000_000, 140_000_000]


def test_point_clouds_are_arrays_of_points() -> None:
    cloud = np.arange(60, dtype=np.float32).reshape(20, 3)
    fields = [{"name": n, "offset": 4 * i, "type": 7} for i, n in enumerate("xyz")]
    out = foxglove(
        {"point_stride": 12, "fields": fields, "data": base64.b64encode(cloud.tobytes()).decode()},
        "foxglove.PointCloud",
    )
    tensor = out.of("tensor")[0]
    assert (
        np.array_equal(tensor["data"], cloud)
        and tensor["dims"] == ["point", "field"]
        and json.loads(tensor["extra"])["names"] == ["x", "y", "z"]
    )


def records_of(data: bytes) -> list[tuple[int, int, int]]:
    """(opcode, offset of its content, length) of every record."""
    out, at = [], 8
    while at < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        out.append((opcode, at + 9, length))
        at += 9 + length
    return out


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
def test_a_damaged_chunk_costs_its_own_messages(compression: CompressionType) -> None:
    data = bytearray(mcap([("/a", {"v": i}) for i in range(2000)], chunk_size=4000, compression=compression))
    chunks = [(at, length) for opcode, at, length in records_of(bytes(data)) if opcode == 6]
    at, length = chunks[len(chunks) // 2]
    data[at + length - 400 : at + length - 396] = b"\xff\0\xff\0"
    out = read(bytes(data), "mcap")
    value = out.channel("/a/v")[1]
    assert [b.reason for b in out.bad] == ["checksum" if compression == CompressionType.NONE else out.bad[0].reason]
    assert out.bad[0].reason in ("checksum", "corrupt") and "truncated" in out.flags()
    assert 1800 < len(value) < 2000 and set(value.tolist()) < set(range(2000))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_cut_recording_gives_what_it_has_and_says_so(share: float) -> None:
    data = mcap([("/a", {"v": i}) for i in range(2000)], chunk_size=4000)
    out = read(data[: int(len(data) * share)], "mcap")
    assert out.error is not None and out.error.reason == "truncated"
    value = out.channel("/a/v")[1].tolist() if out.of("sensor") else []
    assert value == list(range(len(value)))
    if value:
        assert "truncated" in out.of("sensor")[-1]["flags"]


def test_a_chunk_that_declares_more_than_the_limits_is_a_bomb() -> None:
    data = mcap([("/a", {"v": "x" * 1_000_000})] * 200, chunk_size=1 << 30, compression=CompressionType.ZSTD)
    assert len(data) < 1_000_000
    out = read(data, "mcap", Limits(max_ratio=100))
    assert [b.reason for b in out.bad] == ["bomb"] and out.records == []


def test_a_chunk_that_expands_beyond_what_it_declares_is_corrupt() -> None:
    data = bytearray(mcap([("/a", {"v": "x" * 100_000})], compression=CompressionType.ZSTD))
    at = next(at for opcode, at, _ in records_of(bytes(data)) if opcode == 6) + 16  # after the first and last time
    (size,) = struct.unpack_from("<Q", data, at)
    assert size > 100_000
    data[at : at + 8] = struct.pack("<Q", size // 2)
    assert [b.reason for b in read(bytes(data), "mcap").bad] == ["corrupt"]


def test_attachments_and_metadata_are_kept() -> None:
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.start()
    writer.add_attachment(START, START, "plan.txt", "text/plain", b"hello")
    writer.add_metadata("who", {"name": "me"})
    writer.finish()
    out = read(sink.getvalue(), "mcap")
    assert out.of("tensor")[0]["data"].tobytes() == b"hello" and out.of("tensor")[0]["schema_name"] == "text/plain"
    assert out.text == '{"metadata":{"name":"me"},"name":"who"}\n'


@pytest.mark.parametrize(
    "data", [b"", b"\x89MCAP0\r\n", b"not mcap at all, not even close", b"\x89MCAP0\r\n" + b"\xff" * 64]
)
def test_what_is_no_recording_ends_with_a_reason(data: bytes) -> None:
    out = read(data, "mcap")
    assert out.records == [] and out.error is not None and out.error.reason in ("truncated", "corrupt", "empty")


@pytest.mark.data
def test_every_recording_of_the_corpus_arrives_as_the_package_reads_it(corpus: Path) -> None:
    paths = sorted((corpus / "sensor/mcap").rglob("*.mcap"))
    assert len(paths) > 50
    for path in paths:
        out = read(path)
        assert out.error is None and out.bad == [] and out.records, path.name
        with open(path, "rb") as stream:
            wanted = [
                (c.topic, m.log_time, m.data)
                for _, c, m in NonSeekingReader(stream).iter_messages(log_time_order=False)
            ]
        found = [t for t in out.of("tensor") if "message" in json.loads(t["locator"])]
        assert [(json.loads(t["locator"])["topic"], t["event_time"], t["data"].tobytes()) for t in found] == [
            (topic, time // 1000, data) for topic, time, data in wanted
        ], path.name
