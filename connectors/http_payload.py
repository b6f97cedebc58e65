"""The payload of an archived HTTP response: headers read, chunks joined, content coding undone.

Archives disagree with their own headers: some store bodies already joined or decompressed and leave the headers as
they were. What the bytes show wins over what the headers say.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.connectors.byte_source import CHUNK_BYTES, ByteSource
from headrace.connectors.expand import Budget, expand
from headrace.connectors.warc_reader import header_fields
from headrace.schemas.errors import RecordError

_MAX_HEADER = 1 << 16
_CHUNK_SIZE = re.compile(rb"\s*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")


@dataclass(frozen=True)
class HttpMessage:
    """Status, lower-case headers, and the body as it was meant to be seen."""

    status: int
    headers: dict[str, str]
    body: ByteSource


def http_message(block: ByteSource, budget: Budget) -> HttpMessage | None:
    """The HTTP response that a block holds, or None if it begins as none. Raises: RecordError."""
    head = block.peek(_MAX_HEADER)
    status = re.match(rb"HTTP/\d(?:\.\d)? +(\d{3})", head)
    if status is None:
        return None
    found = re.search(rb"\r?\n\r?\n", head)
    if found is None:
        if len(head) == _MAX_HEADER:
            raise RecordError("corrupt", "an HTTP header that does not end within 64 KiB")
        block.skip(len(head))
        return HttpMessage(int(status[1]), header_fields(head), ByteSource(iter(())))
    block.skip(found.end())
    headers = header_fields(head[: found.start()])
    body = block
    if "chunked" in headers.get("transfer-encoding", "").lower() and _CHUNK_SIZE.match(block.peek(64)):
        body = ByteSource(_joined(block))
    for coding in reversed([c.strip().lower() for c in headers.get("content-encoding", "").split(",")]):
        body = _decoded(body, coding, budget)
    return HttpMessage(int(status[1]), headers, body)


def _joined(block: ByteSource) -> Iterator[bytes]:
    """The chunks of RFC 9112, section 7.1, joined. Raises: RecordError."""
    while True:
        line = _CHUNK_SIZE.match(block.peek(4096))
        if line is None:
            if block.at_end():
                raise block.damage or RecordError("truncated", "the chunked body ends without its last chunk")
            raise RecordError("corrupt", f"a chunk size was expected, not {block.peek(20)!r}")
        block.skip(line.end())
        left = int(line[1], 16)
        if not left:
            for _ in block.chunks():  # trailers
                pass
            return
        while left:
            data = block.read(min(left, CHUNK_BYTES))
            if not data:
                raise block.damage or RecordError("truncated", "the chunked body ends inside a chunk")
            left -= len(data)
            yield data


_MAGIC = {"gzip": b"\x1f\x8b", "x-gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}


def _decoded(body: ByteSource, coding: str, budget: Budget) -> ByteSource:
    if coding in _MAGIC:
        if not body.peek(4).startswith(_MAGIC[coding]):
            return body
        return ByteSource(_expanded(body, coding.removeprefix("x-"), budget))
    if coding == "deflate":
        return ByteSource(_deflated(body, budget))
    if coding in ("br", "compress", "x-compress"):
        return ByteSource(_refused(coding))
    return body


def _refused(coding: str) -> Iterator[bytes]:
    raise RecordError("unsupported", f"content coding {coding!r}; gzip, deflate and zstd are read")
    yield b""  # makes this a generator


def _expanded(body: ByteSource, kind: str, budget: Budget) -> Iterator[bytes]:
    yield from expand(kind, body, budget)
    if body.damage is not None:
        raise body.damage


def _deflated(body: ByteSource, budget: Budget) -> Iterator[bytes]:
    """RFC 9110 means zlib by `deflate`; some servers send it bare, some send plain text."""
    start = body.peek(2)
    zlibbed = len(start) == 2 and start[0] & 15 == 8 and int.from_bytes(start, "big") % 31 == 0
    inflate = zlib.decompressobj(15 if zlibbed else -15)
    taken = out_bytes = 0
    while not inflate.eof:
        data = inflate.unconsumed_tail or body.read(1 << 12)
        try:
            out = inflate.decompress(data, CHUNK_BYTES)
        except zlib.error as exc:
            if not out_bytes and not zlibbed:
                yield data
                yield from body.chunks()
                return
            raise RecordError("corrupt", f"deflate: {exc}") from exc
        if not data and not out:
            raise body.damage or RecordError("truncated", "the deflated body ends before its end mark")
        taken += len(data)
        out_bytes += len(out)
        if out_bytes > 64 << 20 and out_bytes > budget.max_ratio * taken:
            raise RecordError("bomb", f"the body expands more than {budget.max_ratio} to 1")
        if out:
            yield out
