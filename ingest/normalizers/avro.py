"""Avro: object container files, and single values whose schema the pipeline gives.

A value is decoded by fastavro. What its schema could do with few bytes is looked at before: arrays whose items take no
bytes (a count alone would fill the memory), and schemas that contain themselves, which are decoded in Python, where
depth ends in an error and not in the process. A value must use up its bytes: what is left over says that the schema is
another one. Source: Apache Avro specification 1.12.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers import strict_json
from headrace.ingest.normalizers.avro_container import Container
from headrace.ingest.normalizers.avro_schemas import Registry, RegistrySettings
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.payload_config import MAX_FILE, PayloadConfig
from headrace.ingest.normalizers.payload_rows import Decoded, Rows
from headrace.ingest.normalizers.sensor_rows import MAX_RAW, BadRow
from headrace.schemas.errors import ConfigError, MissingExtra, RecordError

MAGIC = b"Obj\x01"
_SINGLE = b"\xc3\x01"
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
#: What fastavro raises for bytes that do not fit the schema.
_MISFITS = (EOFError, IndexError, KeyError, ValueError, OverflowError, TypeError, ArithmeticError, StopIteration)


class Schema:
    """A writer's schema, ready to decode values. Raises: RecordError where it cannot be used."""

    def __init__(self, source: bytes) -> None:
        fastavro = _library()
        if len(source) > MAX_FILE:
            raise RecordError("too_large", f"an Avro schema of {len(source)} bytes; at most {MAX_FILE} are read")
        try:
            raw = strict_json.loads(source)
        except RecordError as exc:
            raise RecordError("corrupt", f"the Avro schema is no JSON: {exc.message}") from exc
        try:
            self.parsed = fastavro.parse_schema(raw)
            self._named: dict[str, Any] = {}
            self.recursive = False
            self.least = self._least(self.parsed, ())
        except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType, *_MISFITS) as exc:
            raise RecordError("corrupt", f"not an Avro schema: {type(exc).__name__}: {exc!s:.200}") from exc
        except RecursionError as exc:
            raise RecordError("unsupported:nesting", "the Avro schema is nested too deep") from exc
        if self.recursive:
            from fastavro import _read_py

            self._read: Callable[..., Any] = _read_py.schemaless_reader
        else:
            self._read = fastavro.schemaless_reader

    def fingerprint(self) -> bytes:
        """CRC-64-AVRO of the canonical form, as single-object encoding writes it: little endian."""
        fastavro = _library()
        form = fastavro.schema.to_parsing_canonical_form(self.parsed)
        return bytes.fromhex(fastavro.schema.fingerprint(form, "CRC-64-AVRO"))

    def decode(self, stream: io.BytesIO) -> Any:
        """The value that begins where the stream stands. Raises: RecordError."""
        try:
            return self._read(stream, self.parsed, None)
        except EOFError as exc:
            raise RecordError("truncated", f"the value ends before its schema says: {exc}") from exc
        except RecursionError as exc:
            raise RecordError("unsupported:nesting", "the value is nested too deep") from exc
        except UnicodeDecodeError as exc:
            raise RecordError("bad_encoding", f"a string of it is not UTF-8: {exc.reason}") from exc
        except _MISFITS as exc:
            raise RecordError("corrupt", f"it does not fit its schema: {type(exc).__name__}: {exc!s:.200}") from exc

    def value(self, data: bytes) -> Any:
        """The one value that these bytes are. Raises: RecordError."""
        stream = io.BytesIO(data)
        value = self.decode(stream)
        if stream.tell() != len(data):
            left = len(data) - stream.tell()
            raise RecordError("inconsistent", f"{left} of {len(data)} bytes are left over: written with another schema")
        return value

    def _least(self, schema: Any, inside: tuple[str, ...]) -> int:
        """The fewest bytes that a value takes; 1 stands for any number above 0. Raises: RecordError."""
        if isinstance(schema, list):
            for branch in schema:
                self._least(branch, inside)
            return 1
        kind = schema["type"] if isinstance(schema, Mapping) else schema
        if isinstance(kind, (Mapping, list)):
            return self._least(kind, inside)
        if kind in _PRIMITIVES:
            return 0 if kind == "null" else 1
        if kind in ("array", "map"):
            items = self._least(schema["items" if kind == "array" else "values"], inside)
            if kind == "array" and items == 0:
                raise RecordError("unsupported:schema", "an array of values that take no bytes has no bound")
            return 1
        if kind in ("record", "error"):
            name = str(schema["name"])
            self._named[name] = schema
            fields = [self._least(field["type"], (*inside, name)) for field in schema["fields"]]
            return max(fields, default=0)
        if kind == "fixed":
            self._named[str(schema["name"])] = schema
            return min(1, int(schema["size"]))
        if kind == "enum":
            self._named[str(schema["name"])] = schema
            return 1
        if kind in inside:
            self.recursive = True
            return 1
        if kind in self._named:
            return self._least(self._named[kind], inside) if len(inside) < 64 else 1
        raise RecordError("corrupt", f"the Avro schema uses {kind!s:.60}, which it does not define")


class AvroReader:
    """Reads Avro items for one normalizer; schemas are parsed once."""

    def __init__(self, config: PayloadConfig | None, limits: Limits) -> None:
        self._config = config
        self._limits = limits
        self._declared: Schema | None = None
        self._print = b""
        self._registry: Registry[Schema] | None = None
        if config is None:
            return
        try:
            if config.schema_file is not None:
                self._declared = Schema(config.schema_file)
                self._print = self._declared.fingerprint()
            settings = RegistrySettings(config.registry, config.registry_user, config.registry_password)
            self._registry = Registry(config.schema_files, settings, Schema)
        except RecordError as exc:
            raise ConfigError(exc.message, field="payload.schema_file") from exc

    def rows(self, blob: Blob) -> Rows:
        """The values of a container file or of one message. Raises: RecordError."""
        with blob.open() as stream:
            head = stream.read(len(MAGIC))
        if head == MAGIC:
            yield from self._container(blob)
            return
        largest = self._limits.max_bytes // 16
        if blob.size > largest:
            raise RecordError("too_large", f"one Avro value of {blob.size} bytes; the limits allow {largest}")
        data = blob.read()
        if not data:
            raise RecordError("empty", "the message has no bytes")
        schema, body = self._framed(data)
        yield Decoded(0, {"item": 0}, schema.value(body), data)

    def _framed(self, data: bytes) -> tuple[Schema, bytes]:
        config = self._config
        if config is None:
            raise RecordError("unknown_format", "no Avro container; for single values `payload` must name the schema")
        if config.framing == "confluent":
            assert self._registry is not None
            id, body = confluent(data)
            return self._registry.schema(id), body
        if self._declared is None:
            raise RecordError("unknown_format", "no Avro container, and `payload` names no `schema_file`")
        if config.framing == "none":
            return self._declared, data
        if not data.startswith(_SINGLE) or len(data) < 10:
            raise RecordError(
                "corrupt", f"single-object encoding begins with C3 01 and 8 bytes, this with {data[:2]!r}"
            )
        if data[2:10] != self._print:
            raise RecordError(
                "schema_mismatch",
                f"written with the schema of fingerprint {data[2:10].hex()}; `schema_file` has {self._print.hex()}",
            )
        return self._declared, data[10:]

    def _container(self, blob: Blob) -> Rows:
        with blob.open() as stream:
            container = Container(stream, blob.size, self._limits)
            schema = Schema(container.schema)
            ordinal = 0
            for block in container.blocks():
                if isinstance(block, BadRow):
                    yield BadRow(ordinal, block.reason, block.message, {"item": ordinal, **block.locator}, block.data)
                    ordinal += 1
                    continue
                ends = ordinal + block.count
                if schema.least == 0 and block.count > len(block.data):
                    raise RecordError("unsupported:schema", "values that take no bytes have no bound")
                body = io.BytesIO(block.data)
                while ordinal < ends:
                    start = body.tell()
                    try:
                        value = schema.decode(body)
                    except RecordError as exc:
                        if block.cut:
                            raise RecordError("truncated", f"the file ends inside block {block.number}") from exc
                        raw = block.data[start : start + MAX_RAW]
                        message = (
                            f"{exc.message}; so are the {ends - ordinal} values from there to the end of its block"
                        )
                        place = {"item": ordinal, "block": block.number}
                        yield BadRow(ordinal, exc.reason, message, place, raw)
                        break
                    yield Decoded(
                        ordinal, {"item": ordinal}, value, block.data[start : min(body.tell(), start + MAX_RAW)]
                    )
                    ordinal += 1
                else:
                    if body.tell() < len(block.data):
                        left = len(block.data) - body.tell()
                        message = f"block {block.number} has {left} bytes behind its {block.count} values"
                        yield BadRow(ends, "corrupt", message, {"item": ends, "block": block.number})
                ordinal = ends
            if ordinal == 0:
                raise RecordError("empty", "the Avro file has no values")


def confluent(data: bytes) -> tuple[int, bytes]:
    """(schema id, what follows) of the wire format of Confluent: 0, four bytes of id. Raises: RecordError."""
    if len(data) < 5 or data[0] != 0:
        raise RecordError("corrupt", f"a 0 and four bytes of schema id are expected, this begins with {data[:5].hex()}")
    return int.from_bytes(data[1:5], "big"), data[5:]


def _library() -> Any:
    try:
        import fastavro
        import fastavro.schema
    except ImportError as exc:
        raise MissingExtra("fastavro", "avro", need="reading Avro") from exc
    return fastavro
