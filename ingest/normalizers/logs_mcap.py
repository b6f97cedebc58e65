"""MCAP recordings, read from front to back, so that a file without a summary, or one cut off, still gives its messages.

(The seeking reader of the mcap package needs channels repeated in the summary; many writers leave them out.) Chunks
are decompressed here, to at most what they declare and the limits allow, and their checksums verified. A chunk that
is damaged costs its own messages. Attachments become tensors of their bytes, metadata records lines of text. Source:
mcap.dev/spec.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from headrace.ingest.normalizers import logs_protobuf, logs_ros, strict_json
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.logs import Decoder, Recording, Topic
from headrace.ingest.normalizers.logs_expand import expand
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import MissingExtra, RecordError

Events = Iterator[Draft | Bad]

_CUT = ("EndOfFile", "EOFError", "RecordLengthLimitExceeded")  #: how the package says that bytes are missing


class McapLog:
    """One MCAP recording."""

    def __init__(self, stream: BinaryIO, size: int, config: SensorConfig, limits: Limits) -> None:
        self._stream = stream
        self._size = size
        self._config = config
        self._limits = limits
        self._recording = Recording(config, limits, "mcap")
        self._schemas: dict[int, Any] = {}
        self._channels: dict[int, Any] = {}
        self._expanded = 0
        self._damaged = False

    def events(self) -> Events:
        """All records. Raises: RecordError where the file cannot be read on."""
        try:
            from mcap.exceptions import McapError
            from mcap.records import Chunk
            from mcap.stream_reader import CRCValidationError, StreamReader
        except ImportError as exc:
            raise MissingExtra("mcap", "sensor", need="reading MCAP recordings") from exc
        reader = StreamReader(
            self._stream,
            emit_chunks=True,
            validate_crcs=False,
            record_size_limit=min(self._size, self._limits.max_bytes),
        )  # type: ignore[arg-type]
        records = iter(reader.records)
        number = 0
        while True:
            try:
                record = next(records)
            except StopIteration:
                break
            except (McapError, CRCValidationError, ValueError, OSError, MemoryError, EOFError, struct.error) as exc:
                yield from self._recording.finish(("truncated",))
                at = self._stream.tell()
                raise RecordError(
                    _reason(exc), f"the MCAP recording cannot be read on at byte {at} of {self._size}: {exc}"
                ) from exc
            if isinstance(record, Chunk):
                try:
                    inner = self._chunk(record)
                except RecordError as exc:
                    locator = canonical_json(
                        {"chunk": number, "from_ns": record.message_start_time, "to_ns": record.message_end_time}
                    )
                    yield Bad(exc.reason, f"chunk {number}: {exc.message}", locator.decode())
                    self._damaged = True
                    inner = []
                number += 1
                for one in inner:
                    yield from self._record(one)
            else:
                yield from self._record(record)
        yield from self._recording.finish(("truncated",) if self._damaged else ())

    def _chunk(self, chunk: Any) -> list[Any]:
        """The records of a chunk. Raises: RecordError."""
        from mcap.exceptions import McapError
        from mcap.stream_reader import CRCValidationError, breakup_chunk

        size = int(chunk.uncompressed_size)
        allowed = max(64 << 20, self._limits.max_ratio * len(chunk.data))
        if size > self._limits.max_bytes or size > allowed:
            raise RecordError(
                "bomb",
                f"it declares {size} bytes from {len(chunk.data)}, more than the limits allow",
            )
        chunk.data = expand(chunk.compression, chunk.data, size)
        chunk.compression = ""
        try:
            return list(breakup_chunk(chunk, validate_crc=True))
        except CRCValidationError as exc:
            raise RecordError("checksum", str(exc)) from exc
        except (McapError, ValueError, EOFError, struct.error) as exc:
            raise RecordError("corrupt", f"its records do not fit: {exc}") from exc

    def _record(self, record: Any) -> Events:
        kind = type(record).__name__
        if kind == "Schema":
            self._schemas[record.id] = record
        elif kind == "Channel":
            self._channels[record.id] = record
        elif kind == "Message":
            yield from self._message(record)
        elif kind == "Attachment":
            yield self._attachment(record)
        elif kind == "Metadata":
            text = canonical_json({"name": record.name, "metadata": dict(record.metadata)}).decode()
            yield Draft("text", {"locator": canonical_json({"metadata": record.name}).decode(), "text": text + "\n"}, 0)

    def _message(self, record: Any) -> Events:
        channel = self._channels.get(record.channel_id)
        if channel is None:
            locator = canonical_json(
                {"channel_id": record.channel_id, "sequence": record.sequence, "log_time": record.log_time}
            ).decode()
            yield Bad(
                "corrupt",
                f"a message of channel {record.channel_id}, which is not declared before it",
                locator,
                record.data[:4096],
            )
            return
        if not self._recording.wants(channel.topic):
            return
        topic = self._recording.topic(channel.id, lambda: self._topic(channel))
        yield from self._recording.message(topic, record.data, record.log_time, record.publish_time)

    def _topic(self, channel: Any) -> Topic:
        schema = self._schemas.get(channel.schema_id)
        name = schema.name if schema is not None else ""
        form = schema.encoding if schema is not None else ""
        raw = schema.data if schema is not None else b""
        encoding = channel.message_encoding
        decode: Decoder | None = None
        if encoding == "json":
            decode = _json
        elif encoding in ("cdr", "ros1") and form in ("ros1msg", "ros2msg", "ros2idl"):
            decode = logs_ros.decoder(name, raw.decode("utf-8", "replace"), form, cdr=encoding == "cdr")
        elif encoding == "protobuf" and form == "protobuf":
            decode = logs_protobuf.decoder(name, raw)
        note = (
            "" if decode else f"no decoder for {encoding or 'an unnamed encoding'} with a schema in {form or 'no form'}"
        )
        return Topic(channel.topic, name, encoding, decode, note, extra={"schema": name} if name else {})

    def _attachment(self, record: Any) -> Draft:
        columns = {
            "locator": canonical_json({"attachment": record.name, "log_time": record.log_time}).decode(),
            "event_time": record.log_time // 1000, "time_source": "mcap:log_time",
            "data": np.frombuffer(record.data, np.uint8), "dims": ["byte"], "schema_name": record.media_type or None,
            "extra": canonical_json({"attachment": record.name, "media_type": record.media_type}).decode(),
        }  # fmt: skip
        return Draft("tensor", columns, 0)


def _json(data: bytes) -> dict[str, Any]:
    value = strict_json.loads(data)
    return value if isinstance(value, dict) else {"value": value}


def _reason(exc: BaseException) -> str:
    if isinstance(exc, MemoryError):
        return "too_large"
    return "truncated" if isinstance(exc, struct.error) or type(exc).__name__ in _CUT else "corrupt"
