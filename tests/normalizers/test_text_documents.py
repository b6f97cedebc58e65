"""Plain documents: exact text, encodings, damage, and division."""

from __future__ import annotations

import codecs
import io
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers import text as text_module
from headrace.ingest.normalizers import text_encoding
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.text import TextConfig, TextNormalizer
from headrace.ingest.normalizers.text_divide import divide
from headrace.ingest.normalizers.text_encoding import TextStream, decode
from headrace.schemas.errors import RecordError
from headrace.schemas.record import draft_schema

Rows = list[dict[str, Any]]


def opened(data: bytes, format_name: str, **settings_: Any) -> tuple[Rows, list[Bad]]:
    """Rows and refusals of one file."""
    headers = {"format": format_name}
    if "media_type" in settings_:
        headers["media_type"] = settings_.pop("media_type")
    item = Item(BytesBlob("folder/file", data), 1, headers=headers)
    rows: Rows = []
    bad: list[Bad] = []
    for got in TextNormalizer(TextConfig(**settings_)).open(item):
        if isinstance(got, Bad):
            bad.append(got)
        else:
            assert isinstance(got, pa.RecordBatch) and got.schema == draft_schema("text")
            got.validate(full=True)
            rows += got.to_pylist()
    return rows, bad


exact_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).filter(
    lambda text: not text.startswith("\ufeff")
)


@settings(max_examples=150, deadline=None)
@given(exact_texts)
def test_a_document_is_its_text_to_the_last_character(text: str) -> None:
    rows, bad = opened(text.encode(), "text")
    assert ([row["text"] for row in rows], bad) == ([text], [])
    assert rows[0]["locator"] == "{}" and rows[0]["transforms"] is None
    assert rows[0]["flags"] == (["nul"] if "\0" in text else None)


@settings(max_examples=100, deadline=None)
@given(exact_texts, st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]))
def test_a_byte_order_mark_is_obeyed_dropped_and_recorded(text: str, codec: str) -> None:
    if codec == "utf-16-le" and text.startswith("\0"):
        return  # these bytes are also those of a UTF-32 mark
    mark = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(
        codec, codecs.BOM_UTF32_LE if codec.endswith("le") else codecs.BOM_UTF32_BE
    )
    rows, _ = opened(mark + text.encode(codec), "text", encoding="latin-1")
    assert rows[0]["text"] == text
    assert "byte order mark" in rows[0]["transforms"][0]


def test_another_encoding_is_read_only_when_named() -> None:
    data = "Straße".encode("cp1252")
    with pytest.raises(RecordError, match=r"byte 4 \(df 65\) is not utf-8") as refusal:
        opened(data, "text")
    assert refusal.value.reason == "bad_encoding"
    rows, _ = opened(data, "text", encoding="windows-1252")
    assert (rows[0]["text"], rows[0]["transforms"]) == ("Straße", ["decode cp1252"])


def test_a_wrong_byte_far_behind_is_named_by_its_place_in_the_file() -> None:
    data = codecs.BOM_UTF8 + b"a" * 3_000_000 + b"\xc3(" + b"b" * 10
    with pytest.raises(RecordError, match=r"byte 3000003 ") as whole:
        decode(data)
    assert whole.value.reason == "bad_encoding"
    with pytest.raises(RecordError, match=r"byte 3000003 "):
        list(TextStream(io.BytesIO(data), None))


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aé€😀"), max_size=8), st.binary(min_size=1, max_size=4), st.integers(1, 4))
def test_a_wrong_byte_has_the_same_place_however_the_file_is_read(text: str, odd: bytes, step: int) -> None:
    data = text.encode() + odd + b"end"
    try:
        data.decode()
        place = None
    except UnicodeDecodeError as exc:
        place = exc.start
    if data.startswith((b"\xff\xfe", b"\xfe\xff", codecs.BOM_UTF8)):
        return
    chunk = text_encoding._CHUNK_BYTES
    text_encoding._CHUNK_BYTES = step
    try:
        read = "".join(TextStream(io.BytesIO(data), None))
        assert place is None and read == data.decode()
    except RecordError as exc:
        assert exc.reason == "bad_encoding" and f"byte {place} " in exc.message
    finally:
        text_encoding._CHUNK_BYTES = chunk


@pytest.mark.parametrize(("data", "good", "torn"), [("ab€".encode()[:-1], "ab", 2), (b"\xff\xfea\0b", "a", 4)])
def test_a_character_cut_off_by_the_end_is_a_truncation(data: bytes, good: str, torn: int) -> None:
    rows, bad = opened(data, "text")
    assert (rows[0]["text"], rows[0]["flags"]) == (good, ["truncated"])
    assert [(b.reason, b.locator) for b in bad] == [("truncated", f'{{"byte":{torn}}}')]


def test_an_empty_file_is_refused_as_empty() -> None:
    for data in (b"", codecs.BOM_UTF8):
        with pytest.raises(RecordError) as refusal:
            opened(data, "text")
        assert refusal.value.reason == "empty"


def test_what_is_not_text_is_refused_by_its_name() -> None:
    with pytest.raises(RecordError) as refusal:
        opened(b"\x89PNG\r\n\x1a\n", "png")
    assert refusal.value.reason == "unsupported:png"


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"encoding": "utf-9"}, "unknown text encoding"),
        ({"encoding": "hex"}, "unknown text encoding"),
        ({"encoding": "unicode_escape"}, "not a text encoding"),
        ({"language": "in Finnish"}, "BCP 47"),
        ({"max_chars": 1}, "greater than or equal to 16"),
        ({"colums": ["a"]}, "Extra inputs"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_byte_is_read(settings_: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TextConfig(**settings_)


division_texts = st.text(st.sampled_from("ab .!\n\r\t。é\u0301\u200d😀\u2029"), max_size=300)


@settings(max_examples=200, deadline=None)
@given(division_texts, st.integers(2, 40), st.integers(1, 50))
def test_parts_joined_are_the_document_and_pieces_do_not_matter(text: str, max_chars: int, step: int) -> None:
    parts = list(divide([text], max_chars))
    assert "".join(parts) == text
    assert all(0 < len(part) <= max_chars for part in parts)
    assert all(len(part) >= max_chars // 2 for part in parts[:-1])
    assert parts == list(divide([text[at : at + step] for at in range(0, len(text), step)], max_chars))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two.\n\nThree is. Long", ["One. Two.\n\n", "Three is. Long"]),
        ("Aaaaaaaaaa. Bbbb cccc dddd", ["Aaaaaaaaaa. ", "Bbbb cccc dddd"]),
        ("aaaaaaaaaaaaa bbbbbbbbbbbbb", ["aaaaaaaaaaaaa ", "bbbbbbbbbbbbb"]),
        ("a" * 18, ["a" * 16, "aa"]),
        ("a" * 15 + "\r\n" + "b", ["a" * 15, "\r\nb"]),
        ("a" * 15 + "e\u0301" + "b", ["a" * 15, "e\u0301b"]),
        ("日本語です。これは文です。終わりました", ["日本語です。これは文です。", "終わりました"]),
    ],
)
def test_a_division_prefers_paragraphs_then_sentences_then_words(text: str, parts: list[str]) -> None:
    assert list(divide([text], 16)) == parts


def test_a_long_document_becomes_parts_that_know_their_place() -> None:
    text = "".join(f"Sentence number {n}.\n\n" for n in range(40))
    rows, _ = opened(text.encode(), "markdown", max_chars=100, language="en")
    assert "".join(row["text"] for row in rows) == text
    assert [row["part"] for row in rows] == list(range(len(rows)))
    assert {row["parts"] for row in rows} == {len(rows)}
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row["text"]))
    assert [row["locator"] for row in rows] == [f'{{"chars":[{a},{b}]}}' for a, b in itertools.pairwise(starts)]
    assert {row["language"] for row in rows} == {"en"}


def test_a_document_read_in_pieces_gives_what_the_whole_would(monkeypatch: pytest.MonkeyPatch) -> None:
    data = "".join(f"Ünïcode 😀 {n}. " for n in range(150_000)).encode() + "€".encode()[:1]
    whole = opened(data, "text", max_chars=5000)
    monkeypatch.setattr(text_module, "WHOLE_BYTES", 1000)
    assert opened(data, "text", max_chars=5000) == whole
    assert whole[0][0]["flags"] == ["truncated"] and whole[1][0].reason == "truncated"


def test_lines_can_be_records_of_their_own() -> None:
    rows, bad = opened(b"one\r\n\r\n  \ntwo\n\xff\nthree", "text", lines="each")
    assert [(row["text"], row["locator"]) for row in rows] == [
        ("one", '{"byte":0}'),
        ("two", '{"byte":10}'),
        ("three", '{"byte":16}'),
    ]
    assert [(b.reason, b.locator, b.data) for b in bad] == [("bad_encoding", '{"byte":14}', b"\xff\n")]
    assert rows[0]["group_id"] == 'folder/file#{"byte":0}'


@pytest.mark.data
def test_every_plain_file_of_the_corpus_comes_back_as_it_was(corpus: Path, manifest: list[dict[str, str]]) -> None:
    seen = 0
    for row in manifest:
        if row["modality"] == "text" and row["path"].split("/")[1] in ("plain", "markdown", "tatoeba"):
            data = (corpus / row["path"]).read_bytes()
            rows, bad = opened(data, "text")
            assert not bad
            text = "".join(r["text"] for r in rows)
            assert text.encode() == data.removeprefix(codecs.BOM_UTF8), row["path"]
            seen += 1
    assert seen > 50
