"""Avro against fastavro's own writer and reader: container files, single values, framings, hostile bytes."""

from __future__ import annotations

import datetime as dt
import http.server
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

fastavro = pytest.importorskip("fastavro", reason="the library fastavro is not installed (headrace[avro])")

from headrace.connectors.contract import BytesBlob  # noqa: E402
from headrace.ingest.normalizers.avro import AvroReader, Schema, confluent  # noqa: E402
from headrace.ingest.normalizers.contract import Limits  # noqa: E402
from headrace.ingest.normalizers.payload_config import PayloadConfig  # noqa: E402
from headrace.ingest.normalizers.payload_rows import Decoded  # noqa: E402
from headrace.ingest.normalizers.sensor_testing import read  # noqa: E402
from headrace.schemas.errors import ConfigError, RecordError, SourceError  # noqa: E402

READING: dict[str, Any] = {
    "type": "record", "name": "Reading", "namespace": "harbour", "fields": [
        {"name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "level", "type": "double"},
        {"name": "wind", "type": {"type": "record", "name": "Wind", "fields": [
            {"name": "speed", "type": "float"}, {"name": "from", "type": ["null", "int"]}]}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}  # fmt: skip
CODECS = ("null", "deflate", "bzip2", "xz", "zstandard", "snappy")


def readings(count: int) -> list[dict[str, Any]]:
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return [
        {"t": start + dt.timedelta(seconds=i), "level": i / 7, "wind": {"speed": i / 2, "from": i % 360}, "note": None}
        for i in range(count)
    ]


def container(rows: list[Any], schema: Any = READING, codec: str = "null", **more: Any) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, schema, rows, codec=codec, **more)
    return out.getvalue()


def one(value: Any, schema: Any = READING) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def reader(tmp_path: Path | None = None, limits: Limits | None = None, **payload: Any) -> AvroReader:
    if not payload:
        return AvroReader(None, limits or Limits())
    config = PayloadConfig.model_validate({"format": "avro", **payload}, context={"base": tmp_path})
    return AvroReader(config, limits or Limits())


def decoded(data: bytes, by: AvroReader | None = None) -> tuple[list[Any], list[Any], RecordError | None]:
    """(values, bad rows, what ended it)."""
    values, bad = [], []
    try:
        for row in (by or reader()).rows(BytesBlob("x", data)):
            if isinstance(row, Decoded):
                values.append(row.value)
            else:
                bad.append(row)
    except RecordError as exc:
        return values, bad, exc
    return values, bad, None


def reason(data: bytes, by: AvroReader | None = None) -> str:
    _, _, error = decoded(data, by)
    assert error is not None
    return error.reason


# -- container files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_a_container_of_every_codec_gives_what_fastavro_reads(codec: str) -> None:
    if codec == "snappy":
        pytest.importorskip("cramjam")
    data = container(readings(3000), codec=codec, sync_interval=4000)
    values, bad, error = decoded(data)
    assert (bad, error) == ([], None)
    assert values == list(fastavro.reader(io.BytesIO(data))) == readings(3000)


def test_a_container_becomes_windows_of_channels_by_dotted_names() -> None:
    out = read(container(readings(600)), None)
    assert out.error is None
    assert out.bad == []
    windows = {}
    for record in out.of("sensor"):
        windows.setdefault(record["channel"], []).append(record)
    assert sorted(windows) == ["level", "wind.from", "wind.speed"]
    assert [len(w["t"]) for w in windows["level"]] == [512, 88]
    assert [v for w in windows["level"] for v in w["value"]] == [i / 7 for i in range(600)]
    start = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()) * 10**9
    assert [t for w in windows["wind.speed"] for t in w["t"]] == [start + i * 10**9 for i in range(600)]


def test_logical_types_become_times_numbers_and_words() -> None:
    schema = {"type": "record", "name": "L", "fields": [
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "raw", "type": "bytes"},
        {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A", "B"]}},
        {"name": "m", "type": {"type": "map", "values": "double"}},
        {"name": "a", "type": {"type": "array", "items": "int"}},
    ]}  # fmt: skip
    import uuid

    row = {
        "time": dt.datetime(2026, 5, 6, 7, 8, 9, 123000, tzinfo=dt.UTC), "d": Decimal("12.34"),
        "day": dt.date(2026, 5, 6), "id": uuid.UUID(int=5), "raw": b"\xff\x00", "kind": "B", "m": {"x": 1.5},
        "a": [7, 8],
    }  # fmt: skip
    out = read(container([row], schema), None)
    assert {r["channel"]: r["value"][0] for r in out.of("sensor")} == {"d": 12.34, "m.x": 1.5, "a[0]": 7, "a[1]": 8}
    assert out.of("sensor")[0]["t"][0] == 1778051289123 * 10**6
    line = json.loads(out.text)
    assert (line["kind"], line["day"], line["raw"]) == ("B", "2026-05-06", "base64:/wA=")
    assert line["id"] == str(uuid.UUID(int=5))


SCHEMAS = st.recursive(
    st.sampled_from(["boolean", "int", "long", "double", "string", "bytes"]),
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda values: {"type": "map", "values": values}, inner),
        st.builds(
            lambda types, n: {"type": "record", "name": f"R{n}", "fields": [
                {"name": f"f{i}", "type": t} for i, t in enumerate(types)]},
            st.lists(inner, min_size=1, max_size=3), st.integers(0, 1 << 60),
        ),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_schema_and_value_come_back_as_they_were_written(data: Any) -> None:
    schema = data.draw(SCHEMAS)
    try:
        parsed = fastavro.parse_schema(schema)
    except fastavro.schema.SchemaParseException:
        return  # two records drew one name
    value = data.draw(values_of(parsed))
    raw = one(value, schema)
    assert Schema(json.dumps(schema).encode()).value(raw) == value
    if raw:
        with pytest.raises(RecordError):
            Schema(json.dumps(schema).encode()).value(raw[:-1])


def values_of(schema: Any) -> st.SearchStrategy[Any]:
    kind = schema["type"] if isinstance(schema, dict) else schema
    simple = {
        "boolean": st.booleans(), "int": st.integers(-(1 << 31), (1 << 31) - 1), "bytes": st.binary(max_size=9),
        "long": st.integers(-(1 << 63), (1 << 63) - 1), "double": st.floats(allow_nan=False),
        "string": st.text(max_size=9),
    }  # fmt: skip
    if kind in simple:
        return simple[kind]
    if kind == "array":
        return st.lists(values_of(schema["items"]), max_size=4)
    if kind == "map":
        return st.dictionaries(st.text(max_size=4), values_of(schema["values"]), max_size=3)
    return st.fixed_dictionaries({f["name"]: values_of(f["type"]) for f in schema["fields"]})


# -- single values ----------------------------------------------------------------------------------------------------


@pytest.fixture
def schema_file(tmp_path: Path) -> Path:
    (tmp_path / "reading.avsc").write_text(json.dumps(READING))
    return tmp_path


def test_a_message_is_read_with_the_schema_of_the_pipeline(schema_file: Path) -> None:
    by = reader(schema_file, schema_file="reading.avsc")
    row = readings(3)[2]
    assert decoded(one(row), by) == ([row], [], None)
    assert decoded(container(readings(2)), by)[0] == readings(2), "a container says its schema itself"


@pytest.mark.parametrize("cut", [1, 8, 9, 17])
def test_a_message_that_is_cut_or_of_another_schema_is_refused(schema_file: Path, cut: int) -> None:
    by = reader(schema_file, schema_file="reading.avsc")
    data = one(readings(3)[2])
    assert reason(data[:cut], by) in ("truncated", "corrupt")
    assert reason(data + b"\x00" * cut, by) == "inconsistent"
    assert reason(b"", by) == "empty"


def test_single_object_encoding_must_bear_the_fingerprint(schema_file: Path) -> None:
    by = reader(schema_file, schema_file="reading.avsc", framing="single_object")
    form = fastavro.schema.to_parsing_canonical_form(READING)
    mark = b"\xc3\x01" + bytes.fromhex(fastavro.schema.fingerprint(form, "CRC-64-AVRO"))
    row = readings(2)[1]
    assert decoded(mark + one(row), by) == ([row], [], None)
    assert reason(mark[:2] + bytes(8) + one(row), by) == "schema_mismatch"
    assert reason(one(row), by) == "corrupt"


def test_a_fingerprint_is_the_one_of_the_specification() -> None:
    """From the Avro project's own tests: the fingerprint of "int" is 7275d51a3f395c8f; it is written little endian."""
    assert int.from_bytes(Schema(b'"int"').fingerprint(), "little") == 0x7275D51A3F395C8F


def test_confluents_header_names_a_schema_of_the_folder(tmp_path: Path) -> None:
    old = {"type": "record", "name": "Reading", "fields": [{"name": "level", "type": "int"}]}
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids" / "7.avsc").write_text(json.dumps(READING))
    (tmp_path / "ids" / "4000000000.avsc").write_text(json.dumps(old))
    by = reader(tmp_path, framing="confluent", schema_files="ids")
    row = readings(2)[1]
    assert decoded(b"\0\0\0\0\7" + one(row), by) == ([row], [], None)
    assert decoded(b"\0" + (4_000_000_000).to_bytes(4, "big") + one({"level": 3}, old), by) == (
        [{"level": 3}],
        [],
        None,
    )
    assert reason(b"\0\0\0\0\x08" + one(row), by) == "schema_mismatch"
    assert reason(b"\1\0\0\0\x07" + one(row), by) == "corrupt"
    assert reason(b"\0\0\0", by) == "corrupt"
    assert confluent(b"\0\0\0\1\0x") == (256, b"x")


@contextmanager
def registry() -> Iterator[tuple[str, list[str]]]:
    """(URL, requests) of a registry of schema 7."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            replies = {
                "/schemas/ids/7": (200, json.dumps({"schema": json.dumps(READING)}).encode()),
                "/schemas/ids/8": (200, b'{"schema": "syntax = proto3", "schemaType": "PROTOBUF"}'),
                "/schemas/ids/9": (302, b""),
                "/schemas/ids/10": (503, b""),
                "/schemas/ids/11": (200, b"<html>"),
                "/schemas/ids/12": (401, b""),
            }
            code, body = replies.get(self.path, (404, b"{}"))
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/schemas/ids/7")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_registry_is_asked_once_and_its_troubles_are_not_the_messages_fault() -> None:
    row = readings(2)[1]
    with registry() as (url, asked):
        by = reader(framing="confluent", registry=url, registry_user="me", registry_password="sesame")
        for _ in range(3):
            assert decoded(b"\0\0\0\0\7" + one(row), by) == ([row], [], None)
        assert asked == ["/schemas/ids/7 Basic bWU6c2VzYW1l"]
        for _ in range(2):
            assert reason(b"\0\0\0\0\x63" + one(row), by) == "schema_mismatch"
        assert len(asked) == 2, "an unknown id is asked for once"
        assert reason(b"\0\0\0\0\x08" + one(row), by) == "schema_mismatch"
        for id in (9, 10, 11):
            with pytest.raises(SourceError, match="schema") as caught:
                decoded(b"\0\0\0\0" + bytes([id]) + one(row), by)
            assert "sesame" not in repr(caught.value)
        with pytest.raises(ConfigError, match="registry_user"):
            decoded(b"\0\0\0\0\x0c" + one(row), by)
    with pytest.raises(SourceError, match="cannot be asked"):
        decoded(b"\0\0\0\0\7" + one(row), reader(framing="confluent", registry=url))


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_work_are_refused_before_the_first_byte(tmp_path: Path) -> None:
    (tmp_path / "bad.avsc").write_text("{")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "seven.avsc").write_text('"int"')
    for payload, said in (
        ({"schema_file": "nowhere.avsc"}, "cannot be read"),
        ({"framing": "confluent"}, "schema_files"),
        ({"framing": "confluent", "schema_files": "nowhere"}, "no folder"),
        ({"framing": "confluent", "schema_files": "odd"}, "no schema id"),
        ({"framing": "confluent", "registry": "http://me:sesame@h"}, "registry_user"),
        ({"framing": "confluent", "registry": "file:///etc"}, "http"),
        ({"framing": "delimited"}, "not one of avro"),
        ({"framing": "single_object"}, "schema_file"),
        ({"format": "protobuf"}, "descriptors"),
    ):
        with pytest.raises(ValueError, match=said):
            reader(tmp_path, **payload)
    with pytest.raises(ConfigError, match=r"not an Avro schema|no JSON"):
        reader(tmp_path, schema_file="bad.avsc")


def test_what_enters_the_digest_is_the_schemas_content_and_no_password(tmp_path: Path) -> None:
    for name in ("a.avsc", "b.avsc"):
        (tmp_path / name).write_text('"int"')
    dumps = [
        PayloadConfig.model_validate(
            {"format": "avro", "schema_file": name, "registry": f"http://{name}", "registry_password": "sesame"},
            context={"base": tmp_path},
        ).model_dump(mode="json")
        for name in ("a.avsc", "b.avsc")
    ]
    assert dumps[0] == dumps[1]
    assert "registry" not in json.dumps(dumps[0])
    (tmp_path / "a.avsc").write_text('"long"')
    changed = PayloadConfig.model_validate({"format": "avro", "schema_file": "a.avsc"}, context={"base": tmp_path})
    assert changed.model_dump(mode="json")["schema_file"] != dumps[0]["schema_file"]
