"""Files on web servers, named one by one under a root URL.

A broken connection is taken up again where it broke, with If-Match, so a file that changed meanwhile is never joined
to its older half. A server without ranges is read from the start instead, and spooled when a reader jumps about.
The host in the pipeline is trusted; one that a redirect names must be public, which is checked on the open connection.

    [HEAD] size, etag  →  [GET] … broken at byte n  →  [GET, Range: bytes=n-, If-Match: etag] …
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from headrace.connectors.file_store import Entry, Store, changed, id_of_path, path_of_id, without_secrets
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

_TRIES = 5
_WAITS_S = (0.1, 0.5, 2.0, 5.0)
_MAX_WAIT_S = 30.0
_AGENT = "headrace"
#: Headers that tell what may be done with a page (TDM Reservation Protocol; robots; RFC 8288 license links).
EVIDENCE = (
    "tdm-reservation", "tdm-policy", "x-robots-tag", "link", "content-type", "content-language", "last-modified",
)  # fmt: skip


class RedirectRefused(SourceError):
    """A server sent us to where data may not send us."""


class HttpStore(Store):
    """The listed URLs under a root."""

    def __init__(self, root: str, urls: Sequence[str], timeout_s: float) -> None:
        parts = urlsplit(root)
        if parts.query or parts.fragment or not parts.hostname:
            message = "https://host/folder is expected, without ? and #"
            raise ConfigError(message, field="root", value=without_secrets(root))
        self._root = without_secrets(root if root.endswith("/") else root + "/")
        self._headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        self._login: str | None = None
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._login = "Basic " + base64.b64encode(user.encode()).decode()
        self._timeout_s = timeout_s
        self._opener = _opener(parts.hostname)
        #: id → query; a query may be a signature, so it stands in no id.
        self._queries: dict[str, str] = {}
        for url in urls:
            path, query = _relative(url, root if root.endswith("/") else root + "/", self._root)
            if id_of_path(path) in self._queries:
                raise ConfigError("two URLs name one path", field="urls", value=path)
            self._queries[id_of_path(path)] = query
        self._seen: dict[str, dict[str, str]] = {}

    def describe(self) -> str:
        return self._root

    def entries(self) -> Iterator[Entry]:
        ids = list(self._queries)
        if len(ids) == 1:
            yield self._listed(ids[0])
            return
        with ThreadPoolExecutor(8, "headrace-http") as pool:
            yield from pool.map(self._listed, ids)

    def planned(self, id: str, pin: str | None) -> Entry:
        now = self._listed(id)
        if pin is not None and now.pin != pin:
            raise changed(id, pin, f"{now.pin} ({now.refused[1]})" if now.refused else now.pin)
        return now

    def _listed(self, id: str) -> Entry:
        try:
            return self.entry(id)
        except FileNotFoundError as exc:
            return Entry(id, 0, "missing", ("io_error", f"the server answered {exc}"))
        except RedirectRefused as exc:
            return Entry(id, 0, "refused", ("external_reference", str(exc)))

    def _url(self, id: str) -> str:
        query = self._queries.get(id, "")
        return self._root + quote(path_of_id(id), safe="/%:@!$&'()*+,;=~-._") + (f"?{query}" if query else "")

    def entry(self, id: str) -> Entry:
        with self.request(id, "HEAD") as answer:
            headers, size = answer.headers, _total(answer.headers)
        if size is None:
            # Some servers give no length for HEAD; a range of one byte tells it.
            with self.request(id, "GET", {"Range": "bytes=0-0"}) as answer:
                size = _total(answer.headers)
            if size is None:
                raise SourceError(f"{id}: the server does not say how long it is")
        self._seen[id] = {name.lower(): value for name, value in headers.items()}
        return Entry(id, size, _pin(headers, size))

    def headers(self, id: str) -> Mapping[str, str]:
        seen = self._seen.get(id, {})
        evidence = {name: seen[name] for name in EVIDENCE if name in seen}
        out = {"uri": without_secrets(self._url(id)), "rights": canonical_json(evidence).decode()}
        if "content-type" in seen:
            out["media_type"] = seen["content-type"].split(";")[0].strip()
        return out

    def open(self, id: str, pin: str | None, known: Entry | None = None) -> BinaryIO:
        now = known or self.planned(id, pin)
        stream: Any = io.BufferedReader(_HttpStream(self, id, now), 1 << 18)
        return stream  # type: ignore[no-any-return]

    def request(self, id: str, method: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        """One answer, tried again while the server is busy. Raises: FileNotFoundError for 4xx, SourceError."""
        url = self._url(id)
        asked = urllib.request.Request(url, method=method, headers={**self._headers, **(headers or {})})
        if self._login is not None:
            asked.add_unredirected_header("Authorization", self._login)  # ours is for this server alone
        for attempt in range(_TRIES):
            try:
                return self._opener.open(asked, timeout=self._timeout_s)  # type: ignore[no-any-return]
            except urllib.error.HTTPError as exc:
                exc.close()
                if exc.code == 412:
                    raise SourceChanged(f"{id} was replaced while it was read") from exc
                if exc.code in (405, 501) and method == "HEAD":
                    return self.request(id, "GET", {"Range": "bytes=0-0"})
                if 300 <= exc.code < 400:
                    raise RedirectRefused(f"{id}: {exc.reason}") from exc
                if exc.code < 500 and exc.code not in (408, 425, 429):
                    raise FileNotFoundError(f"{exc.code} {exc.reason}") from exc
                failure: Exception = exc
                wait = _retry_after(exc.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as exc:
                if isinstance(exc, urllib.error.URLError) and isinstance(exc.reason, SourceError):
                    raise exc.reason from exc
                failure, wait = exc, None
            if attempt + 1 < _TRIES:
                time.sleep(_WAITS_S[attempt] if wait is None else wait)
        raise SourceError(f"{without_secrets(url)}: no answer after {_TRIES} tries: {failure}") from failure


def _relative(url: str, *roots: str) -> tuple[str, str]:
    """(path below the root, query) of a URL. Raises: ConfigError for one elsewhere."""
    rest = next((url[len(root) :] for root in roots if url.startswith(root)), url)
    parts = urlsplit(rest)
    if parts.scheme or parts.netloc or any(part in ("", ".", "..") for part in parts.path.split("/")):
        raise ConfigError(f"every URL must lie below the root {roots[-1]}", field="urls", value=without_secrets(url))
    return parts.path, parts.query


def _total(headers: Message) -> int | None:
    """The size of the whole file, from the answer to a whole or a part of it."""
    said = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    return int(said) if said.isdigit() else None


def _pin(headers: Message, size: int) -> str:
    if headers.get("ETag"):
        return f"etag:{headers['ETag']}"
    return f"size:{size},changed:{headers.get('Last-Modified', 'unknown')}"


def _retry_after(value: str | None) -> float | None:
    return min(float(value), _MAX_WAIT_S) if value and value.isdigit() else None


class _HttpStream(io.RawIOBase):
    """A file of a server as a seekable stream."""

    def __init__(self, store: HttpStore, id: str, entry: Entry) -> None:
        self._store = store
        self._id = id
        self._entry = entry
        self._at = 0
        self._answer: http.client.HTTPResponse | None = None
        self._answer_at = 0  #: offset of the next byte that the answer gives
        self._spooled: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        size = min(len(view), self._entry.size - self._at)
        if size <= 0:
            return 0
        failures = 0
        while True:
            try:
                data = self._read(size)
            except (OSError, http.client.HTTPException) as exc:
                data, cause = b"", exc
            else:
                cause = OSError("the connection ended early")
            if data:
                view[: len(data)] = data
                self._at += len(data)
                return len(data)
            self._drop()
            failures += 1
            if failures == _TRIES:
                raise SourceError(f"{self._id}: broken off at byte {self._at} {_TRIES} times: {cause}") from cause
            time.sleep(_WAITS_S[failures - 1])

    def _read(self, size: int) -> bytes:
        if self._spooled is None and (self._answer is None or self._answer_at != self._at):
            self._ask()
        if self._spooled is not None:
            self._spooled.seek(self._at)
            return self._spooled.read(size)
        assert self._answer is not None
        data = self._answer.read(size)
        self._answer_at += len(data)
        return data

    def _ask(self) -> None:
        """Open an answer that gives the bytes from `_at` on."""
        self._drop()
        pinned = self._entry.pin.removeprefix("etag:") if self._entry.pin.startswith("etag:") else ""
        headers = {"Range": f"bytes={self._at}-"} if self._at else {}
        if pinned and not pinned.startswith("W/"):
            headers["If-Match"] = pinned
        try:
            answer = self._store.request(self._id, "GET", headers)
        except FileNotFoundError as exc:
            raise SourceChanged(f"{self._id}: the server now answers {exc}") from exc
        now = _pin(answer.headers, self._entry.size)
        if now != self._entry.pin and answer.headers.get("ETag" if pinned else "Last-Modified"):
            answer.close()
            raise changed(self._id, self._entry.pin, now)
        if answer.status == 206:
            begin = (answer.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
            if begin != str(self._at):
                answer.close()
                raise SourceError(f"{self._id}: byte {self._at} was asked for, the server sent from {begin}")
            self._answer, self._answer_at = answer, self._at
        elif self._at == 0:
            self._answer, self._answer_at = answer, 0
        else:
            with answer:
                self._spool(answer)

    def _spool(self, answer: http.client.HTTPResponse) -> None:
        """Keep the whole file: the server knows no ranges, so this is the last time it is asked."""
        file = tempfile.TemporaryFile(prefix="headrace-")  # noqa: SIM115 - closed with the stream
        left = self._entry.size
        while left and (data := answer.read(min(left, 1 << 20))):
            file.write(data)
            left -= len(data)
        if left:
            file.close()
            raise OSError("the connection ended early")
        self._spooled = file  # type: ignore[assignment]

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def close(self) -> None:
        if not self.closed:
            self._drop()
            if self._spooled is not None:
                self._spooled.close()
        super().close()


# -- who may be talked to ----------------------------------------------------------------------------------------------


def _opener(trusted: str) -> urllib.request.OpenerDirector:
    """An opener that connects to the trusted host, and to others only at public addresses."""
    proxied = bool(urllib.request.getproxies())

    def check(connection: http.client.HTTPConnection) -> None:
        # Behind a proxy the peer is the proxy, which then decides.
        if proxied or connection.host == trusted or connection.sock is None:
            return
        address = connection.sock.getpeername()[0]
        if not ipaddress.ip_address(address.partition("%")[0]).is_global:
            connection.close()
            raise RedirectRefused(f"a redirect led to {connection.host}, which is the private address {address}")

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            check(self)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            check(self)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req)

    return urllib.request.build_opener(PlainHandler, SecureHandler, _NoDowngrade)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects between web addresses, never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (scheme == "http" and req.type == "https"):
            raise RedirectRefused(f"{without_secrets(req.full_url)} redirects to {without_secrets(newurl)}: refused")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        login = req.unredirected_hdrs.get("Authorization")
        if following is not None and login and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
            following.add_unredirected_header("Authorization", login)  # the same server, elsewhere
        return following
