"""A small NATS client: one blocking connection, raw messages, no threads.

    <- INFO {...}                       -> CONNECT {...}   PING      <- PONG
    -> SUB subject sid                  -> PUB subject reply size\\r\\npayload
    <- MSG subject sid [reply] size\\r\\npayload
    <- HMSG subject sid [reply] header_size total_size\\r\\nheaders, payload
    <- -ERR 'text'

The library nats-py is not used, for a reason: its asyncio reader (2.16) ends for good at a message whose subject is not
UTF-8, so that one message stops a stream for ever; and it keeps one value of a repeated header. A reader that may wait
in a thread of its own needs no event loop either. Left out: reconnecting, discovery of servers, WebSocket, publishing
with headers. Source: docs.nats.io/reference/reference-protocols/nats-protocol, ADR-4 (headers).
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from headrace.schemas.errors import ConfigError, HeadraceError, MissingExtra, SourceError

T = TypeVar("T")
_CHUNK = 1 << 18
_MAX_LINE = 1 << 20  #: an INFO line of a large cluster has some kilobytes
_MAX_MESSAGE = 256 << 20  #: a server's max_payload may be 64 MiB
_CREDS = re.compile(rb"-----BEGIN ([A-Z ]+)-----\s*([A-Za-z0-9._=\-]+)\s*-+END")


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came: subjects are bytes, since a server does not insist on UTF-8."""

    subject: bytes
    sid: int
    reply: bytes
    head: bytes  #: the header block, `NATS/1.0 …`, or nothing
    payload: bytes

    def status(self) -> tuple[int, str]:
        """(code, text) of an answer of the server itself; (0, "") for others."""
        line = self.head.partition(b"\r\n")[0].split(None, 2)
        if len(line) < 2 or not line[1].isdigit():
            return 0, ""
        return int(line[1]), line[2].decode("utf-8", "replace") if len(line) > 2 else ""

    def headers(self) -> dict[str, str]:
        """Name → value; the values of a repeated name are joined by commas, bytes that are not UTF-8 stand as \\xNN."""
        out: dict[str, str] = {}
        for line in self.head.split(b"\r\n")[1:]:
            name, colon, value = line.partition(b":")
            if colon:
                key, text = (part.strip().decode("utf-8", "backslashreplace") for part in (name, value))
                out[key] = f"{out[key]}, {text}" if key in out else text
        return out


@dataclass(frozen=True)
class Login:
    """How to reach a server, and who we are."""

    urls: tuple[str, ...]
    timeout_s: float
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Wire:
    """One connection. Raises SourceError when it breaks, ConfigError when the server refuses us."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._buffer = bytearray()
        self._at = 0
        self._sids = 0
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self.url = ""
        self.used = time.monotonic()
        self._socket = self._connect_any()

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message that this server takes."""
        return int(self._info.get("max_payload", 1 << 20))

    # -- what callers do ----------------------------------------------------------------------------------------------

    def new_inbox(self) -> str:
        """A subject of our own, not used before."""
        return f"{self._inbox}.{self._sids + 1}"

    def subscribe(self, subject: str) -> int:
        """The number of a new subscription."""
        self._sids += 1
        self._send(b"SUB %b %d\r\n" % (subject.encode(), self._sids))
        return self._sids

    def unsubscribe(self, sid: int) -> None:
        """Nothing more will come for it, except what is on its way."""
        self._send(b"UNSUB %d\r\n" % sid)

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Send; that it arrived is not known."""
        self._send(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload))

    def request(self, subject: str, payload: bytes) -> Message:
        """The answer. Messages of other subscriptions are dropped meanwhile, so ask only between pulls."""
        inbox = self.new_inbox()
        sid = self.subscribe(inbox)
        self.publish(subject, payload, inbox)
        deadline = time.monotonic() + self._login.timeout_s
        while True:
            message = self.next(deadline)
            if message is None:
                raise SourceError(f"{self.url} did not answer {subject} within {self._login.timeout_s:g} s")
            if message.sid == sid:
                self.unsubscribe(sid)
                return message

    def next(self, deadline: float) -> Message | None:
        """The next message; None if none came until `deadline` (of time.monotonic)."""
        while True:
            line = self._line(deadline)
            if line is None:
                return None
            words = line.split()
            verb = words[0].upper() if words else b""
            if verb in (b"MSG", b"HMSG"):
                return self._message(verb == b"HMSG", words)
            if verb == b"PING":
                self._send(b"PONG\r\n")
            elif verb == b"-ERR":
                raise self._refusal(line)
            elif verb not in (b"PONG", b"+OK", b"INFO"):
                raise SourceError(f"{self.url} does not speak NATS: it sent {bytes(line[:80])!r}")

    def abort(self) -> None:
        """Break the connection, waking a thread that reads from it."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is broken already

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()

    # -- connecting ---------------------------------------------------------------------------------------------------

    def _connect_any(self) -> socket.socket:
        failures = []
        for url in self._login.urls:
            self.url = url
            try:
                return self._connect(urlsplit(url))
            except SourceError as exc:
                failures.append(str(exc))
            except OSError as exc:
                failures.append(f"{url}: {exc}")
        raise SourceError(f"no NATS server can be reached: {'; '.join(failures)}")

    def _connect(self, parts: Any) -> socket.socket:
        deadline = time.monotonic() + self._login.timeout_s
        self._buffer.clear()
        self._at = 0
        self._socket = socket.create_connection((parts.hostname, parts.port or 4222), self._login.timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._info = self._first_info(deadline)
            if parts.scheme == "tls" or self._info.get("tls_required"):
                self._socket = self._secured(parts.hostname)
            self._send(b"CONNECT %b\r\nPING\r\n" % json.dumps(self._introduction()).encode())
            while (line := self._line(deadline)) is not None:
                if line.startswith(b"PONG"):
                    return self._socket
                if line[:4].upper() == b"-ERR":
                    raise self._refusal(line)
                if line.startswith(b"PING"):
                    self._send(b"PONG\r\n")
            raise SourceError(f"{self.url} did not greet us within {self._login.timeout_s:g} s")
        except BaseException:
            self._socket.close()
            raise

    def _first_info(self, deadline: float) -> dict[str, Any]:
        line = self._line(deadline)
        if line is None:
            raise SourceError(f"{self.url} did not greet us within {self._login.timeout_s:g} s")
        try:
            if not line.startswith(b"INFO "):
                raise ValueError("no INFO")
            info: dict[str, Any] = json.loads(line[5:])
        except ValueError as exc:
            raise SourceError(f"{self.url} is not a NATS server: it greets with {bytes(line[:40])!r}") from exc
        return info

    def _secured(self, host: str) -> socket.socket:
        if not (self._info.get("tls_required") or self._info.get("tls_available")):
            raise ConfigError(f"{self.url}: this server offers no TLS; use nats:// if that is meant")
        login = self._login
        try:
            context = ssl.create_default_context(cafile=login.ca_file)
            if login.cert_file:
                context.load_cert_chain(login.cert_file, login.key_file)
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigError(f"cannot use ca_file, cert_file or key_file: {exc}") from exc
        return context.wrap_socket(self._socket, server_hostname=host)

    def _introduction(self) -> dict[str, Any]:
        login = self._login
        out: dict[str, Any] = {
            "verbose": False, "pedantic": False, "lang": "python", "version": "headrace", "protocol": 1,
            "headers": True, "no_responders": True, "echo": False, "tls_required": False,
        }  # fmt: skip
        if login.creds_file:
            jwt, seed = _credentials(login.creds_file)
            out |= {"jwt": jwt, "sig": _signature(seed, str(self._info.get("nonce", "")), login.creds_file)}
        elif login.token:
            out["auth_token"] = login.token
        elif login.user is not None:
            out |= {"user": login.user, "pass": login.password or ""}
        return out

    def _refusal(self, line: bytes) -> HeadraceError:
        text = line[4:].strip().strip(b"'").decode("utf-8", "replace")
        said = f"{self.url} says: {text}"
        lower = text.lower()
        if lower.startswith(("authorization", "authentication", "user authentication")):
            return ConfigError(f"{said}. Set `user` and `password`, `token`, or `creds_file`")
        if lower.startswith("permissions violation"):
            return ConfigError(f"{said}. Reading needs $JS.API.STREAM.INFO, STREAM.MSG.GET, CONSUMER.> and _INBOX.>")
        if "tls" in lower:
            return ConfigError(f"{said}. Use tls:// in `urls`")
        return SourceError(said)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._login.timeout_s)
            self._socket.sendall(data)
        except OSError as exc:
            raise SourceError(f"{self.url}: the connection broke ({exc})") from exc

    def _fill(self, deadline: float) -> bool:
        """Read some bytes; False if none came in time."""
        wait = deadline - time.monotonic()
        try:
            self._socket.settimeout(max(wait, 0.001))
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            return False
        except OSError as exc:
            raise SourceError(f"{self.url}: the connection broke ({exc})") from exc
        if not data:
            raise SourceError(f"{self.url} closed the connection")
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += data
        self.used = time.monotonic()
        return True

    def _line(self, deadline: float) -> bytes | None:
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            if len(self._buffer) - self._at > _MAX_LINE:
                raise SourceError(f"{self.url} sends a line of more than {_MAX_LINE} bytes: this is no NATS")
            if not self._fill(deadline):
                return None
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return line

    def _message(self, headed: bool, words: list[bytes]) -> Message:
        try:
            sizes = [int(word) for word in (words[-2:] if headed else words[-1:])]
            subject, sid = words[1], int(words[2])
            reply = words[3] if len(words) == 4 + len(sizes) else b""
        except (ValueError, IndexError) as exc:
            raise SourceError(f"{self.url} sends a broken line {b' '.join(words)[:80]!r}") from exc
        total = sizes[-1]
        if not 0 <= total <= _MAX_MESSAGE:
            raise SourceError(f"{self.url} announces a message of {total} bytes; {_MAX_MESSAGE} is the most")
        # Once begun, a message must go on: silence inside it is a broken connection.
        while len(self._buffer) - self._at < total + 2:
            if not self._fill(time.monotonic() + self._login.timeout_s):
                raise SourceError(f"{self.url} fell silent within a message for {self._login.timeout_s:g} s")
        head = sizes[0] if headed else 0
        raw = bytes(self._buffer[self._at : self._at + total])
        self._at += total + 2
        return Message(subject, sid, reply, raw[:head], raw[head:])


def _credentials(path: str) -> tuple[str, bytes]:
    """(JWT, seed) of a .creds file. Raises: ConfigError."""
    try:
        with open(path, "rb") as f:
            found = dict(_CREDS.findall(f.read(1 << 20)))
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", field="creds_file") from exc
    jwt, seed = found.get(b"NATS USER JWT"), found.get(b"USER NKEY SEED")
    if jwt is None or seed is None:
        raise ConfigError(f"{path} holds no user JWT and seed, as `nsc generate creds` writes them", field="creds_file")
    return jwt.decode(), seed


def _signature(seed: bytes, nonce: str, path: str) -> str:
    try:
        import nkeys  # type: ignore[import-untyped]
    except ModuleNotFoundError as exc:
        raise MissingExtra("nkeys", "nats", need="`creds_file`") from exc
    try:
        raw = nkeys.from_seed(bytearray(seed)).sign(nonce.encode())
    except (nkeys.NkeysError, ValueError) as exc:
        raise ConfigError(f"{path} holds a seed that is not valid", field="creds_file") from exc
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
