"""The payloads of web archives as items: what a crawl fetched, with the evidence of its rights.

One item per response, resource or conversion record. Requests, metadata and revisits say nothing of their own and are
passed over; so are redirects and answers without a body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from headrace.connectors.blobs import spool
from headrace.connectors.byte_source import ByteSource
from headrace.connectors.containers import Bounds, in_turn, locator, sniff_source
from headrace.connectors.contract import Blob, Broken, BytesBlob, Item, Read
from headrace.connectors.http_payload import http_message
from headrace.connectors.http_store import EVIDENCE
from headrace.connectors.sniff import FORMATS, Format
from headrace.connectors.warc_reader import WebDamage, WebRecord, web_records
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

_YIELDED = frozenset({"response", "resource", "conversion"})
#: What a server's word makes of text that its bytes leave open.
_BY_MEDIA_TYPE = {
    "text/html": "html", "application/xhtml+xml": "html", "text/csv": "csv", "text/markdown": "markdown",
    "text/vtt": "webvtt",
}  # fmt: skip


class _Payload:
    """A record's payload: its status, evidence, format and bytes still to be read."""

    def __init__(self, record: WebRecord, bounds: Bounds) -> None:
        self.status: int | None = None
        fields = {"content-type": record.content_type} if record.content_type else {}
        self.body: ByteSource = record.block
        message = http_message(record.block, bounds.budget) if record.type == "response" else None
        if message is not None:
            self.status, fields, self.body = message.status, message.headers, message.body
        self.media_type = fields.get("content-type", "").split(";")[0].strip().lower()
        evidence: dict[str, Any] = {name: fields[name] for name in EVIDENCE if name in fields}
        if self.status is not None:
            evidence["status"] = self.status
        self.rights = canonical_json(evidence).decode()
        found = sniff_source(self.body, re.split("[?#]", record.uri, maxsplit=1)[0].rsplit("/", 1)[-1])
        if found.name in ("text", "xml") and self.media_type in _BY_MEDIA_TYPE:
            found = FORMATS[_BY_MEDIA_TYPE[self.media_type]]
        self.format: Format = found

    def is_nothing(self) -> bool:
        """Whether no body was to be expected, or none came with a status that says so."""
        return self.body.at_end() and self.body.damage is None and not (self.status is None or 200 <= self.status < 204)


def web_formats(stream: BinaryIO, gzipped: bool, bounds: Bounds, most: int) -> Iterator[Format]:
    """The formats of the first payloads, at most `most`, without keeping any."""
    for event in web_records(stream, gzipped, (0, 0), bounds.budget):
        if isinstance(event, WebRecord) and _is_wanted(event):
            try:
                payload = _Payload(event, bounds)
            except RecordError:
                continue  # read() tells of it
            if not payload.is_nothing():
                yield payload.format
                most -= 1
        if most == 0:
            return


def _is_wanted(record: WebRecord) -> bool:
    return record.type in _YIELDED and not record.uri.startswith(("dns:", "whois:"))


def web_reads(
    stream: BinaryIO, gzipped: bool, id: str, after: Any, bounds: Bounds, keep: Callable[[Format], bool], tell: bool
) -> Iterator[Read]:
    """Items and damage behind the position `after` (None, [offset, skip], or one inside a record).

    keep: whether a payload of a format is wanted. tell: whether damage that belongs to no payload is.
    """
    resume = after if isinstance(after, dict) else None
    start = (resume["after"] if resume else after) or [0, 0]
    waiting: _Waiting | None = None
    broken: list[Broken] = []
    for event in web_records(stream, gzipped, (start[0], start[1]), bounds.budget):
        if isinstance(event, WebRecord):
            waiting = _Waiting.of(event, id, bounds, keep) if _is_wanted(event) else None
        elif isinstance(event, WebDamage):
            begin = list(event.begin)
            where = locator(record=begin)
            broken.append(Broken(event.reason, f"{id}: {event.message}", begin, where, event.data or None))
        else:
            if tell if waiting is None else waiting.wanted:
                yield from _flush(waiting, broken, list(event.place), resume)
            waiting, broken, resume = None, [], None


class _Waiting:
    """A record's item, held until the place after it is known."""

    def __init__(self, item: Item | None, broken: Broken | None, wanted: bool = True) -> None:
        self.item = item
        self.broken = broken
        self.wanted = wanted

    @classmethod
    def of(cls, record: WebRecord, id: str, bounds: Bounds, keep: Callable[[Format], bool]) -> _Waiting:
        begin = list(record.begin)
        where = locator(record=begin)
        try:
            payload = _Payload(record, bounds)
            if not keep(payload.format):
                return cls(None, None, wanted=False)
            if payload.is_nothing():
                return cls(None, None)
            object_id = f"{id}/{begin[0]}" + (f"+{begin[1]}" if begin[1] else "")
            blob, damage = spool(payload.body, object_id, bounds.max_object)
        except RecordError as exc:
            return cls(None, Broken(exc.reason, f"{record.uri}: {exc.message}", begin, where))
        headers = {"format": payload.format.name, "object": object_id, "uri": record.uri, "rights": payload.rights}
        if payload.media_type:
            headers["media_type"] = payload.media_type
        if "warc-truncated" in record.headers or damage is not None:
            headers["truncated"] = "1"
        broken = Broken(damage.reason, f"{record.uri}: {damage.message}", begin, where) if damage is not None else None
        if damage is not None and damage.reason in ("checksum", "bomb", "too_large"):
            return cls(None, broken)
        if blob.size == 0:
            return cls(None, broken or Broken("empty", f"{record.uri}: a body without bytes", begin, where))
        data: bytes | Blob = blob.read() if isinstance(blob, BytesBlob) else blob
        return cls(Item(data, begin, event_time=record.time_us, headers=headers), broken)


def _flush(waiting: _Waiting | None, damages: list[Broken], place: list[int], resume: Any) -> Iterator[Read]:
    """Give what one record left, the last with the place after it, the others with places inside it."""
    item = waiting.item if waiting else None
    broken = [waiting.broken] if waiting and waiting.broken else []
    if any(damage.reason == "checksum" for damage in damages):
        item = None  # its bytes are not those that were archived
    # One fault may be seen twice: by the payload's decoder and by the record's reader.
    broken = damages[:1] if damages else broken
    out: list[Read] = [*([item] if item is not None else []), *broken]
    before = item.position if item is not None else None
    yield from in_turn(out, before, place, resume)
