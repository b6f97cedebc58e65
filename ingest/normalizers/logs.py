"""Recordings of many topics: routes every message to its modality.

    pictures                       → image       sensor_msgs/Image, CompressedImage, foxglove.RawImage, CompressedImage
    point clouds                   → tensor      (points, fields)
    sound                          → audio       foxglove.RawAudio
    numbers of a message           → sensor      channels `topic/field`
    arrays longer than 64 numbers  → tensor      one a message, named by its field
    strings                        → text        JSON lines with their time, where they change
    what no decoder reads          → tensor      raw bytes, with schema and encoding

Time is the stamp of a message's header where the topic's first message has one, else when it was logged; `time_source`
says which. A topic with header stamps whose later message has none takes the log's time there, flagged `clock_mixed`.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.ingest.normalizers import logs_pictures, logs_points
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.logs_sound import Sound
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_objects import MAX_ITEMS
from headrace.ingest.normalizers.sensor_records import Row, RowTable
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

Decoder = Callable[[bytes], Mapping[str, Any]]

MAX_RAW = 1 << 16  #: bytes kept of a message that does not decode
_KEPT_RAW = 2048  #: … and of one that waits in a block of rows
_BLOCK = 256
_NANOS = ("nanosec", "nsec", "nsecs", "nanos")
_SECONDS = ("sec", "secs", "seconds")


@dataclass
class Topic:
    """One topic: `schema` names its type, `decode` reads its messages, None where nothing does."""

    name: str
    schema: str
    encoding: str
    decode: Decoder | None
    note: str = ""  #: why there is no decoder
    count: int = 0
    stamped: bool | None = None
    table: RowTable | None = None
    sound: Sound | None = None
    mixed: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


class Recording:
    """The open windows of a recording. container: goes to time_source, `mcap`, `rosbag1` …"""

    def __init__(self, config: SensorConfig, limits: Limits, container: str) -> None:
        self._config = config
        self._limits = limits
        self._container = container
        self._topics: dict[Any, Topic] = {}
        self.messages = 0

    def topic(self, key: Any, make: Callable[[], Topic]) -> Topic:
        """The topic with this key, made at its first message."""
        if key not in self._topics:
            self._topics[key] = make()
        return self._topics[key]

    def wants(self, name: str) -> bool:
        """Whether the settings keep a topic."""
        patterns = self._config.topics
        return patterns is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    def message(
        self, topic: Topic, data: bytes, log_time: int, publish_time: int | None = None
    ) -> Iterator[Draft | Bad]:
        """The records that a message completes. Times in ns since 1970."""
        number, topic.count = topic.count, topic.count + 1
        self.messages += 1
        use_publish = self._config.clock == "publish" and publish_time is not None
        t = publish_time if use_publish and publish_time is not None else log_time
        source = f"{self._container}:{'publish_time' if use_publish else 'log_time'}"
        if topic.decode is None:
            yield self._raw(topic, number, data, t, source)
            return
        try:
            value = dict(topic.decode(data))
        except RecordError as exc:
            if exc.reason.startswith("unsupported"):
                topic.note = exc.message
                yield self._raw(topic, number, data, t, source)
                return
            yield Bad(
                exc.reason,
                f"{topic.name}, message {number}: {exc.message}",
                self._locator(topic, number),
                data[:MAX_RAW],
            )
            return
        stamp = _stamp(value)
        if topic.stamped is None:
            topic.stamped = stamp is not None and self._config.clock in ("auto", "header")
        if topic.stamped:
            source = "header.stamp"
            t = stamp if stamp is not None else t
            topic.mixed |= stamp is None
        try:
            yield from self._routed(topic, number, value, data, t, source)
        except RecordError as exc:
            yield Bad(
                exc.reason,
                f"{topic.name}, message {number}: {exc.message}",
                self._locator(topic, number),
                data[:MAX_RAW],
            )

    def finish(self, flags: tuple[str, ...] = ()) -> Iterator[Draft | Bad]:
        """What is left of every topic, in the order in which they came up."""
        for topic in self._topics.values():
            if topic.sound is not None:
                yield from topic.sound.finish()
            if topic.table is not None:
                if topic.mixed:
                    topic.table.flags.add("clock_mixed")
                yield from topic.table.finish(flags)

    def _routed(
        self, topic: Topic, number: int, value: dict[str, Any], data: bytes, t: int, source: str
    ) -> Iterator[Draft | Bad]:
        kind = topic.schema.replace("/msg/", "/").replace(".", "/").rsplit("/", 1)[-1]
        blob = _bytes(value.get("data"))
        times = {"event_time": t // 1000, "time_source": source}
        place = {"locator": self._locator(topic, number), **times}
        if blob is not None and kind in ("Image", "RawImage") and "encoding" in value:
            picture = logs_pictures.raw_picture(value, blob)
            if picture is not None:
                said = self._extra(topic, {k: v for k, v in value.items() if k not in ("data", "header")})
                yield Draft("image", {**place, "pixels": picture[0], "mode": picture[1], "extra": said}, number)
                return
        if blob is not None and kind == "CompressedImage":
            records = logs_pictures.coded_pictures(blob, self._limits)
            if records is not None:
                yield from self._pictures(topic, number, records, times)
                return
        if blob is not None and kind in ("PointCloud2", "PointCloud") and "fields" in value:
            array, dims, extra = logs_points.points(value, blob)
            columns = {"data": array, "dims": dims, "schema_name": topic.schema, "extra": self._extra(topic, extra)}
            yield Draft("tensor", {**place, **columns}, number)
            return
        if blob is not None and kind == "RawAudio":
            topic.sound = topic.sound or Sound(topic.name, source)
            yield from topic.sound.add(number, value, blob, t)
            return
        yield from self._fields(topic, number, value, data, t, source)

    def _pictures(
        self, topic: Topic, number: int, records: Iterator[dict[str, Any] | Bad], times: Mapping[str, Any]
    ) -> Iterator[Draft | Bad]:
        for index, record in enumerate(records):
            locator = canonical_json(
                {"topic": topic.name, "message": number, **({"frame": index} if index else {})}
            ).decode()
            if isinstance(record, Bad):
                yield Bad(record.reason, f"{topic.name}, message {number}: {record.message}", locator, record.data)
            else:
                inner = record.pop("extra", None)
                yield Draft(
                    "image",
                    {
                        **record,
                        **times,
                        "locator": locator,
                        "extra": self._extra(topic, {"image": inner} if inner else {}),
                    },
                    number,
                )

    def _fields(
        self, topic: Topic, number: int, value: dict[str, Any], data: bytes, t: int, source: str
    ) -> Iterator[Draft | Bad]:
        """Numbers, strings and long arrays of a message of no special kind."""
        header = value.get("header")
        frame = header.get("frame_id") if isinstance(header, Mapping) else value.get("frame_id")
        arrays: list[tuple[str, np.ndarray[Any, Any]]] = []
        rest = _without_arrays(value, "", arrays)
        for name in ("stamp", "timestamp"):
            if isinstance(rest.get("header"), dict):
                rest["header"].pop(name, None)
            elif topic.stamped:
                rest.pop(name, None)
        for name, array in arrays:
            locator = canonical_json({"topic": topic.name, "message": number, "field": name}).decode()
            columns: dict[str, Any] = {
                "locator": locator,
                "event_time": t // 1000,
                "time_source": source,
                "data": array,
                "dims": [name],
            }
            yield Draft("tensor", {**columns, "schema_name": topic.schema, "extra": self._extra(topic, {})}, number)
        if topic.table is None:
            topic.table = RowTable(
                self._config,
                place={"topic": topic.name},
                prefix=f"{topic.name}/",
                row_key="message",
                time_source=source,
                changes_only=True,
                device=frame if isinstance(frame, str) and frame else None,
                order=len(self._topics) << 20,
                block_rows=_BLOCK,
            )
        if frame == topic.table.device:
            (rest.get("header") if isinstance(rest.get("header"), dict) else rest).pop("frame_id", None)  # type: ignore[union-attr]
        if topic.mixed:
            topic.table.flags.add("clock_mixed")
        if rest:
            yield from topic.table.add(
                Row(number, rest, {"topic": topic.name, "message": number}, data[:_KEPT_RAW], t, number)
            )

    def _raw(self, topic: Topic, number: int, data: bytes, t: int, source: str) -> Draft:
        columns = {
            "locator": self._locator(topic, number),
            "event_time": t // 1000,
            "time_source": source,
            "data": np.frombuffer(data, np.uint8),
            "dims": ["byte"],
            "schema_name": topic.schema or None,
            "extra": self._extra(
                topic, {"encoding": topic.encoding, **({"undecoded": topic.note} if topic.note else {})}
            ),
        }
        return Draft("tensor", columns, number)

    def _locator(self, topic: Topic, number: int) -> str:
        return canonical_json({"topic": topic.name, "message": number}).decode()

    def _extra(self, topic: Topic, more: Mapping[str, Any]) -> str:
        plain = {k: v for k, v in more.items() if isinstance(v, (str, int, float, bool, list, dict)) and v == v}
        return canonical_json({"topic": topic.name, **topic.extra, **plain}).decode()


def _stamp(value: Mapping[str, Any]) -> int | None:
    """The time that a message itself tells, in ns; None if it has none or it is zero."""
    header = value.get("header")
    for holder in (header, value):
        if not isinstance(holder, Mapping):
            continue
        for name in ("stamp", "timestamp"):
            stamp = holder.get(name)
            if isinstance(stamp, Mapping):
                seconds = next((stamp[k] for k in _SECONDS if isinstance(stamp.get(k), int)), None)
                nanos = next((stamp[k] for k in _NANOS if isinstance(stamp.get(k), int)), 0)
                if seconds is not None and 0 <= seconds < 9_223_372_036 and (seconds or nanos):
                    return int(seconds) * 1_000_000_000 + int(nanos)
    return None


def _bytes(value: Any) -> bytes | None:
    """A blob of bytes: of ROS an array of uint8, of protobuf bytes, of JSON base64."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, np.ndarray) and value.dtype.itemsize == 1:
        return value.tobytes()
    if isinstance(value, str) and len(value) > MAX_ITEMS:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
    return None


def _without_arrays(value: Any, name: str, arrays: list[tuple[str, np.ndarray[Any, Any]]]) -> Any:
    """A message without its long arrays of numbers, which are appended to `arrays` by name."""
    if isinstance(value, Mapping):
        out = {}
        for key, inner in value.items():
            kept = _without_arrays(inner, f"{name}.{key}" if name else str(key), arrays)
            if kept is not None or inner is None:
                out[key] = kept
        return out
    if isinstance(value, (bytes, bytearray)):
        value = np.frombuffer(bytes(value), np.uint8)
    if isinstance(value, np.ndarray):
        if len(value) > MAX_ITEMS:
            arrays.append((name, value))
            return None
        return value.tolist()
    if isinstance(value, list):
        if len(value) > MAX_ITEMS and all(isinstance(v, (int, float)) for v in value):
            arrays.append((name, np.array(value, np.float64)))
            return None
        return [_without_arrays(v, f"{name}[{i}]", arrays) for i, v in enumerate(value)]
    return value
