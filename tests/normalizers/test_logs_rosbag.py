"""ROS recordings written by rosbags, and read back by hand: values, pictures, clouds, damage."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import Writer as Writer2
from rosbags.rosbag2.enums import StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from headrace.ingest.normalizers import logs_ros
from headrace.ingest.normalizers.sensor_testing import read
from headrace.schemas.errors import RecordError

SECOND = 1_000_000_000
START = 1_600_000_000 * SECOND
CUSTOM = """std_msgs/Header header
float32 level
int16[3] counts
string state
my_msgs/Part[] parts
uint8[] blob
bool ok
float64[] far
"""
PART = "string name\nfloat64 value\n"


def stores(ros2: bool) -> tuple[Any, Any]:
    store = get_typestore(Stores.ROS2_HUMBLE if ros2 else Stores.ROS1_NOETIC)
    store.register(get_types_from_msg(CUSTOM, "my_msgs/msg/Reading"))
    store.register(get_types_from_msg(PART, "my_msgs/msg/Part"))
    return store, store.types


def header(types: Any, i: int, ros2: bool, frame: str = "base") -> Any:
    stamp = types["builtin_interfaces/msg/Time"](sec=100 + i, nanosec=7)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame, **({} if ros2 else {"seq": i}))


def reading(types: Any, i: int, ros2: bool) -> Any:
    part = types["my_msgs/msg/Part"]
    return types["my_msgs/msg/Reading"](
        header=header(types, i, ros2),
        level=i / 4,
        counts=np.array([i, -i, 5], np.int16),
        state="ok" if i < 6 else "hot",
        parts=[part(name="odd", value=i * 1.5)] * (i % 3),
        blob=np.arange(i % 100, dtype=np.uint8),
        ok=bool(i % 2),
        far=np.arange(70.0) + i,
    )


def write(
    folder: Path, messages: list[tuple[str, str, Any]], ros2: bool, *, mcap: bool = False, chunk: str | None = None
) -> Path:
    """A recording of (topic, type, message), a second apart."""
    store, _ = stores(ros2)
    connections: dict[str, Any] = {}
    if ros2:
        target = folder / "bag"
        writer: Any = Writer2(target, version=9, storage_plugin=StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3)
    else:
        target = folder / "a.bag"
        writer = Writer1(target)
        if chunk is not None:
            writer.set_compression(Writer1.CompressionFormat[chunk])
    with writer:
        for i, (topic, kind, message) in enumerate(messages):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            data = store.serialize_cdr(message, kind) if ros2 else store.serialize_ros1(message, kind)
            writer.write(connections[topic], START + i * SECOND, data)
    return next(target.glob("*.mcap" if mcap else "*.db3")) if ros2 else target


@pytest.mark.parametrize("how", ["bag", "bz2", "lz4", "db3", "mcap"])
def test_messages_of_a_type_of_their_own_are_read(tmp_path: Path, how: str) -> None:
    ros2 = how in ("db3", "mcap")
    _, types = stores(ros2)
    rows = [("/r", "my_msgs/msg/Reading", reading(types, i, ros2)) for i in range(10)]
    out = read(write(tmp_path, rows, ros2, mcap=how == "mcap", chunk={"bz2": "BZ2", "lz4": "LZ4"}.get(how)))
    assert out.error is None and out.bad == []
    t, value, _ = out.channel("/r/level", "base")
    assert value.tolist() == [i / 4 for i in range(10)] and t.tolist() == [(100 + i) * SECOND + 7 for i in range(10)]
    assert out.channel("/r/counts[1]", "base")[1].tolist() == [-i for i in range(10)]
    assert out.channel("/r/ok", "base")[1].tolist() == [i % 2 for i in range(10)]
    assert out.channel("/r/parts[0].value", "base")[1].tolist() == [i * 1.5 for i in range(10) if i % 3]
    assert out.channel("/r/blob[3]", "base")[1].tolist() == [3] * 6
    assert [x["data"].tolist() for x in out.of("tensor")] == [(np.arange(70.0) + i).tolist() for i in range(10)]
    lines = [json.loads(line) for line in out.text.splitlines()]
    assert [line.get("state") for line in lines if line.get("t") == 106 * SECOND + 7] == ["hot"]
    sensor = out.of("sensor")[0]
    assert sensor["time_source"] == "header.stamp" and sensor["device"] == "base"
    logged = read(
        tmp_path / "a.bag" if not ros2 else next((tmp_path / "bag").glob("*.mcap" if how == "mcap" else "*.db3")),
        clock="log",
    )
    assert logged.channel("/r/level", "base")[0].tolist() == [START + i * SECOND for i in range(10)]
    assert logged.of("sensor")[0]["time_source"] == {"db3": "rosbag2", "mcap": "mcap"}.get(how, "rosbag1") + ":log_time"


@pytest.mark.parametrize("ros2", [False, True])
def test_every_topic_goes_to_its_modality(tmp_path: Path, ros2: bool) -> None:
    _, types = stores(ros2)
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    depth = np.arange(20, dtype=np.uint16).reshape(4, 5)
    cloud = np.arange(120, dtype=np.float32).reshape(30, 4)
    field = types["sensor_msgs/msg/PointField"]
    messages = [
        (
            "/cam",
            "sensor_msgs/msg/Image",
            types["sensor_msgs/msg/Image"](
                header=header(types, 1, ros2),
                height=4,
                width=5,
                encoding="rgb8",
                is_bigendian=0,
                step=15,
                data=image.ravel(),
            ),
        ),
        (
            "/depth",
            "sensor_msgs/msg/Image",
            types["sensor_msgs/msg/Image"](
                header=header(types, 1, ros2),
                height=4,
                width=5,
                encoding="16UC1",
                is_bigendian=1,
                step=10,
                data=np.frombuffer(depth.astype(">u2").tobytes(), np.uint8),
            ),
        ),
        (
            "/yuv",
            "sensor_msgs/msg/Image",
            types["sensor_msgs/msg/Image"](
                header=header(types, 1, ros2),
                height=4,
                width=5,
                encoding="yuv422",
                is_bigendian=0,
                step=10,
                data=np.zeros(80, np.uint8),
            ),
        ),
        (
            "/points",
            "sensor_msgs/msg/PointCloud2",
            types["sensor_msgs/msg/PointCloud2"](
                header=header(types, 1, ros2),
                height=3,
                width=10,
                fields=[field(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate("xyzi")],
                is_bigendian=False,
                point_step=16,
                row_step=160,
                data=np.frombuffer(cloud.tobytes(), np.uint8),
                is_dense=True,
            ),
        ),
        ("/say", "std_msgs/msg/String", types["std_msgs/msg/String"](data="hello")),
        ("/say", "std_msgs/msg/String", types["std_msgs/msg/String"](data="hello")),
        (
            "/fix",
            "sensor_msgs/msg/NavSatFix",
            types["sensor_msgs/msg/NavSatFix"](
                header=header(types, 1, ros2),
                status=types["sensor_msgs/msg/NavSatStatus"](status=0, service=1),
                latitude=60.0,
                longitude=25.0,
                altitude=3.0,
                position_covariance=np.zeros(9),
                position_covariance_type=0,
            ),
        ),
    ]
    out = read(write(tmp_path, messages, ros2))
    assert out.error is None and out.bad == []
    pictures = {json.loads(r["locator"])["topic"]: r for r in out.of("image")}
    assert np.array_equal(pictures["/cam"]["pixels"], image) and pictures["/cam"]["mode"] == "RGB"
    assert np.array_equal(pictures["/depth"]["pixels"][:, :, 0], depth) and pictures["/depth"]["dtype"] == "uint16"
    tensors = {json.loads(r["locator"])["topic"]: r for r in out.of("tensor")}
    assert np.array_equal(tensors["/points"]["data"], cloud) and tensors["/points"]["dims"] == ["point", "field"]
    assert json.loads(tensors["/points"]["extra"])["names"] == ["x", "y", "z", "i"]
    assert tensors["/yuv"]["dims"] == ["data"] and len(tensors["/yuv"]["data"]) == 80
    said = [json.loads(line) for line in out.text.splitlines() if "hello" in line]
    assert said == [{"data": "hello", "t": START + i * SECOND} for i in (4, 5)]
    fix = next(r for r in out.of("sensor") if r["channel"] == "/fix/latitude")
    assert fix["value"].tolist() == [60.0] and fix["geometry"] is not None


def test_coded_pictures_are_decoded(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    _, types = stores(True)
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    sink = io.BytesIO()
    pil.fromarray(pixels).save(sink, "PNG")
    kind = "sensor_msgs/msg/CompressedImage"
    good = types[kind](header=header(types, 1, True), format="png", data=np.frombuffer(sink.getvalue(), np.uint8))
    cut = types[kind](header=header(types, 2, True), format="png", data=np.frombuffer(sink.getvalue()[:60], np.uint8))
    out = read(write(tmp_path, [("/cam", kind, good), ("/cam", kind, cut), ("/cam", kind, good)], True))
    assert [np.array_equal(r["pixels"], pixels) for r in out.of("image") if r["shape"] == [8, 6, 3]][:1] == [True]
    findings = {json.loads(r["locator"])["message"]: r["flags"] for r in out.of("image")}
    assert findings[0] is None and "truncated" in findings[1]
    assert out.of("image")[0]["event_time"] == 101_000_000


@pytest.mark.parametrize("ros2", [False, True])
def test_the_decoder_agrees_with_rosbags_on_the_standard_messages(ros2: bool) -> None:
    """Messages of every standard type, filled from a fixed sequence, read by both."""
    store = get_typestore(Stores.LATEST if ros2 else Stores.ROS1_NOETIC)
    count = [0]

    def fill(description: Any) -> Any:
        kind, detail = description
        count[0] += 1
        if kind.name == "BASE":
            name = detail[0]
            return (
                f"word {count[0]}"
                if name == "string"
                else count[0] % 2 == 0
                if name == "bool"
                else count[0] / 8
                if "float" in name
                else count[0] % 100
            )
        if kind.name == "NAME":
            return build(detail)
        inner, size = detail
        size = size if kind.name == "ARRAY" else count[0] % 4
        if inner[0].name == "BASE" and inner[1][0] != "string":
            name = {"bool": "bool_", "byte": "uint8", "char": "uint8"}.get(inner[1][0], inner[1][0])
            return np.array([fill(inner) for _ in range(size)], dtype=name)
        return [fill(inner) for _ in range(size)]

    def build(name: str) -> Any:
        return store.types[name](*[fill(description) for _, description in store.fielddefs[name][1]])

    def same(found: Any, wanted: Any) -> bool:
        if isinstance(found, dict):
            return all(same(v, getattr(wanted, {"from": "from_"}.get(k, k))) for k, v in found.items())
        if isinstance(found, np.ndarray):
            return np.array_equal(found, wanted)
        if isinstance(found, list):
            return len(found) == len(wanted) and all(map(same, found, wanted))
        return bool(found == wanted)

    checked = 0
    for name in store.fielddefs:
        message = build(name)
        data = bytes(store.serialize_cdr(message, name) if ros2 else store.serialize_ros1(message, name))
        decode = logs_ros.decoder(name, "", "ros2msg", cdr=ros2)
        if decode is None:
            continue
        assert same(decode(data), message), name
        checked += 1
        if len(data) > 12:
            with pytest.raises(RecordError):
                decode(data[: len(data) // 2 - 2])
    assert checked > 100


def test_an_unfinished_bag_gives_its_messages(tmp_path: Path) -> None:
    _, types = stores(False)
    path = write(tmp_path, [("/r", "my_msgs/msg/Reading", reading(types, i, False)) for i in range(200)], False)
    with Reader1(path) as reader:
        assert sum(1 for _ in reader.messages()) == 200
    data = path.read_bytes()
    out = read(data[: len(data) - 300], "rosbag1")
    assert out.error is not None and out.error.reason == "truncated"
    assert out.channel("/r/level", "base")[1].tolist() == [i / 4 for i in range(200)]


def test_a_message_that_does_not_decode_costs_itself(tmp_path: Path) -> None:
    _store, types = stores(True)
    path = write(tmp_path, [("/r", "my_msgs/msg/Reading", reading(types, i, True)) for i in range(5)], True)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 30) WHERE id = 3")
    database.close()
    out = read(path)
    assert len(out.channel("/r/level", "base")[1]) == 4
    assert [(b.reason, json.loads(b.locator)) for b in out.bad] == [("truncated", {"message": 2, "topic": "/r"})]


def test_serialisations_that_are_not_plain_pass_as_their_bytes(tmp_path: Path) -> None:
    _, types = stores(True)
    path = write(tmp_path, [("/r", "my_msgs/msg/Reading", reading(types, i, True)) for i in range(3)], True)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE messages SET data = CAST(x'000A0000' || substr(data, 5) AS BLOB)")
    database.close()
    out = read(path)
    assert [r["modality"] for r in out.records] == ["tensor"] * 3 and out.bad == []
    assert "XCDR2" in out.records[0]["extra"]


def test_a_damaged_or_foreign_database_ends_with_a_reason(tmp_path: Path) -> None:
    _, types = stores(True)
    path = write(tmp_path, [("/r", "my_msgs/msg/Reading", reading(types, i, True)) for i in range(500)], True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = b"\xa5" * 20_000
    broken = tmp_path / "broken.db3"
    broken.write_bytes(data)
    out = read(broken, "rosbag2")
    assert out.error is not None and out.error.reason in ("truncated", "corrupt")
    assert len(out.of("sensor")) > 0
    other = tmp_path / "other.db3"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE secrets (x)")
        database.execute("CREATE VIEW messages AS SELECT 1 AS topic_id, 1 AS timestamp, x AS data FROM secrets")
        database.execute("CREATE TABLE topics (id, name, type, serialization_format)")
    database.close()
    assert read(other, "rosbag2").error.reason == "unsupported:sqlite"  # type: ignore[union-attr]
    assert read(b"SQLite format 3\0" + bytes(200), "rosbag2").error.reason == "corrupt"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "definition", ["x" * 100_000, "float64 a\nNope[] b\n", "wstring w\n", "A a\n" + "=" * 80 + "\nMSG: p/A\nA a\n"]
)
def test_definitions_that_cannot_be_used_leave_the_messages_raw(definition: str) -> None:
    assert logs_ros.decoder("p/T", definition, "ros1msg", cdr=False) is None
