"""What a request must be to be taken: its headers before the body is read, its content after. No input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from headrace.connectors.http_push_config import HttpPushConfig
from headrace.connectors.http_push_inbox import Request, lines_of
from headrace.connectors.http_push_problem import Problem
from headrace.connectors.message_fields import event_time_us, format_of, media_type_of

Headers = Mapping[str, Sequence[str]]

#: Parsed JSON takes ten times its bytes and more; larger bodies are checked by the record type, in its own process.
CHECKED_BYTES = 1 << 20
_LONGEST_KEY = 256


@dataclass(frozen=True)
class Said:
    """What the headers of a request say of its body."""

    media_type: str
    key: str | None
    event_time: int | None
    kept: dict[str, str]


def described(headers: Headers, config: HttpPushConfig) -> Said:
    """What a request says of its body. Raises: Problem 400, 415."""
    coding = ", ".join(headers.get("content-encoding", ())).strip().lower()
    if coding not in ("", "identity"):
        raise Problem(415, f"Content-Encoding {coding[:80]} is not taken: send the body as it is")
    given = headers.get("content-type", ())
    media_type = media_type_of(given[0]) if len(given) == 1 else None
    if media_type is None or not _taken(media_type, config):
        said = ", ".join(given)[:200] or "none"
        raise Problem(415, f"Content-Type {said} is not taken; these are: {', '.join(config.content_types)}")
    time = None
    if config.time is not None:
        stamps = headers.get(config.time.header.lower(), ())
        if stamps:
            time = event_time_us(stamps[0], config.time.unit)
            if time is None or len(stamps) > 1:
                raise Problem(400, f"{config.time.header} holds no time in the unit `{config.time.unit}`")
    kept = {f"header.{name}": ", ".join(headers[name]) for name in config.keep_headers if name in headers}
    return Said(media_type, _key(headers, config), time, kept)


def length_of(headers: Headers, config: HttpPushConfig) -> int | None:
    """The length that a request announces; None if it is sent in chunks. Raises: Problem 400, 411, 413."""
    chunked, lengths = "transfer-encoding" in headers, headers.get("content-length", ())
    if chunked and lengths:
        # RFC 9112 section 6.3: this is how requests are smuggled past a proxy.
        raise Problem(400, "Content-Length and Transfer-Encoding exclude each other")
    if chunked:
        return None
    if not lengths:
        raise Problem(411, "a Content-Length is expected, or Transfer-Encoding: chunked")
    length = int(lengths[0])  # h11 has checked that it is one number
    if length > config.max_body_bytes:
        raise Problem(413, f"the body has {length} bytes; at most {config.max_body_bytes} are taken")
    return length


def whole(body: bytes, said: Said, config: HttpPushConfig) -> Request:
    """The request that goes to the reader. Raises: Problem 422 when the body is not what its type says."""
    known = format_of(said.media_type)
    by_line = config.split == "lines" and known == "jsonl"
    headers = {"media_type": said.media_type, **said.kept}
    if known is not None:
        # A line of NDJSON is JSON; only the body as a whole is NDJSON.
        headers["format"] = "json" if by_line else known
    items = 1
    if known == "jsonl":
        items = 0
        for line in lines_of(body):
            items += 1
            _check_json(line, f"line {items}")
    elif known == "json":
        _check_json(body, "the body")
    if not body or items == 0:
        raise Problem(422, "the body is empty")
    return Request(body, items if by_line else 1, by_line, said.key, said.event_time, headers)


def _check_json(text: bytes, what: str) -> None:
    if len(text) > CHECKED_BYTES:
        return
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise Problem(422, f"{what} is not JSON: {exc}") from exc


def _taken(media_type: str, config: HttpPushConfig) -> bool:
    return any(
        pattern in ("*/*", media_type) or (pattern.endswith("/*") and media_type.startswith(pattern[:-1]))
        for pattern in config.content_types
    )


def _key(headers: Headers, config: HttpPushConfig) -> str | None:
    """The Idempotency-Key, with or without the quotes that its draft standard gives it. Raises: Problem 400."""
    values = headers.get("idempotency-key", ())
    if not values:
        if config.require_key:
            raise Problem(400, "an Idempotency-Key header is expected, the same when a request is sent again")
        return None
    key = values[0].strip()
    if len(key) > 1 and key.startswith('"') and key.endswith('"'):
        key = key[1:-1]
    if len(values) > 1 or not key or len(key) > _LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise Problem(400, f"an Idempotency-Key is one value of 1 to {_LONGEST_KEY} printable ASCII characters")
    return key
