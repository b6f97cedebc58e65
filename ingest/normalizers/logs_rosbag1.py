"""ROS 1 bags (version 2.0), read from front to back.

So a bag that was never closed (`.bag.active`) gives its messages, too.
Damage costs the chunk it is in, or what follows it. Layout, all numbers little endian:

    #ROSBAG V2.0\\n, then records:   [u32][header: fields [u32][name=value] …] [u32][data] op 2 message (conn, time)
    5 chunk (compression, size; data: records)   7 connection (conn, topic; data: type, definition)

Source: wiki.ros.org/Bags/Format/2.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from headrace.ingest.normalizers import logs_ros
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.logs import Recording, Topic
from headrace.ingest.normalizers.logs_expand import expand
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

Events = Iterator[Draft | Bad]

_MESSAGE, _CHUNK, _CONNECTION = 2, 5, 7
_MAGIC = b"#ROSBAG V2.0\n"


class RosBag1:
    """One ROS 1 bag."""

    def __init__(self, stream: BinaryIO, size: int, config: SensorConfig, limits: Limits) -> None:
        self._stream = stream
        self._size = size
        self._limits = limits
        self._recording = Recording(config, limits, "rosbag1")
        self._connections: dict[int, Mapping[str, str]] = {}
        self._damaged = False

    def events(self) -> Events:
        """All records. Raises: RecordError."""
        magic = self._stream.read(len(_MAGIC))
        if magic != _MAGIC:
            raise RecordError("unsupported:rosbag", f"a bag of version {magic[:40]!r}; 2.0 is read")
        at, number = len(_MAGIC), 0
        while at < self._size:
            try:
                header, data, at = self._read(at)
            except RecordError:
                yield from self._recording.finish(("truncated",))
                raise
            op = header.get("op", b"\0")[0]
            if op == _CHUNK:
                try:
                    inner = list(self._chunk(header, data))
                except RecordError as exc:
                    yield Bad(
                        exc.reason,
                        f"chunk {number}: {exc.message}",
                        canonical_json({"chunk": number}).decode(),
                        data[:4096],
                    )
                    self._damaged = True
                    inner = []
                number += 1
                for one, body in inner:
                    yield from self._record(one, body)
            else:
                yield from self._record(header, data)
        yield from self._recording.finish(("truncated",) if self._damaged else ())

    def _read(self, at: int) -> tuple[dict[str, bytes], bytes, int]:
        """(header, data, where the next record begins)."""
        parts: list[bytes] = []
        start = at
        for _ in range(2):
            length = self._stream.read(4)
            at += 4
            count = int.from_bytes(length, "little")
            if len(length) < 4 or count > self._size - at:
                raise RecordError(
                    "truncated", f"the bag ends inside the record at byte {start}; its index was never written"
                )
            if count > self._limits.max_bytes:
                raise RecordError("too_large", f"a record of {count} bytes at {start}")
            parts.append(self._stream.read(count))
            at += count
        return _fields(parts[0]), parts[1], at

    def _chunk(self, header: Mapping[str, bytes], data: bytes) -> Iterator[tuple[dict[str, bytes], bytes]]:
        size = int.from_bytes(header.get("size", b""), "little")
        allowed = max(64 << 20, self._limits.max_ratio * len(data))
        if size > self._limits.max_bytes or size > allowed:
            raise RecordError("bomb", f"it declares {size} bytes from {len(data)}")
        plain = expand(header.get("compression", b"none").decode("latin-1"), data, size)
        at = 0
        while at < len(plain):
            parts = []
            for _ in range(2):
                count = int.from_bytes(plain[at : at + 4], "little")
                if at + 4 + count > len(plain):
                    raise RecordError("corrupt", f"a record of {count} bytes at {at} of {len(plain)}")
                parts.append(plain[at + 4 : at + 4 + count])
                at += 4 + count
            yield _fields(parts[0]), parts[1]

    def _record(self, header: Mapping[str, bytes], data: bytes) -> Events:
        op = header.get("op", b"\0")[0]
        number = int.from_bytes(header.get("conn", b""), "little")
        if op == _CONNECTION:
            inner = _fields(data)
            found = {k: v.decode("utf-8", "replace") for k, v in inner.items()}
            self._connections[number] = {**found, "topic": header.get("topic", b"").decode("utf-8", "replace")}
        elif op == _MESSAGE:
            connection = self._connections.get(number)
            if connection is None:
                yield Bad(
                    "corrupt",
                    f"a message of connection {number}, which is not declared before it",
                    canonical_json({"conn": number}).decode(),
                )
                return
            if len(header.get("time", b"")) != 8:
                yield Bad(
                    "no_time",
                    f"a message of {connection['topic']} without a time",
                    canonical_json({"conn": number}).decode(),
                    data[:4096],
                )
                return
            if self._recording.wants(connection["topic"]):
                seconds, nanos = struct.unpack("<II", header["time"])
                topic = self._recording.topic(connection["topic"], lambda: _topic1(connection))
                yield from self._recording.message(topic, data, seconds * 1_000_000_000 + nanos)


def _fields(data: bytes) -> dict[str, bytes]:
    """The fields of a record's header. Raises: RecordError `corrupt`."""
    out: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        count = int.from_bytes(data[at : at + 4], "little")
        field = data[at + 4 : at + 4 + count]
        name, equals, value = field.partition(b"=")
        if len(field) < count or not equals:
            raise RecordError(
                "corrupt", f"a header field of {count} bytes at {at} of {len(data)} has no form `name=value`"
            )
        out[name.decode("latin-1")] = value
        at += 4 + count
    if out.get("op") == b"":
        raise RecordError("corrupt", "a record without an operation")
    return out


def _topic1(connection: Mapping[str, str]) -> Topic:
    kind = connection.get("type", "")
    decode = logs_ros.decoder(kind, connection.get("message_definition", ""), "ros1msg", cdr=False)
    note = "" if decode else f"the definition of {kind} cannot be read"
    return Topic(connection["topic"], kind, "ros1", decode, note, extra={"schema": kind})
