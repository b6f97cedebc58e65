"""What a message holds where its own bytes do not say: the settings `payload` of the records `sensor` and `text`.

    payload: {format: avro, schema_file: ./reading.avsc}
    payload: {format: avro, framing: confluent, schema_files: ./schemas}      id 7 is written with ./schemas/7.avsc
    payload: {format: avro, framing: confluent, registry: "http://registry:8081"}
    payload: {format: protobuf, descriptors: ./harbour.desc, message: harbour.Reading, framing: delimited}
    payload: {format: line_protocol, precision: s}
    payload: {format: csv}                                                    of words, which look like prose otherwise

Paths are relative to the pipeline file. A file's content, not its path, enters the stream digest. Schemas by id do not:
an id never changes its meaning, and new ones may come while the stream runs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from headrace.ingest.normalizers.contract import NormalizerConfig

MAX_FILE = 4 << 20  #: bytes of a schema or a descriptor set
_FRAMINGS = {"avro": ("none", "confluent", "single_object"), "protobuf": ("none", "confluent", "delimited")}


def _read(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    path = Path((info.context or {}).get("base") or "") / value
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"{value} is larger than {MAX_FILE} bytes")
        return path.read_bytes()
    except OSError as exc:
        raise ValueError(f"{value} cannot be read: {exc.strerror}") from exc


def _read_by_id(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        folder = Path((info.context or {}).get("base") or "") / value
        if not folder.is_dir():
            raise ValueError(f"{value} is no folder; a folder of files ID.avsc is expected, or a mapping of id to file")
        value = {path.stem: f"{value.rstrip('/')}/{path.name}" for path in sorted(folder.glob("*.avsc"))}
    if not isinstance(value, dict):
        return value
    for key in value:
        if not str(key).isdigit():
            raise ValueError(f"{key} is no schema id; files are called ID.avsc, for example 7.avsc")
    return {int(key): _read(inner, info) for key, inner in value.items()}


#: A path in a pipeline file, read when it is validated; what enters the digest is the sha256 of its bytes.
HeldFile = Annotated[
    bytes, BeforeValidator(_read), PlainSerializer(lambda data: hashlib.sha256(data).hexdigest(), return_type=str)
]
HeldFiles = Annotated[dict[int, bytes], BeforeValidator(_read_by_id)]


class PayloadConfig(NormalizerConfig):
    """`payload: {format: …}`."""

    format: Literal["avro", "protobuf", "line_protocol", "json", "jsonl", "csv", "tsv"] = Field(
        description="what each message or file holds, whatever it looks like"
    )
    framing: Literal["none", "confluent", "single_object", "delimited"] = Field(
        "none",
        description="what stands around a value: confluent (0 and a schema id), single_object (avro: C3 01 and a "
        "fingerprint), delimited (protobuf: each message behind its length)",
    )
    schema_file: HeldFile | None = Field(None, description="avro: file with the writer's schema (.avsc)")
    schema_files: HeldFiles = Field(
        {},
        exclude=True,
        description="avro: writers' schemas by id: a folder of files ID.avsc, or a mapping of id to file",
    )
    registry: str | None = Field(
        None,
        exclude=True,
        description="avro: URL of a Confluent-compatible schema registry, asked for ids not given here",
    )
    registry_user: str | None = Field(None, exclude=True, description="user of the registry, where it wants one")
    registry_password: SecretStr | None = Field(None, exclude=True, description="its password, best as ${env:NAME}")
    descriptors: HeldFile | None = Field(
        None, description="protobuf: file with a FileDescriptorSet (protoc --include_imports --descriptor_set_out)"
    )
    message: str | None = Field(None, min_length=1, description="protobuf: full name of the message, harbour.Reading")
    precision: Literal["ns", "us", "ms", "s"] = Field("ns", description="line_protocol: unit of the time stamps")

    @field_validator("registry")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
                raise ValueError("the URL alone is expected: use `registry_user` and `registry_password`")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("http://host:port or https://host:port is expected")
        return value

    @model_validator(mode="after")
    def _check(self) -> PayloadConfig:
        if self.framing != "none" and self.framing not in _FRAMINGS.get(self.format, ()):
            raise ValueError(f"framing {self.framing} is not one of {self.format}")
        if self.format == "protobuf" and (self.descriptors is None or self.message is None):
            raise ValueError("protobuf needs `descriptors` and `message`")
        if self.format == "avro" and self.framing == "confluent" and not (self.schema_files or self.registry):
            raise ValueError("framing confluent needs `schema_files` or `registry`, for the schema of each id")
        if self.format == "avro" and self.framing == "single_object" and self.schema_file is None:
            raise ValueError("framing single_object needs `schema_file`")
        return self
