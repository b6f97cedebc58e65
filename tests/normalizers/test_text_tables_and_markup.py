"""CSV and Arrow tables, XML and HTML."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.text import TextConfig, TextNormalizer
from headrace.schemas.errors import RecordError

Rows = list[dict[str, Any]]


def opened(
    data: bytes | pa.RecordBatch, format_name: str, media_type: str = "", **settings_: Any
) -> tuple[Rows, list[Bad]]:
    payload = BytesBlob("a", data) if isinstance(data, bytes) else data
    item = Item(payload, 1, headers={"format": format_name, "media_type": media_type})
    rows: Rows = []
    bad: list[Bad] = []
    for got in TextNormalizer(TextConfig(**settings_)).open(item):
        if isinstance(got, Bad):
            bad.append(got)
        else:
            got.validate(full=True)
            rows += got.to_pylist()
    return rows, bad


def only(data: str | bytes, format_name: str, **settings_: Any) -> str:
    """The text of a file that is one record."""
    rows, bad = opened(data.encode() if isinstance(data, str) else data, format_name, **settings_)
    assert bad == [] and len(rows) == 1
    text: str = rows[0]["text"]
    return text


cells = st.text(st.sampled_from("ab,;\t|\"'\n\r é\0"), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(cells, cells.filter(bool)), min_size=1, max_size=6), st.sampled_from([",", ";", "\t", "|"]))
def test_rows_written_by_the_csv_module_come_back(body: list[tuple[str, str]], delimiter: str) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["note", "text"])
    writer.writerows(body)
    rows, bad = opened(out.getvalue().encode(), "csv")
    assert bad == []
    assert [(json.loads(row["extra"])["note"], row["text"]) for row in rows] == body
    assert [row["locator"] for row in rows] == [f'{{"row":{n}}}' for n in range(len(body))]


def test_a_broken_row_costs_one_row() -> None:
    data = b'id,text\n1,"fine, ""quoted"""\n2,"never closed\n3,good\n4,too,many\n5\n6,\n7,"multi\r\nline"\n'
    rows, bad = opened(data, "csv")
    assert [(row["text"], row["extra"]) for row in rows] == [
        ('fine, "quoted"', '{"id":"1"}'),
        ("good", '{"id":"3"}'),
        ("multi\r\nline", '{"id":"7"}'),
    ]
    assert [(b.reason, b.locator, b.data) for b in bad] == [
        ("invalid_row", '{"row":1}', b'2,"never closed\n'),
        ("invalid_row", '{"row":3}', b"4,too,many\n"),
        ("invalid_row", '{"row":4}', b"5\n"),
        ("empty", '{"row":5}', b"6,\n"),
    ]


def test_many_unclosed_quotes_do_not_make_reading_quadratic() -> None:
    data = b"id,text\n" + b'1,"x\n2,"y" z\n' * 20_000
    started = time.monotonic()
    _, bad = opened(data, "csv")
    assert time.monotonic() - started < 5
    assert bad[-1].reason == "invalid_row" and bad[-1].data is not None and len(bad[-1].data) > 100_000


def test_a_table_without_a_text_column_is_one_document() -> None:
    data = b'name,n\r\n"a,b",1\r\n'
    rows, _ = opened(data, "csv")
    assert rows[0]["text"].encode() == data
    with pytest.raises(RecordError, match="`name`, `n`") as refusal:
        opened(data, "csv", field="text")
    assert refusal.value.reason == "missing_field"
    rows, _ = opened(data, "csv", columns=("a", "text"))
    assert [(row["text"], row["extra"]) for row in rows] == [("n", '{"a":"name"}'), ("1", '{"a":"a,b"}')]


def test_cells_of_any_length_and_other_encodings_are_read() -> None:
    long = "ä" * 300_000
    rows, _ = opened(f"text;n\n{long};1\n".encode("utf-16"), "csv")
    assert rows[0]["text"] == long and rows[0]["transforms"] == ["decode utf-16-le with byte order mark"]
    rows, _ = opened(b"text\tn\na,b;c\t1\n", "tsv")
    assert (rows[0]["text"], rows[0]["extra"]) == ("a,b;c", '{"n":"1"}')


def test_the_rows_of_an_arrow_table_are_records() -> None:
    moment = datetime(2024, 3, 1, tzinfo=UTC)
    table = pa.RecordBatch.from_pylist(
        [
            {"content": "a", "score": 0.5, "at": "2024-03-01T00:00:00Z", "raw": b"\x01", "when": moment},
            {"content": None, "score": 1.0, "at": "2024-03-01T00:00:00Z", "raw": None, "when": None},
            {"content": "c", "score": None, "at": "2024-03-01T00:00:00Z", "raw": None, "when": None},
        ]
    )
    rows, bad = opened(table, "parquet", field="content", time="at")
    assert [row["text"] for row in rows] == ["a", "c"]
    assert rows[0]["event_time"] == moment
    extra = json.loads(rows[0]["extra"])
    assert extra["score"] == 0.5 and extra["raw"] == "01" and extra["when"].startswith("2024-03-01T00:00:00")
    assert [(b.reason, b.locator) for b in bad] == [("missing_field", '{"row":1}')]


def columnar(rows: list[dict[str, Any]], kind: str) -> bytes:
    table = pa.Table.from_pylist(rows)
    out = io.BytesIO()
    if kind == "parquet":
        options: dict[str, Any] = {"write_page_checksum": True, "write_statistics": False, "use_dictionary": False}
        pq.write_table(table, out, row_group_size=2, compression="none", **options)
    else:
        writer = pa.ipc.new_file if kind == "arrow_file" else pa.ipc.new_stream
        with writer(out, table.schema) as sink:
            sink.write_table(table, max_chunksize=2)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["parquet", "arrow_file", "arrow_stream"])
def test_the_rows_of_a_columnar_file_are_records_with_their_number(kind: str) -> None:
    rows = [{"text": f"row {n}", "n": n, "when": "2024-03-01"} for n in range(5)]
    rows[3]["text"] = None
    got, bad = opened(columnar(rows, kind), kind, time="when")
    assert [(row["text"], row["locator"]) for row in got] == [(f"row {n}", f'{{"row":{n}}}') for n in (0, 1, 2, 4)]
    assert json.loads(got[3]["extra"]) == {"n": 4, "when": "2024-03-01"} and got[3]["group_id"] == 'a#{"row":4}'
    assert [(b.reason, b.locator) for b in bad] == [("missing_field", '{"row":3}')]
    with pytest.raises(RecordError, match="`n`, `when`") as refusal:
        opened(columnar([{"n": 1, "when": ""}], kind), kind)
    assert refusal.value.reason == "missing_field"


def test_a_damaged_row_group_costs_its_own_rows() -> None:
    rows = [{"text": f"unmistakable {n}"} for n in range(6)]
    data = columnar(rows, "parquet")
    at = data.index(b"unmistakable 2")
    got, bad = opened(data[:at] + b"X" + data[at + 1 :], "parquet")
    assert [row["text"] for row in got] == [f"unmistakable {n}" for n in (0, 1, 4, 5)]
    assert bad and all(b.reason in ("checksum", "corrupt", "truncated") for b in bad)


def test_xml_gives_the_lines_of_its_elements_and_keeps_running_text_together() -> None:
    source = """<?xml version="1.0"?><doc xml:lang="de"><head> A &amp; B </head>
      <p>Running <hi>te</hi>xt, <i>whole</i>.</p><p><b>Bold</b> first</p>
      <empty/><p>one<lb/>two</p><![CDATA[<raw>]]></doc>"""
    rows, _ = opened(source.encode(), "xml")
    assert rows[0]["text"] == "A & B\nRunning text, whole.\nBold first\none\ntwo<raw>"
    assert (rows[0]["language"], rows[0]["transforms"]) == ("de", ["text of xml"])
    assert only(source, "xml", markup="source") == source


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('<!DOCTYPE d [<!ENTITY a "' + "x" * 65 + '">]><d>&a;</d>', "bomb"),
        ('<!DOCTYPE d [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><d>&b;</d>', "bomb"),
        ('<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/hostname">]><d>&a;</d>', "external_reference"),
        ('<!DOCTYPE d SYSTEM "http://127.0.0.1:9/d.dtd"><d>&unheardof;</d>', "external_reference"),
        ('<!DOCTYPE d [<!ENTITY % p SYSTEM "http://127.0.0.1:9/p">%p;]><d>&unheardof;</d>', "external_reference"),
        ("<d><p>text", "truncated"),
        ("<d", "truncated"),
        ("<d>text</e>", "corrupt"),
        ("<d>&nbsp;</d>", "corrupt"),
        ('<?xml version="1.0" encoding="klingon"?><d>a</d>', "bad_encoding"),
        ("<d><p/></d>", "empty"),
    ],
)
def test_hostile_and_broken_xml_is_refused_by_its_reason(source: str, reason: str) -> None:
    with pytest.raises(RecordError) as refusal:
        opened(source.encode(), "xml")
    assert refusal.value.reason == reason


def test_harmless_entities_are_read() -> None:
    assert only('<!DOCTYPE d [<!ENTITY dash "–">]><d>a&dash;b</d>', "xml") == "a–b"
    assert only('<!DOCTYPE d SYSTEM "absent.dtd"><d>caf&eacute;</d>', "xml") == "café"


@pytest.mark.parametrize("codec", ["iso-8859-2", "utf-16", "shift_jis", "utf-32"])
def test_xml_is_read_in_the_encoding_it_declares(codec: str) -> None:
    word = "日本" if codec == "shift_jis" else "łódź" if codec == "iso-8859-2" else "łódź日"
    assert only(f'<?xml version="1.0" encoding="{codec}"?><d>{word}</d>'.encode(codec), "xml") == word


@pytest.mark.data
def test_the_bibles_of_the_corpus_give_the_verses_that_another_parser_finds(
    corpus: Path, manifest: list[dict[str, str]]
) -> None:
    paths = [row["path"] for row in manifest if "/bible_xml/" in row["path"]]
    assert len(paths) >= 6
    for path in paths:
        data = (corpus / path).read_bytes()
        text = only(data, "xml", max_chars=1 << 28)
        verses = [(seg.text or "").strip() for seg in ElementTree.fromstring(data).iter("seg")]
        assert text.endswith("\n".join(verse for verse in verses if verse)), path


PAGE = """<!DOCTYPE html><html lang="fi"><head><title>A &amp; B</title><style>p { color: red }</style>
<script>document.write("<p>never</p>")</script><meta charset="utf-8"></head>
<body><!-- hidden > comment --><h1>Head</h1>
<p>One   two
 <b>three</b>four<br>five &copy; &lt;6&gt;</p><ul><li>a</li><li>b</li></ul>
<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>
<pre>  keep
   this</pre><noscript>no</noscript><svg><text>no</text></svg><a title="x > y" href=z>link</a> 3 < 4</body></html>"""


def test_html_gives_what_a_reader_sees() -> None:
    rows, _ = opened(PAGE.encode(), "html")
    assert rows[0]["text"] == (
        "Head\n\nOne two threefour\nfive © <6>\n\na\nb\n\n1\t2\n3\n\n  keep\n   this\n\nlink 3 < 4"
    )
    assert (rows[0]["language"], rows[0]["extra"]) == ("fi", '{"title":"A & B"}')
    assert rows[0]["transforms"] == ["visible text of html"]
    assert only(PAGE, "html", markup="source") == PAGE


@pytest.mark.parametrize(
    ("data", "media_type", "settings_", "text"),
    [
        ("<p>é".encode("latin-1"), "text/html; charset=ISO-8859-1", {}, "é"),
        ('<meta charset="iso-8859-1"><p>“é”'.encode("cp1252"), "", {}, "“é”"),
        (
            '<meta http-equiv=Content-Type content="text/html; charset=shift_jis"><p>日本'.encode("shift_jis"),
            "",
            {},
            "日本",
        ),
        ("<meta charset=utf-16><p>é".encode(), "", {}, "é"),
        ("<meta charset=nonsense><p>é".encode(), "", {}, "é"),
        ("<meta charset=utf-8><p>é".encode("cp1252"), "", {"encoding": "cp1252"}, "é"),
        ("<meta charset=latin1><p>é".encode("utf-16"), "", {}, "é"),
    ],
)
def test_a_page_is_read_in_the_encoding_it_says(
    data: bytes, media_type: str, settings_: dict[str, Any], text: str
) -> None:
    rows, _ = opened(data, "html", media_type, **settings_)
    assert rows[0]["text"] == text


def test_a_page_in_another_encoding_than_it_says_is_refused() -> None:
    with pytest.raises(RecordError) as refusal:
        opened("<p>né.".encode("latin-1"), "html")
    assert refusal.value.reason == "bad_encoding"


class Words(HTMLParser):
    """The words of a page by the standard library, for pages that are well-formed."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden += tag in ("script", "style")
        self.text += "" if tag in ("script", "style") else " "

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")
        self.text += "" if tag in ("script", "style") else " "

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.text += data


pieces = st.sampled_from(
    [
        "word ",
        "a&amp;b ",
        "&eacute;",
        "1 &lt; 2 ",
        "<p>",
        "</p>",
        "<div class='x>y'>",
        "</div>",
        "<!-- <p>no</p> -->",
        "<br/>",
        "<style>p > a { }</style>",
        "<script>if (a < b) '<p>'</script>",
        "<h2 a=b>",
        "</h2>",
        "<li>",
        "&#233; ",
        "  ",
        "\n",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=30))
def test_the_words_of_a_page_are_those_that_the_standard_parser_finds(parts: list[str]) -> None:
    source = "<html><body>start " + "".join(parts) + " end</body></html>"
    oracle = Words()
    oracle.feed(source)
    oracle.close()
    assert only(source, "html").split() == oracle.text.split()


@pytest.mark.parametrize(
    "source",
    [
        "<a " * 200000,
        "<!--" * 200000,
        '<a b="' * 200000,
        "<p" * 200000 + ">",
        "</" * 400000,
        "<![CDATA[" * 100000,
        "<svg>" * 100000,
        "<script>" * 100000,
        "&" * 400000,
        "<a   " + " " * 400000,
        "<pre>" * 100000,
        "a<b " * 100000,
    ],
)
def test_malformed_pages_take_time_in_proportion_to_their_size(source: str) -> None:
    started = time.monotonic()
    try:
        opened(("start " + source).encode(), "html")
    finally:
        assert time.monotonic() - started < 8


def test_a_page_that_ends_inside_its_markup_says_so() -> None:
    rows, _ = opened(b"<p>seen<!-- unseen", "html")
    assert (rows[0]["text"], rows[0]["flags"]) == ("seen", ["unclosed_markup"])


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("<>/!-?\"'= abp&;\n\0é"), max_size=60))
def test_no_page_raises_anything_but_a_refusal(source: str) -> None:
    for format_name in ("html", "xml", "csv"):
        try:
            rows, _ = opened(source.encode(), format_name)
        except RecordError:
            continue
        for row in rows:
            assert not re.search("\ud800", row["text"])
