"""An HTTP client for APIs: it goes to allowed hosts only, takes bounded answers, and says when it may come again.

One request at a time, GET or POST of JSON; gzip is undone within a budget. Redirects and the links that answers name
are followed to the pipeline's own host and to `allow_hosts` (live_video_http.Http.allowed is the guard), never from
https to http; token and headers go to the origin of the pipeline's URL and nowhere else. Proxies of the environment are
used.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from headrace.connectors.byte_source import CHUNK_BYTES, ByteSource
from headrace.connectors.expand import Budget, expand
from headrace.connectors.live_video_http import Http
from headrace.connectors.live_video_url import Address, parse
from headrace.schemas.errors import ConfigError, HeadraceError, RateLimited, RecordError, SourceError

_AGENT = "headrace"
_LONGEST_ANSWER_S = 600.0  # a server that drips a byte a second is not waited for
_LONGEST_WAIT_S = 3600.0
_WAIT_S = 60.0  # of a 429 that does not say how long
_SHOWN = 200  # characters of an error's body that are told


def http_address(url: str) -> Address:
    """An http(s) address. Raises: ValueError that says what would be right, and never repeats the address."""
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError("a url that begins with http:// or https:// is expected")
    address = parse(url)
    if address.user is not None or address.password is not None:
        raise ValueError("user and password do not belong in the url: use `token` or `headers`")
    return address


class NotThere(SourceError):
    """The server knows no such thing (404, 410)."""


@dataclass(frozen=True)
class Answer:
    """What a server said. `url`: where it came from in the end; `body`: as it was meant, content coding undone."""

    url: str
    status: int
    headers: Message
    body: bytes

    @property
    def unchanged(self) -> bool:
        """Whether the server says that what we have is current."""
        return self.status == 304

    def date_us(self, name: str) -> int | None:
        """A header that holds an HTTP date, as microseconds since 1970."""
        moment = _http_date(self.headers.get(name))
        return None if moment is None else int(moment.timestamp()) * 1_000_000


class ApiClient:
    """Asks one API."""

    def __init__(
        self,
        url: str,
        *,
        allow_hosts: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        timeout_s: float = 30,
        max_body_bytes: int = 16 << 20,
        max_ratio: int = 100,
    ) -> None:
        self.address = http_address(url)
        self._guard = Http(self.address, allow_hosts, timeout_s)
        self._own = _origin(url)
        self._private = dict(headers or {})
        if token is not None:
            self._private["Authorization"] = f"Bearer {token}"
        self._secrets = [s for s in (token, *(headers or {}).values()) if s]
        self._timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes
        self._max_ratio = max_ratio
        self._opener = urllib.request.build_opener(_Redirects(self))

    @property
    def shown(self) -> str:
        """The API as people may see it: no user, password or query."""
        return self.address.masked

    def get(self, url: str, conditions: Mapping[str, str] | None = None) -> Answer:
        """The answer to GET. `conditions`: If-None-Match, If-Modified-Since. Raises: SourceError, ConfigError."""
        return self._ask(url, None, dict(conditions or {}))

    def post(self, url: str, document: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to POST of a JSON document. Raises: SourceError, ConfigError."""
        return self._ask(url, orjson.dumps(document), {"Content-Type": "application/json", **(headers or {})})

    def allowed(self, url: str) -> str:
        """The address, if data may send us there. Raises: ConfigError."""
        return self._guard.allowed(url)

    def is_own(self, url: str) -> bool:
        """Whether an address is of the pipeline's own origin, which may be told its secrets."""
        return _origin(url) == self._own

    # -- one request --------------------------------------------------------------------------------------------------

    def _ask(self, url: str, data: bytes | None, headers: dict[str, str]) -> Answer:
        self.allowed(url)
        private = self._private if self.is_own(url) else {}
        said = {"User-Agent": _AGENT, "Accept-Encoding": "gzip", "Accept": "*/*", **private, **headers}
        try:
            asked = urllib.request.Request(url, data, said, method="GET" if data is None else "POST")
            with self._open(asked) as answer:
                status = int(answer.status)
                if status == 304:
                    return Answer(url, status, answer.headers, b"")
                if not 200 <= status < 300:
                    raise self._refusal(status, answer)
                return Answer(answer.url, status, answer.headers, self._body(answer))
        except HeadraceError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as exc:
            reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
            raise SourceError(f"{self.shown}: {self._clean(str(reason) or type(exc).__name__)}") from exc

    def _open(self, asked: urllib.request.Request) -> Any:
        try:
            return self._opener.open(asked, timeout=self._timeout_s)
        except urllib.error.HTTPError as exc:
            return exc  # which is an answer, too

    def _body(self, answer: Any) -> bytes:
        coding = (answer.headers.get("Content-Encoding") or "").strip().lower()
        if coding not in ("", "identity", "gzip", "x-gzip"):
            raise SourceError(f"{self.shown}: Content-Encoding {coding[:40]!r} was not asked for; gzip is read")
        chunks = self._chunks(answer)
        if coding in ("gzip", "x-gzip"):
            chunks = self._expanded(chunks)
        body = bytearray()
        for chunk in chunks:
            body += chunk
            if len(body) > self._max_body_bytes:
                raise ConfigError(
                    f"{self.shown}: an answer of more than {self._max_body_bytes} bytes is refused: ask for less, or"
                    " raise `max_body_bytes`"
                )
        return bytes(body)

    def _chunks(self, answer: Any) -> Iterator[bytes]:
        deadline = time.monotonic() + _LONGEST_ANSWER_S
        while chunk := answer.read1(CHUNK_BYTES):
            yield chunk
            if time.monotonic() > deadline:
                raise SourceError(f"{self.shown}: an answer that takes longer than {_LONGEST_ANSWER_S:.0f} s")
        if answer.length:  # http.client says nothing when a connection ends early
            raise SourceError(f"{self.shown}: the answer broke off {answer.length} bytes too early")

    def _expanded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from expand("gzip", ByteSource(chunks), Budget(self._max_ratio, self._max_body_bytes + 1))
        except RecordError as exc:
            if exc.reason in ("bomb", "too_large"):
                raise ConfigError(f"{self.shown}: an answer is refused: its gzip {exc.message}") from exc
            raise SourceError(f"{self.shown}: the answer is damaged: its gzip {exc.message}") from exc

    def _refusal(self, status: int, answer: Any) -> HeadraceError:
        """The error that an answer which is none means."""
        said = f"{self.shown}: HTTP {status} {str(answer.reason)[:80]}"
        wait = retry_after(answer.headers.get("Retry-After"), answer.headers.get("Date"))
        if status == 429 or (status == 503 and wait is not None):
            seconds = _WAIT_S if wait is None else wait
            return RateLimited(f"{said}: asks to wait {seconds:.0f} s", retry_after=seconds)
        if status in (401, 403):
            return ConfigError(f"{said}: `token` or `headers` do not let us in")
        if 300 <= status < 400:
            return SourceError(f"{said}: a redirect that cannot be followed")
        text = "".join(c if c.isprintable() else " " for c in answer.read(4 * _SHOWN).decode("utf-8", "replace"))
        text = self._clean(" ".join(text.split()))[:_SHOWN]
        return (NotThere if status in (404, 410) else SourceError)(f"{said}: {text}" if text else said)

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return self.address.without_secrets(text)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed hosts; secrets stay at the origin they are for."""

    max_redirections = 5

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self._client.allowed(newurl)
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and not self._client.is_own(newurl):
            made.headers = {name: value for name, value in made.headers.items() if name in _PUBLIC}
        return made


_PUBLIC = ("User-agent", "Accept", "Accept-encoding")  #: as urllib spells them


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _http_date(value: str | None) -> datetime | None:
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def retry_after(said: str | None, date: str | None) -> float | None:
    """Seconds that Retry-After asks to wait (RFC 9110 section 10.2.3), at most an hour; None if it does not say.

    date: the answer's own Date, since the clocks of a server and ours may differ.
    """
    value = (said or "").strip()
    if value.isdecimal():
        return min(float(value[:9]), _LONGEST_WAIT_S)
    until = _http_date(value)
    if until is None:
        return None
    now = _http_date(date) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), _LONGEST_WAIT_S)
