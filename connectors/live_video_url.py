"""The address of a live stream: which kind it is, what libav may open for it, and how to name it without its secrets.

A camera's address often carries a password (`rtsp://user:secret@host/`), a stream key (the last part of an RTMP path)
or a signature (the query of an HLS address). `masked` leaves all three out; nothing else of the connector prints one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["rtsp", "rtmp", "srt", "http", "udp", "tcp"]

KINDS: dict[str, Kind] = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "rtmp": "rtmp",
    "rtmps": "rtmp",
    "srt": "srt",
    "http": "http",
    "https": "http",
    "udp": "udp",
    "tcp": "tcp",
}
_DEFAULT_PORT = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}
#: What libav may open for an address that it opens itself. The others are read through sockets of our own.
PROTOCOLS = {
    "rtsp": "tcp",
    "rtsps": "tcp,tls",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tls,tcp",
    "srt": "srt",
}
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True)
class Address:
    """A parsed address; its repr shows no secret."""

    url: str = field(repr=False)
    scheme: str
    host: str
    port: int | None
    path: str = field(repr=False)
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)

    @property
    def kind(self) -> Kind:
        """How it is read."""
        return KINDS[self.scheme]

    @property
    def masked(self) -> str:
        """The address as people may see it: no user, no password, no query, no stream key."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None and self.port != _DEFAULT_PORT.get(self.scheme) else ""
        path = self.path
        if self.kind == "rtmp":  # the last part is what lets one publish
            path = path.rsplit("/", 1)[0] + "/…" if path.count("/") > 1 else path
        return f"{self.scheme}://{host}{port}{path}"

    def without_secrets(self, text: str) -> str:
        """`text` without this address and its parts that are secret."""
        for secret in (self.url, self.user, self.password):
            if secret:
                text = text.replace(secret, "…")
        return text


def parse(url: str) -> Address:
    """An address. Raises: ValueError that says what would be right, and never repeats the address."""
    if _CONTROL.search(url):
        raise ValueError("the url holds a space or a control character: encode it as %20")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError("the url cannot be parsed: scheme://user:password@host:port/path is expected") from exc
    scheme = parts.scheme.lower()
    if scheme not in KINDS:
        raise ValueError(f"the url's scheme is {scheme[:20]!r}: one of {', '.join(KINDS)} is expected")
    host = (parts.hostname or "").lower()
    if scheme == "udp":  # udp://@239.1.1.1:5000 is how players write it; udp://:5000 is any address of ours
        host = host or "0.0.0.0"
    if not host:
        raise ValueError(f"the url names no host: {scheme}://host:port/path is expected")
    if scheme in ("udp", "tcp", "srt") and port is None:
        raise ValueError(f"the url names no port: {scheme}://host:port is expected")
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return Address(url, scheme, host, port or _DEFAULT_PORT.get(scheme), parts.path, user, password)
