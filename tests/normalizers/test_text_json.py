"""JSON: lines, documents, arrays, and the fields that become columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.text import TextConfig, TextNormalizer
from headrace.ingest.normalizers.text_time import time_us
from headrace.schemas.errors import RecordError

Rows = list[dict[str, Any]]


def table_of(lines: list[bytes]) -> pa.RecordBatch:
    """Lines as connectors give them."""
    starts = [sum(map(len, lines[:n])) + n for n in range(len(lines))]
    return pa.RecordBatch.from_arrays(
        [pa.array(lines, pa.large_binary()), pa.array(starts, pa.int64())], names=["line", "byte"]
    )


def collect(item: Item, **settings_: Any) -> tuple[Rows, list[Bad]]:
    rows: Rows = []
    bad: list[Bad] = []
    for got in TextNormalizer(TextConfig(**settings_)).open(item):
        if isinstance(got, Bad):
            bad.append(got)
        else:
            got.validate(full=True)
            rows += got.to_pylist()
    return rows, bad


def lines_of(lines: list[bytes], **settings_: Any) -> tuple[Rows, list[Bad]]:
    return collect(Item(table_of(lines), 1, headers={"format": "jsonl", "object": "a.jsonl"}), **settings_)


def document(data: bytes, **settings_: Any) -> tuple[Rows, list[Bad]]:
    return collect(Item(BytesBlob("a.json", data), 1, headers={"format": "json"}), **settings_)


def test_bad_lines_cost_one_line_each_and_keep_their_bytes() -> None:
    lines = [
        b'{"text": "one", "n": 1.50}',
        b'{"text": "two"',
        b"",
        b'{"text": "\xff"}',
        b'{"title": "none"}',
        b'{"text": 7}',
        b'{"text": null}',
        b'{"text": "a", "text": "b"}',
        b'{"text": "x", "n": NaN}',
        b'{"text": ""}',
        b'"bare"',
        b'{"text": "last"}\r',
    ]
    rows, bad = lines_of(lines, field="text")
    assert [row["text"] for row in rows] == ["one", "last"]
    assert [row["extra"] for row in rows] == ['{"n": 1.50}', None]
    wrong = [1, 3, 4, 5, 6, 7, 8, 9, 10]
    reasons = ["invalid_json", "bad_encoding", "missing_field", "wrong_type", "missing_field"]
    reasons += ["invalid_json", "invalid_json", "empty", "wrong_type"]
    starts = table_of(lines).column("byte").to_pylist()
    assert [(b.reason, b.locator, b.data) for b in bad] == [
        (reason, f'{{"byte":{starts[n]}}}', lines[n]) for reason, n in zip(reasons, wrong)
    ]
    assert [row["locator"] for row in rows] == ['{"byte":0}', f'{{"byte":{starts[11]}}}']
    assert "`title`" in bad[2].message


def test_without_a_name_the_text_is_looked_for_and_else_the_line_is_the_text() -> None:
    rows, bad = lines_of(
        [b'{"body": "b", "text": 5}', b' {"a": 1.0} ', b'"bare \\u00e9"', b"[1, 2]", b'{"content":"c"}']
    )
    assert bad == []
    assert [row["text"] for row in rows] == ["b", '{"a": 1.0}', "bare é", "[1, 2]", "c"]
    assert [row["extra"] for row in rows] == ['{"text": 5}', None, None, None, None]


def test_fields_become_columns_and_the_rest_stays_as_it_was_written() -> None:
    line = (
        b'{"id": 7, "body": "x", "lang": "fi", "when": "2024-03-01T12:00:00+02:00",'
        b' "rights": "CC BY 4.0", "score": 1.500, "big": 123456789012345678901234567890}'
    )
    rows, bad = lines_of(
        [line], field="body", time="when", language_field="lang", license_field="rights", id_field="id"
    )
    assert bad == []
    row = rows[0]
    assert row["event_time"] == datetime(2024, 3, 1, 10, tzinfo=UTC)
    assert (row["time_source"], row["language"], row["license"], row["group_id"]) == (
        "field:when",
        "fi",
        "LicenseRef-CC-BY-4.0",
        "7",
    )
    assert '"lang"' not in row["extra"] and '"score": 1.500' in row["extra"] and '"rights": "CC BY 4.0"' in row["extra"]
    assert json.loads(row["extra"]).keys() == {"id", "when", "rights", "score", "big"}


def test_a_path_reaches_into_objects_and_a_name_with_a_dot_goes_first() -> None:
    rows, bad = lines_of(
        [b'{"a": {"b": "inner", "n": 1.0}, "z": [1e3]}', b'{"a.b": "outer", "a": {"b": "inner"}}'], field="a.b"
    )
    assert bad == []
    assert [(row["text"], row["extra"]) for row in rows] == [
        ("inner", '{"a":{"n":1.0},"z":[1e3]}'),
        ("outer", '{"a": {"b": "inner"}}'),
    ]


def test_a_named_field_that_is_absent_refuses_or_flags_as_the_pipeline_says() -> None:
    lines = [b'{"text":"a"}', b'{"text":"b","t":"yesterday","l":"Finnish!"}', b'{"text":"c","t":true,"l":"fi"}']
    rows, bad = lines_of(lines, time="t", language_field="l")
    assert (rows, [b.reason for b in bad]) == ([], ["missing_field", "no_time", "wrong_type"])
    rows, bad = lines_of(lines, time="t", language_field="l", missing="flag")
    assert bad == [] and [row["text"] for row in rows] == ["a", "b", "c"]
    assert [row["flags"] for row in rows] == [
        ["no_event_time:missing_field", "no_language:missing_field"],
        ["no_event_time:no_time", "no_language:wrong_type"],
        ["no_event_time:wrong_type"],
    ]
    assert rows[2]["language"] == "fi"


@pytest.mark.parametrize(
    ("value", "iso", "flags"),
    [
        ("2024-03-01T12:00:00Z", "2024-03-01T12:00:00", []),
        ("2024-03-01 12:00:00.123456789+05:30", "2024-03-01T06:30:00.123456", []),
        ("2024-03-01T12:00:00", "2024-03-01T12:00:00", ["naive_utc"]),
        ("2024-03-01 12:00 UTC", "2024-03-01T12:00:00", []),
        ("20240301T120000Z", "2024-03-01T12:00:00", []),
        ("2024-03-01", "2024-03-01T00:00:00", ["naive_utc"]),
        ("2024-03", "2024-03-01T00:00:00", ["naive_utc"]),
        ("1851", "1851-01-01T00:00:00", ["naive_utc"]),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00", []),
        (1709294400, "2024-03-01T12:00:00", []),
        (1709294400.25, "2024-03-01T12:00:00.250000", []),
        ("1709294400", "2024-03-01T12:00:00", []),
        (1709294400123, "2024-03-01T12:00:00.123000", []),
        (1709294400123456, "2024-03-01T12:00:00.123456", []),
        (1709294400123456789, "2024-03-01T12:00:00.123456", []),
        (20_000_000_000_000, "2603-10-11T11:33:20", []),
        (20_000_000_000_000_000, "2603-10-11T11:33:20", []),
        (99_999_999_999, "5138-11-16T09:46:39", []),
        (-1.5, "1969-12-31T23:59:58.500000", []),
        (0, "1970-01-01T00:00:00", []),
    ],
)
def test_times_are_read_in_every_common_spelling(value: Any, iso: str, flags: list[str]) -> None:
    moment = datetime.fromisoformat(iso).replace(tzinfo=UTC)
    assert time_us(value) == (round(moment.timestamp() * 1e6), flags)


@pytest.mark.parametrize(
    "value", ["", "noon", "2024-13-01", "12:00", 1e30, float("inf"), float("nan"), "9" * 30, "0000-01-01"]
)
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(RecordError) as refusal:
        time_us(value)
    assert refusal.value.reason == "no_time"


@settings(max_examples=100, deadline=None)
@given(st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(5000, 1, 1)))
def test_a_time_is_the_same_in_every_unit(moment: datetime) -> None:
    us = time_us(moment.isoformat() + "Z")[0]
    assert (
        us
        == (moment - datetime(1970, 1, 1)) // (datetime(1970, 1, 1, 0, 0, 1) - datetime(1970, 1, 1)) * 1_000_000
        + moment.microsecond
    )
    if moment.year > 1975:
        assert time_us(us) == time_us(us * 1000 + 999) == (us, [])


def test_an_array_of_objects_gives_a_record_each_and_a_damaged_end_costs_the_rest() -> None:
    rows, bad = document(b'[{"text": "a"}, {"text": 1, "text": 2}, {"b": 1.50}, {"text": "c')
    assert [(row["text"], row["locator"]) for row in rows] == [("a", '{"index":0}'), ('{"b": 1.50}', '{"index":2}')]
    assert [(b.reason, b.locator) for b in bad] == [
        ("invalid_json", '{"index":1}'),
        ("invalid_json", '{"from_index":3}'),
    ]
    assert rows[0]["group_id"] == 'a.json#{"index":0}'
    rows, bad = document(b'[{"text": "a"}, ')
    assert [(b.reason, b.locator) for b in bad] == [("truncated", '{"from_index":1}')]


def test_any_other_document_is_one_text() -> None:
    for source in (b"[1, 2.50]", b'["a", {"text": "b"}]', b'{"type": "FeatureCollection", "features": []}', b"[]"):
        rows, bad = document(b" " + source + b"\n")
        assert ([row["text"] for row in rows], bad) == ([source.decode()], [])
        assert rows[0]["locator"] == "{}" and rows[0]["group_id"] is None


def test_a_stac_item_is_flagged() -> None:
    rows, _ = document(b'{"type": "Feature", "stac_version": "1.0.0", "id": "x"}')
    assert rows[0]["flags"] == ["stac"]


def test_records_inside_a_document_are_reached_by_a_path() -> None:
    source = {
        "data": [{"paragraphs": [{"context": "a", "n": 1}, {"context": "b"}]}, {"paragraphs": [{"context": 3}]}, {}]
    }
    rows, bad = document(json.dumps(source).encode(), records="data.paragraphs", field="context")
    assert [(row["text"], row["locator"]) for row in rows] == [
        ("a", '{"pointer":"/data/0/paragraphs/0"}'),
        ("b", '{"pointer":"/data/0/paragraphs/1"}'),
    ]
    assert [(b.reason, b.locator) for b in bad] == [("wrong_type", '{"pointer":"/data/1/paragraphs/0"}')]
    with pytest.raises(RecordError) as refusal:
        document(b"{}", records="data.paragraphs")
    assert refusal.value.reason == "missing_field"


def test_a_document_that_would_not_fit_is_refused_before_it_is_read() -> None:
    item = Item(BytesBlob("a.json", b"[" + b"0," * 1000 + b"0]"), 1, headers={"format": "json"})
    with pytest.raises(RecordError) as refusal:
        list(TextNormalizer(TextConfig(), Limits(max_bytes=16_000)).open(item))
    assert refusal.value.reason == "too_large"


def test_a_file_of_lines_and_a_table_of_lines_give_the_same_records() -> None:
    lines = [b'{"text": "%d"}' % n for n in range(9_000)]
    lines[7] = b"{"
    table_rows, table_bad = lines_of(lines)
    blob = Item(BytesBlob("a.jsonl", b"\xef\xbb\xbf" + b"\n".join(lines)), 1, headers={"format": "jsonl"})
    rows, bad = collect(blob)
    assert [row["text"] for row in rows] == [row["text"] for row in table_rows]
    assert [b.reason for b in bad] == [b.reason for b in table_bad] == ["invalid_json"]
    assert json.loads(rows[-1]["locator"])["byte"] == json.loads(table_rows[-1]["locator"])["byte"] + 3


def test_a_slice_of_a_table_is_read_at_its_own_place() -> None:
    table = table_of([b'{"text": "a"}', b'{"text": "b"}', b'{"text": "c"}']).slice(1, 2)
    rows, _ = collect(Item(table, 1, headers={"format": "jsonl"}))
    assert [(row["text"], row["locator"]) for row in rows] == [("b", '{"byte":14}'), ("c", '{"byte":28}')]


def test_the_parts_of_a_long_line_stay_in_one_group() -> None:
    rows, _ = lines_of([json.dumps({"text": "word " * 30, "n": 1.0}).encode()], max_chars=64)
    assert "".join(row["text"] for row in rows) == "word " * 30 and len(rows) == 3
    assert {row["group_id"] for row in rows} == {'a.jsonl#{"byte":0}'}
    assert (
        rows[1]["locator"]
        == f'{{"byte":0,"chars":[{len(rows[0]["text"])},{len(rows[0]["text"]) + len(rows[1]["text"])}]}}'
    )
    assert {row["extra"] for row in rows} == {'{"n": 1.0}'}


@pytest.mark.data
def test_the_json_of_the_corpus_is_read_as_the_standard_parser_reads_it(
    corpus: Path, manifest: list[dict[str, str]]
) -> None:
    seen = 0
    for row in manifest:
        if row["modality"] != "text" or not row["path"].endswith(".json"):
            continue
        data = (corpus / row["path"]).read_bytes()
        rows, bad = document(data)
        assert bad == []
        if data.lstrip().startswith(b"["):
            want = [json.loads(json.dumps(element)) for element in json.loads(data)]
            whole: dict[str, str] = {}
            for r in rows:
                whole[r["group_id"]] = whole.get(r["group_id"], "") + r["text"]
            assert [json.loads(text) for text in whole.values()] == want
        else:
            assert "".join(r["text"] for r in rows).encode() == data.strip()
        seen += 1
    assert seen >= 7
    xquad = (corpus / "text/xquad_json/xquad.en.json").read_bytes()
    rows, bad = document(xquad, records="data.paragraphs", field="context")
    want = [p["context"] for article in json.loads(xquad)["data"] for p in article["paragraphs"]]
    assert ([r["text"] for r in rows], bad) == (want, [])
