"""Payloads that declare themselves or are declared in the pipeline (Avro, Protobuf, line protocol), for any record.

What `payload` says goes before what the bytes look like; without it, Avro container files and line protocol files are
read by their format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.connectors.contract import Blob, BytesBlob, Item
from headrace.ingest.normalizers.avro import MAGIC, AvroReader
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.line_protocol_rows import LineReader
from headrace.ingest.normalizers.payload_config import PayloadConfig
from headrace.ingest.normalizers.payload_rows import Decoded, Rows, plain
from headrace.ingest.normalizers.protobuf import ProtobufReader

OWN = frozenset({"avro", "protobuf", "line_protocol"})  #: formats that are read here; others by the record itself
_SINGLE = frozenset({"avro", "protobuf"})
_SMALL = 1 << 20  #: bytes of a message that is tried as one object


class Payloads:
    """The decoders of one normalizer; each is made when it is first needed."""

    def __init__(self, config: PayloadConfig | None, limits: Limits) -> None:
        self._config = config
        self._limits = limits
        self._avro: AvroReader | None = None
        self._protobuf: ProtobufReader | None = None

    def name(self, format: str) -> str:
        """The format that an item is read as: what is declared, else its own."""
        return format if self._config is None else self._config.format

    def single(self, name: str, data: bytes) -> Mapping[str, Any] | None:
        """The object that a small message is; None where it is, or may be, something else. Raises as `rows` does."""
        if name not in _SINGLE or data[: len(MAGIC)] == MAGIC:
            return None
        if self._config is None or self._config.framing == "delimited" or len(data) > _SMALL:
            return None
        (row,) = self.rows(name, Item(data, None), BytesBlob("", data), points=True)
        value = plain(row.value, numbers=True) if isinstance(row, Decoded) else None
        return value if isinstance(value, dict) else None

    def time_source(self, kind: str) -> str | None:
        """What the rows' own times are called, where the format has them."""
        return "line_protocol" if kind == "line_protocol" else None

    def rows(self, kind: str, item: Item, blob: Blob, *, points: bool) -> Rows:
        """The values of an item. points: lines as readings, with series and time, else as they are written.

        Raises: RecordError.
        """
        if kind == "avro":
            self._avro = self._avro or AvroReader(self._config, self._limits)
            return self._avro.rows(blob)
        if kind == "protobuf":
            assert self._config is not None
            self._protobuf = self._protobuf or ProtobufReader(self._config, self._limits)
            return self._protobuf.rows(blob)
        precision = "ns" if self._config is None else self._config.precision
        return LineReader(precision, self._limits).rows(blob, points=points, arrived_us=item.event_time)
