"""A small HTTP client for live streams: it goes to the hosts of an allow-list only, and can be stopped from outside.

Not done: proxies, cookies, compression, digest authentication. Redirects are followed where the target's host is
allowed; user and password are sent to the stream's own host and port, and nowhere else.
"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import threading
from collections.abc import Collection
from urllib.parse import urljoin, urlsplit

from headrace.connectors.live_video_url import Address
from headrace.schemas.errors import ConfigError, SourceError

_REDIRECTS = 5
_USER_AGENT = "headrace"


class Http:
    """Opens addresses under one source, one request at a time; `stop` ends the one in progress."""

    def __init__(self, source: Address, allow_hosts: Collection[str], timeout_s: float) -> None:
        self._source = source
        self._hosts = {source.host, *(host.lower() for host in allow_hosts)}
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped = False

    def allowed(self, url: str) -> str:
        """The address, if its scheme and host may be opened. Raises: ConfigError: data may not send us elsewhere."""
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").lower()
        except ValueError as exc:
            raise ConfigError(f"{self._source.masked} names an address that cannot be parsed") from exc
        if parts.scheme not in ("http", "https"):
            raise ConfigError(f"{self._source.masked} points to a {parts.scheme[:20]!r} address; only http(s) is read")
        if host not in self._hosts:
            raise ConfigError(
                f"{self._source.masked} points to the host {host[:200]!r}: it may send headrace to "
                f"{', '.join(sorted(self._hosts))} only; add the host to `allow_hosts` if it is meant"
            )
        if self._source.scheme == "https" and parts.scheme == "http":
            raise ConfigError(f"{self._source.masked} points from https to plain http on {host!r}, which is refused")
        return url

    def open(self, url: str, byte_range: tuple[int, int] | None = None) -> http.client.HTTPResponse:
        """The answer to GET; its bytes are read from it, and it is closed by the caller.

        byte_range: (first byte, count). Raises: SourceError, ConfigError.
        """
        for _ in range(_REDIRECTS):
            answer = self._get(self.allowed(url), byte_range)
            location = answer.getheader("Location")
            if answer.status in (301, 302, 303, 307, 308) and location:
                answer.close()
                url = urljoin(url, location)
                continue
            if answer.status in (401, 403):
                answer.close()
                raise ConfigError(f"{self._source.masked}: HTTP {answer.status}: its user or password is refused")
            if answer.status not in (200, 206):
                answer.close()
                raise SourceError(f"{self._source.masked}: HTTP {answer.status} {answer.reason[:100]}")
            if byte_range and answer.status != 206:
                answer.close()
                raise SourceError(f"{self._source.masked}: the server does not serve byte ranges, its playlist does")
            return answer
        raise SourceError(f"{self._source.masked}: more than {_REDIRECTS} redirects")

    def fetch(self, url: str, limit: int, byte_range: tuple[int, int] | None = None) -> bytes:
        """The whole answer, of at most `limit` bytes. Raises: SourceError, ConfigError."""
        with self.open(url, byte_range) as answer:
            try:
                data = answer.read(limit + 1)
            except (OSError, http.client.HTTPException) as exc:
                raise SourceError(f"{self._source.masked}: the answer broke off: {exc}") from exc
            missing = answer.length  # http.client says nothing when read(n) meets an early end
        if len(data) > limit:
            raise SourceError(f"{self._source.masked}: an answer of more than {limit} bytes is refused")
        if missing:
            raise SourceError(f"{self._source.masked}: the answer broke off {missing} bytes too early")
        return data

    def stop(self) -> None:
        """End the request in progress, and all later ones; callable from any thread."""
        with self._lock:
            self._stopped = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return  # it is closed already

    def _get(self, url: str, byte_range: tuple[int, int] | None) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Connection": "close"}
        if byte_range:
            headers["Range"] = f"bytes={byte_range[0]}-{byte_range[0] + byte_range[1] - 1}"
        try:
            connection: http.client.HTTPConnection
            if parts.scheme == "https":
                context = ssl.create_default_context()
                connection = http.client.HTTPSConnection(
                    parts.hostname or "", parts.port, timeout=self._timeout_s, context=context
                )
            else:
                connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=self._timeout_s)
            if self._source.user is not None and self._is_own(parts.scheme, parts.hostname, connection.port):
                pair = f"{self._source.user}:{self._source.password or ''}".encode()
                headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
            connection.connect()
            with self._lock:
                self._socket = connection.sock
                if self._stopped:
                    connection.close()
                    raise SourceError(f"{self._source.masked}: closed")
            connection.request("GET", target, headers=headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise SourceError(f"{self._source.masked}: {self._source.without_secrets(str(exc))}") from exc

    def _is_own(self, scheme: str, host: str | None, port: int) -> bool:
        return (scheme, (host or "").lower(), port) == (self._source.scheme, self._source.host, self._source.port)
