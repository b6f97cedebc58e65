"""Protobuf messages of a type that the pipeline names, by the FileDescriptorSet that it gives.

Fields bear their names of the .proto file. A field without presence that was not sent has its default, as protobuf
says; one with presence (`optional`, messages) that was not sent is absent. Enumerations give their names, Timestamp an
ISO 8601 time, Duration seconds, wrappers their value. Length-delimited streams: a varint of the length before each
message; a message that does not parse costs itself.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, BinaryIO

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.avro import confluent
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.logs_protobuf import is_repeated, message_class
from headrace.ingest.normalizers.payload_config import PayloadConfig
from headrace.ingest.normalizers.payload_rows import MAX_DEPTH, Decoded, Rows
from headrace.ingest.normalizers.sensor_rows import MAX_RAW, BadRow
from headrace.schemas.errors import ConfigError, RecordError

_EPOCH = dt.datetime(1970, 1, 1)
_WRAPPERS = frozenset(
    {"DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value", "BoolValue", "StringValue",
     "BytesValue"}
)  # fmt: skip
_TYPES = "google.protobuf."


class ProtobufReader:
    """Reads Protobuf items for one normalizer. Raises: ConfigError where the descriptors have no such message."""

    def __init__(self, config: PayloadConfig, limits: Limits) -> None:
        assert config.descriptors is not None
        assert config.message is not None
        self._framing = config.framing
        self._name = config.message
        self._most = limits.max_bytes // 16
        self._class = message_class(config.message, config.descriptors)
        if self._class is None:
            raise ConfigError(
                "`descriptors` is no FileDescriptorSet that defines this message with all it imports: make it with "
                "protoc --include_imports --descriptor_set_out=FILE",
                field="payload.message",
                value=config.message,
            )

    def rows(self, blob: Blob) -> Rows:
        """The messages of an item. Raises: RecordError."""
        if self._framing == "delimited":
            with blob.open() as stream:
                yield from self._delimited(stream, blob.size)
            return
        if blob.size > self._most:
            raise RecordError("too_large", f"one message of {blob.size} bytes; the limits allow {self._most}")
        data = body = blob.read()
        if self._framing == "confluent":
            _, body = confluent(data)
            body = _behind_indexes(body)
        yield Decoded(0, {"item": 0}, self._value(body), data)

    def _delimited(self, stream: BinaryIO, size: int) -> Rows:
        at = ordinal = 0
        while at < size:
            start = at
            length, at = _varint(stream, at)
            if length > size - at:
                raise RecordError(
                    "truncated", f"message {ordinal} at byte {start} has {length} bytes, {size - at} are left"
                )
            place = {"item": ordinal, "byte": start}
            if length > self._most:
                message = f"a message of {length} bytes; the limits allow {self._most}"
                yield BadRow(ordinal, "too_large", message, place)
                stream.seek(at + length)
            else:
                data = stream.read(length)
                try:
                    yield Decoded(ordinal, {"item": ordinal}, self._value(data), data[:MAX_RAW])
                except RecordError as exc:
                    yield BadRow(ordinal, exc.reason, exc.message, place, data[:MAX_RAW])
            at += length
            ordinal += 1
        if ordinal == 0:
            raise RecordError("empty", "there is no message in it")

    def _value(self, data: bytes) -> dict[str, Any]:
        from google.protobuf import message  # type: ignore[import-untyped]

        assert self._class is not None
        try:
            return _fields(self._class.FromString(data), 0)
        except (message.DecodeError, ValueError, OverflowError) as exc:
            raise RecordError("corrupt", f"not a {self._name} message: {exc}") from exc


def _behind_indexes(data: bytes) -> bytes:
    """What follows the list that says which message of the schema it is: zigzag varints, a count and so many numbers.

    Source: docs.confluent.io, wire format of schema registry, Protobuf.
    """
    at = left = 0
    begun = False
    while not begun or left:
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise RecordError("corrupt", "the list of message indexes behind the schema id has no end")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        number = value >> 1 ^ -(value & 1)
        if begun:
            left -= 1
        elif not 0 <= number <= 64:
            raise RecordError("corrupt", f"a list of {number} message indexes behind the schema id")
        else:
            begun, left = True, number
    return data[at:]


def _varint(stream: BinaryIO, at: int) -> tuple[int, int]:
    """(number, where it ends)."""
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            raise RecordError("truncated", f"it ends inside the length before byte {at}")
        at += 1
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise RecordError("corrupt", f"the length before byte {at} has more than ten bytes")


def _fields(value: Any, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise RecordError("unsupported:nesting", f"a message nested more than {MAX_DEPTH} levels deep")
    out: dict[str, Any] = {}
    for field in value.DESCRIPTOR.fields:
        if is_repeated(field):
            items = getattr(value, field.name)
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                inner = field.message_type.fields_by_name["value"]
                out[field.name] = {str(k): _one(inner, items[k], depth) for k in sorted(items)}
            elif len(items):
                out[field.name] = [_one(field, item, depth) for item in items]
        elif not field.has_presence or value.HasField(field.name):
            out[field.name] = _one(field, getattr(value, field.name), depth)
    return out


def _one(field: Any, value: Any, depth: int) -> Any:
    if field.message_type is None:
        if field.enum_type is None:
            return value
        known = field.enum_type.values_by_number.get(value)
        return str(value) if known is None else known.name
    name = field.message_type.full_name
    if name.startswith(_TYPES):
        short = name.removeprefix(_TYPES)
        if short == "Timestamp":
            return _moment(value.seconds, value.nanos)
        if short == "Duration":
            return value.seconds + value.nanos / 1e9
        if short in _WRAPPERS:
            return value.value
    return _fields(value, depth + 1)


def _moment(seconds: int, nanos: int) -> str:
    """ISO 8601 with the nanoseconds. Raises: RecordError."""
    try:
        whole = _EPOCH + dt.timedelta(seconds=seconds)
    except OverflowError as exc:
        raise RecordError("no_time", f"a Timestamp of {seconds} seconds is no calendar time") from exc
    if not 0 <= nanos < 1_000_000_000:
        raise RecordError("no_time", f"a Timestamp with {nanos} nanoseconds")
    return f"{whole.isoformat()}.{nanos:09d}Z"
