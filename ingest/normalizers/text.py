"""Text records: documents, lines, JSON, tables and marked-up pages become text as it was written.

A document is one record up to `max_chars` characters. Text is exact: line ends, control characters and spaces stay, and
joining the parts of a divided document gives the document. Where markup is taken off (XML, HTML), `transforms` says so,
and `markup: source` keeps it. Transcripts (SRT, WebVTT, TTML) go to the timed-text normalizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import orjson
import pyarrow as pa
from pydantic import field_validator

from headrace.connectors.contract import Blob, BytesBlob, Item
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers import text_json, text_table
from headrace.ingest.normalizers.contract import Bad, Normalized, Normalizer, NormalizerConfig, blob_of
from headrace.ingest.normalizers.payload import OWN, Payloads
from headrace.ingest.normalizers.payload_config import PayloadConfig
from headrace.ingest.normalizers.payload_rows import text_documents
from headrace.ingest.normalizers.text_batch import (
    Document,
    Records,
    Row,
    TextBatch,
    batched,
    part_row,
    placed,
    text_batch,
)
from headrace.ingest.normalizers.text_divide import divide
from headrace.ingest.normalizers.text_encoding import TextStream, checked_encoding, decode
from headrace.ingest.normalizers.text_fields import LANGUAGE_TAG, FieldNames, FieldPicker
from headrace.ingest.normalizers.text_html import html_text
from headrace.ingest.normalizers.text_xml import MarkupText, xml_text
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.pipeline import bytes_field, later_field

#: A document up to this size is read once and held; a larger one is read twice, in flat memory.
WHOLE_BYTES = 32 << 20

_TIMED = ("srt", "webvtt", "ttml")
_COLUMNAR = ("parquet", "arrow_file", "arrow_stream")
_PLAIN = ("text", "markdown", "unknown")
#: Marked-up text that a sniffer tells apart because it is data elsewhere.
_XML = ("xml", "gpx", "vrt", "wcs-xml")
_TEXTUAL = frozenset({*_TIMED, *_XML, "text", "markdown", "html", "json", "jsonl", "csv", "tsv"})


class TextConfig(NormalizerConfig):
    """What of a source is text."""

    field: str | None = bytes_field(
        None,
        min_length=1,
        description="JSON field (a name or a dotted path) or CSV column that holds the text; "
        "default: text, content or body, else the whole value",
    )
    records: str | None = bytes_field(
        None,
        min_length=1,
        description="path of the records inside a JSON document, for example data.paragraphs; "
        "default: the elements of a top-level array",
    )
    time: str | None = bytes_field(
        None, min_length=1, description="field that holds the time: ISO 8601, or s, ms, us or ns since 1970"
    )
    language: str | None = bytes_field(None, description="BCP 47 tag of all texts, for example fi")
    language_field: str | None = bytes_field(None, min_length=1, description="field that holds the BCP 47 tag")
    license_field: str | None = bytes_field(None, min_length=1, description="field that holds the license's SPDX id")
    id_field: str | None = bytes_field(
        None, min_length=1, description="field that holds an id; records with one id stay in one fold"
    )
    missing: Literal["quarantine", "flag"] = bytes_field(
        "quarantine", description="what an absent or unusable time, language, license or id does to its record"
    )
    max_chars: int = bytes_field(
        1 << 20, ge=16, le=1 << 28, description="a longer document is divided at a paragraph, sentence or word border"
    )
    encoding: str | None = bytes_field(
        None, description="encoding of text without a byte order mark; default: UTF-8, or what a page or XML declares"
    )
    lines: Literal["document", "each"] = bytes_field(
        "document", description="whether plain text is a document or a record per line"
    )
    markup: Literal["text", "source"] = bytes_field(
        "text", description="whether XML and HTML give their text or their source"
    )
    columns: tuple[str, ...] | None = bytes_field(None, description="column names of CSV files that have no header row")
    payload: PayloadConfig | None = later_field(
        description="what messages hold where their bytes do not say: avro, protobuf, line_protocol, csv …"
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        return None if name is None else checked_encoding(name)

    @field_validator("language")
    @classmethod
    def _language_tag(cls, tag: str | None) -> str | None:
        if tag is not None and not LANGUAGE_TAG.fullmatch(tag):
            raise ValueError(f"{tag!r} is not a BCP 47 tag such as `pt-BR`; a field's name goes to `language_field`")
        return tag


class TextNormalizer(Normalizer):
    """Makes text records of text files, lines and tables."""

    Config = TextConfig
    modality = "text"

    def __init__(self, config: Any, limits: Any = None) -> None:
        super().__init__(config, limits)
        self._payloads = Payloads(config.payload, self.limits)
        self._picker = FieldPicker(
            FieldNames(
                text=config.field,
                time=config.time,
                language=config.language_field,
                license=config.license_field,
                id=config.id_field,
                strict=config.missing == "quarantine",
                fixed_language=config.language,
            )
        )
        plain = config.records is None and config.encoding is None and config.payload is None
        #: Up to this size a JSON document that begins as an object is one record, spelled in UTF-8.
        self._object_bytes = self.limits.max_bytes // text_json.PARSED_RATIO if plain else 0

    def open(self, item: Item) -> Iterator[Normalized]:
        """Drafts of one item. Raises: RecordError."""
        if isinstance(item.data, pa.RecordBatch):
            return self._table(item, item.data)
        if isinstance(item.data, list):
            return self._members(item, item.data)
        blob = blob_of(item)
        if blob.size == 0:
            raise RecordError("empty", "the file has no bytes")
        return self._blob(item, blob, self._payloads.name(item.headers.get("format") or _sniffed(blob)))

    def _members(self, item: Item, blobs: list[Blob]) -> Iterator[Normalized]:
        """The text members of a group of files; the others are other streams' business."""
        texts = [(blob, name) for blob, name in zip(blobs, formats_of(item)) if name in _TEXTUAL]
        if not texts:
            raise RecordError("inconsistent", f"none of {', '.join(blob.name for blob in blobs[:8])} is text")
        for blob, name in texts:
            yield from self.member(item, blob, name)

    def member(self, item: Item, blob: Blob, name: str) -> Iterator[Normalized]:
        """The text of one file of a group: it stays in the group, and what is bad in it costs that file alone."""
        place = {"member": blob.name}
        headers = {**item.headers, "format": name}
        headers.pop("truncated", None)  # said of the group, whose broken member is told by itself
        try:
            for got in self.open(Item(blob, item.position, key=item.key, headers=headers)):
                if isinstance(got, Bad):
                    locator = canonical_json({**place, **json.loads(got.locator)}).decode()
                    yield Bad(got.reason, f"{blob.name}: {got.message}", locator, got.data)
                else:
                    yield placed(got, place)
        except RecordError as exc:
            yield Bad(exc.reason, f"{blob.name}: {exc.message}", canonical_json(place).decode())

    def rows(self, item: Item) -> Sequence[Row] | None:
        """The records of a small file or message, unless something about it is bad."""
        name = item.headers.get("format")
        if name is None or not isinstance(item.data, bytes):
            return None
        blob = BytesBlob("", item.data)
        records = self._records(item, blob)
        if name == "json" and item.data[:1] == b"{" and len(item.data) <= self._object_bytes:
            return records.of(*text_json.whole(item.data, self._picker))
        documents = self._documents(item, blob, self._payloads.name(name))
        if documents is None:
            return None
        rows: list[Row] = []
        for document in documents:
            if isinstance(document, Bad):
                return None
            rows += records.of(*document)
        return rows

    def gather(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """The draft batch of rows of many items."""
        return text_batch(rows)

    def _records(self, item: Item, blob: Blob) -> Records:
        object_id = item.headers.get("object") or blob.id
        return Records(self.config.max_chars, object_id, "group" not in item.headers, _flags(item))

    def _table(self, item: Item, table: pa.RecordBatch) -> Iterator[Normalized]:
        documents: Iterator[Document | Bad]
        if set(table.schema.names) != {"line", "byte"}:
            documents = text_table.from_table(table, int(item.headers.get("row", 0)), self._picker)
        elif item.headers.get("format", "jsonl") == "jsonl":
            documents = text_json.from_lines(text_json.lines_of_table(table), self._picker)
        else:
            documents = self._lines(text_json.lines_of_table(table))
        records = Records(self.config.max_chars, item.headers.get("object", ""), group=False, flags=_flags(item))
        return batched(documents, records)

    def _blob(self, item: Item, blob: Blob, name: str) -> Iterator[Normalized]:
        documents = self._documents(item, blob, name)
        if documents is not None:
            return batched(documents, self._records(item, blob))
        return self._transcript(item) if name in _TIMED else self._large_document(blob)

    def _documents(self, item: Item, blob: Blob, name: str) -> Iterator[Document | Bad] | None:
        """The documents of a file; None for transcripts, and for one document that is too large to be held."""
        config = self.config
        if name in OWN:
            return text_documents(self._payloads.rows(name, item, blob, points=False), self._picker)
        document = name in _PLAIN and config.lines == "document"
        document = document or (name in (*_XML, "html") and config.markup == "source")
        if name in ("csv", "tsv") and not document:
            header = self._header(blob, name)
            if header:
                return self._rows(blob, *header)
            document = True
        if document:
            return self._document(blob) if blob.size <= WHOLE_BYTES else None
        if name in _TIMED:
            return None
        if name == "json":
            return text_json.from_document(
                blob, self._picker, encoding=config.encoding, records=config.records, limits=self.limits
            )
        if name in _COLUMNAR:
            return text_table.from_columnar(blob, name, config.field, self._picker, self.limits)
        if name == "jsonl" or name in _PLAIN:
            return self._lines_of(blob, name)
        if name == "html":
            return self._page(html_text(self._whole(blob), config.encoding, item.headers.get("media_type")))
        if name in _XML:
            return self._page(xml_text(self._whole(blob), config.encoding))
        raise RecordError(f"unsupported:{name}", f"{name} files are not text")

    def _lines_of(self, blob: Blob, name: str) -> Iterator[Document | Bad]:
        with blob.open() as stream:
            lines = text_json.lines_of_stream(stream, self.limits.max_bytes // text_json.PARSED_RATIO)
            yield from text_json.from_lines(lines, self._picker) if name == "jsonl" else self._lines(lines)

    def _rows(self, blob: Blob, delimiter: str, header: list[str]) -> Iterator[Document | Bad]:
        decoded = decode(self._whole(blob), self.config.encoding)
        has_header = self.config.columns is None
        for document in text_table.from_csv(decoded.text, delimiter, header, has_header, self._picker):
            if decoded.transforms and not isinstance(document, Bad):
                document[2]["transforms"] = decoded.transforms
            yield document
        if decoded.torn_at is not None:
            yield _torn(decoded.torn_at)

    def _header(self, blob: Blob, name: str) -> tuple[str, list[str]] | None:
        """(delimiter, column names) of a table with a text column; None if the file is one document."""
        head = blob.read(1 << 20)
        decoded = decode(head, self.config.encoding)
        delimiter = text_table.delimiter_of(decoded.text, name)
        header = text_table.header_of(decoded.text, delimiter, self.config.columns)
        return (delimiter, header) if text_table.text_column(header, self.config.field) is not None else None

    def _whole(self, blob: Blob) -> bytes:
        largest = self.limits.max_bytes // 4
        if blob.size > largest:
            message = f"a table or marked-up page of {blob.size} bytes is parsed at once"
            raise RecordError("too_large", f"{message}, which the limits allow up to {largest}")
        return blob.read()

    def _page(self, page: MarkupText) -> Iterator[Document | Bad]:
        found = page.language if page.language and LANGUAGE_TAG.fullmatch(page.language) else None
        columns = {
            "language": self.config.language or found,
            "transforms": page.transforms,
            "flags": page.flags or None,
            "extra": orjson.dumps({"title": page.title}).decode() if page.title else None,
        }
        yield "{}", page.text, columns

    def _document(self, blob: Blob) -> Iterator[Document | Bad]:
        """A file that is one document."""
        decoded = decode(blob.read(), self.config.encoding)
        if not decoded.text:
            reason = "empty" if decoded.torn_at is None else "truncated"
            raise RecordError(reason, "there is no whole character in it")
        columns = {
            "language": self.config.language,
            "transforms": decoded.transforms or None,
            "flags": ["truncated"] if decoded.torn_at is not None else None,
        }
        yield "{}", decoded.text, columns
        if decoded.torn_at is not None:
            yield _torn(decoded.torn_at)

    def _large_document(self, blob: Blob) -> Iterator[Normalized]:
        """The same of one that is read twice, in flat memory: first to know how many parts there are."""
        parts = 0
        with blob.open() as stream:
            text = TextStream(stream, self.config.encoding)
            for _ in divide(text, self.config.max_chars):
                parts += 1
        columns: dict[str, Any] = {
            "language": self.config.language,
            "transforms": text.transforms or None,
            "flags": ["truncated"] if text.torn_at is not None else None,
        }
        batch, at = TextBatch(), 0
        with blob.open() as stream:
            for number, part in enumerate(divide(TextStream(stream, self.config.encoding), self.config.max_chars)):
                batch.add([part_row("{}", part, at, number, parts, columns)])
                at += len(part)
                if batch.full:
                    yield batch.finish()
        if len(batch):
            yield batch.finish()
        if text.torn_at is not None:
            yield _torn(text.torn_at)

    def _lines(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[Document | Bad]:
        """A record per line that is not blank, without its line end."""
        for byte, line in lines:
            try:
                text = decode(line.rstrip(b"\r\n"), self.config.encoding).text
            except RecordError as exc:
                yield Bad(exc.reason, f"the line at byte {byte}: {exc.message}", f'{{"byte":{byte}}}', line)
                continue
            if text and not text.isspace():
                yield f'{{"byte":{byte}}}', text, {"language": self.config.language}

    def _transcript(self, item: Item) -> Iterator[Normalized]:
        from headrace.ingest.normalizers.timed_text import TimedTextNormalizer

        settings = TimedTextNormalizer.Config(encoding=self.config.encoding, language=self.config.language)
        return TimedTextNormalizer(settings, self.limits).open(item)


def formats_of(item: Item) -> list[str]:
    """The format of each file of a group: as the connector says, else by its first bytes."""
    assert isinstance(item.data, list)
    if "formats" in item.headers:
        names = [str(name) for name in json.loads(item.headers["formats"])]
        if len(names) == len(item.data):
            return names
    return [_sniffed(blob) for blob in item.data]


def _flags(item: Item) -> tuple[str, ...]:
    """A connector that could unpack an object only in part says so."""
    return ("truncated",) if item.headers.get("truncated") else ()


def _sniffed(blob: Blob) -> str:
    with blob.open() as stream:
        return sniff_stream(stream, blob.name).name


def _torn(byte: int) -> Bad:
    return Bad("truncated", f"the text ends inside the character at byte {byte}", f'{{"byte":{byte}}}', None)
