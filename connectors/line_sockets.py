"""The connector `line_sockets`: messages that come by TCP, UDP, a Unix socket or standard input, and by nothing again.

    tcp://127.0.0.1:5140       unix:///run/headrace/lines.sock       connections, cut into messages
    udp://127.0.0.1:5140       unixgram:///run/headrace/log.sock     a message a datagram
    stdin                                                            lines

No sender learns what became of its message, so this is at most once: what is in the air when a process dies is lost.
Nothing is read ahead: while nobody asks for items, TCP and Unix connections are held back by the kernel's buffers; of
datagrams those that do not fit are dropped, which Linux counts and a Gap tells.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import stat
import struct
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from pydantic import field_validator

from headrace.connectors.contract import Broken, Connector, ConnectorConfig, Gap, Idle, Item, Position, Read, Split
from headrace.connectors.line_sockets_frames import Frame, Frames, Framing, syslog_headers, syslog_time_us
from headrace.schemas.errors import ConfigError, SourceError
from headrace.schemas.pipeline import bytes_field, run_field

_IDLE_S = 0.5
_READ_BYTES = 1 << 16
_SO_RXQ_OVFL = 40  #: Linux: each datagram bears the number of those dropped before it (socket(7))
_TURN = 64  #: datagrams taken before connections and idle ticks have their turn
_KINDS = {
    "tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "unix": socket.SOCK_STREAM, "unixgram": socket.SOCK_DGRAM,
}  # fmt: skip


class LineSocketsConfig(ConnectorConfig):
    """Settings of the connector `line_sockets`."""

    listen: str = run_field(
        description="tcp://host:port, udp://host:port, unix:///path, unixgram:///path, stdin; senders prove nothing"
    )
    framing: Framing = bytes_field(
        "auto", description="how connections are cut: lines, octets (RFC 6587), auto; a datagram is one message"
    )
    format: str | None = bytes_field(
        None, description="what a message is: json, text, csv …; syslog for text whose head is told in headers"
    )
    max_message_bytes: int = bytes_field(64 << 10, ge=1, description="a longer message is refused as too_large")
    max_connections: int = run_field(
        256, ge=1, description="more wait in the kernel; each may hold up to max_message_bytes + 64 KiB of memory"
    )
    receive_buffer_bytes: int = run_field(
        4 << 20, ge=1 << 12, description="udp, unixgram: asked of the kernel for datagrams that wait"
    )

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        if value == "stdin":
            return value
        parts = urlsplit(value)
        try:
            inet = parts.scheme in ("tcp", "udp") and bool(parts.hostname) and parts.port is not None
        except ValueError as exc:
            raise ValueError(f"`{value}`: {exc}") from exc
        local = parts.scheme in ("unix", "unixgram") and not parts.netloc and len(parts.path) > 1
        if not (inet and parts.path in ("", "/") and parts.username is None) and not local:
            raise ValueError(f"`{value}`: tcp://host:port, udp://host:port, unix:///path, unixgram:///path or stdin")
        return value


class LineSockets(Connector):
    """Lines and syslog messages from sockets and standard input, as they come: at most once."""

    Config = LineSocketsConfig
    bounded = False
    replay = "none"
    ordering = "none"
    acknowledges = False
    example = "{type: line_sockets, listen: 'udp://127.0.0.1:5140', format: syslog}"

    def __init__(self, config: LineSocketsConfig) -> None:
        super().__init__(config)
        self._closed = threading.Event()
        self._reads = 0

    def describe(self) -> str:
        return f"line_sockets {self.config.listen.partition(':')[0]}"

    def splits(self) -> Iterable[Split]:
        yield Split("messages", bounded=False)

    def probe(self) -> None:
        """Listens for a moment. Raises: SourceError, also if this stream is listening already."""
        if self.config.listen != "stdin":
            with contextlib.closing(_Listener(self.config)):
                pass

    def end_of(self, split: Split) -> Position:
        """None: what senders will send is not known before it comes."""
        return None

    def close(self) -> None:
        self._closed.set()

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        """What comes from now on; `after` means nothing to a sender."""
        self._reads += 1
        read, number = self._reads, 0
        made = _Stdin(self.config) if self.config.listen == "stdin" else _Listener(self.config)
        with contextlib.closing(made) as here:
            while not self._closed.is_set():
                quiet = True
                for frame, peer in here.take(_IDLE_S):
                    quiet, number = False, number + 1
                    yield self._read_of(frame, peer, [read, number])
                    if self._closed.is_set():
                        return
                if quiet:
                    yield Idle()

    def _read_of(self, frame: Frame | int, peer: str, position: Position) -> Read:
        if isinstance(frame, int):
            return Gap("the kernel dropped datagrams: they came faster than they were read", position, frame)
        if frame.reason is not None:
            message = f"{frame.message} (from {peer})" if peer else frame.message
            return Broken(frame.reason, message, position, "{}", frame.data)
        headers = {"peer": peer} if peer else {}
        if self.config.format == "syslog":
            headers |= {"format": "text", **syslog_headers(frame.data)}
        elif self.config.format is not None:
            headers["format"] = self.config.format
        return Item(frame.data, position, event_time=syslog_time_us(headers), headers=headers)


class _Listener:
    """A bound socket, and the connections that it accepted."""

    def __init__(self, config: Any) -> None:
        parts = urlsplit(config.listen)
        self._config = config
        self._datagrams = _KINDS[parts.scheme] == socket.SOCK_DGRAM
        self._path = parts.path if parts.scheme.startswith("unix") else None
        self._selector = selectors.DefaultSelector()
        self._accepting = False
        self._dropped = 0
        self._socket = _bound(config.listen, self._path, parts)
        if self._datagrams:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, config.receive_buffer_bytes)
            if sys.platform == "linux":
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        else:
            self._socket.listen(128)
        self._socket.setblocking(False)
        self._accept(True)

    def take(self, timeout_s: float) -> Iterator[tuple[Frame | int, str]]:
        """(message or number of dropped ones, address of its sender) of what is there within the time."""
        for key, _ in self._selector.select(timeout_s):
            if key.data is not None:
                yield from self._receive(key.fileobj, *key.data)
            elif self._datagrams:
                for _ in range(_TURN):
                    got = list(self._datagram())
                    yield from got
                    if not got:
                        break
            else:
                self._welcome()

    def _accept(self, wanted: bool) -> None:
        if wanted and not self._accepting:
            self._selector.register(self._socket, selectors.EVENT_READ)
        elif self._accepting and not wanted:
            self._selector.unregister(self._socket)
        self._accepting = wanted

    def _welcome(self) -> None:
        try:
            connection, address = self._socket.accept()
        except OSError:
            return  # it went away again, or there are no more descriptors: it waits for the next turn
        connection.setblocking(False)
        frames = Frames(self._config.framing, self._config.max_message_bytes)
        self._selector.register(connection, selectors.EVENT_READ, (frames, _shown(address)))
        # One entry of the map is the listening socket.
        self._accept(len(self._selector.get_map()) - 1 < self._config.max_connections)

    def _receive(self, connection: Any, frames: Frames, peer: str) -> Iterator[tuple[Frame | int, str]]:
        cut = False
        try:
            data = connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data, cut = b"", True
        got = list(frames.feed(data) if data else frames.end(cut))
        if not data or frames.broken:
            self._selector.unregister(connection)
            connection.close()
            self._accept(True)
        for frame in got:
            yield frame, peer

    def _datagram(self) -> Iterator[tuple[Frame | int, str]]:
        limit = self._config.max_message_bytes
        try:
            data, ancillary, flags, address = self._socket.recvmsg(limit + 1, 64)
        except BlockingIOError:
            return
        except OSError as exc:
            raise SourceError(f"cannot receive at {self._config.listen}: {exc.strerror}") from exc
        peer = _shown(address)
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_RXQ_OVFL):
                (total,) = struct.unpack("=I", value[:4])
                lost, self._dropped = (total - self._dropped) & 0xFFFFFFFF, total
                if lost:
                    yield lost, ""
        if flags & socket.MSG_TRUNC or len(data) > limit:
            yield Frame(data[: 1 << 16], "too_large", f"a datagram of more than {limit} bytes"), peer
        elif data := data.rstrip(b"\r\n\0"):
            yield Frame(data), peer

    def close(self) -> None:
        """Close the connections and the socket, and remove its path."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._socket.close()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


class _Stdin:
    """Standard input; when it has ended nothing more comes."""

    def __init__(self, config: Any) -> None:
        self._frames = Frames("lines" if config.framing == "auto" else config.framing, config.max_message_bytes)
        self._descriptor = os.dup(0)
        self._poll = selectors.PollSelector()  # takes files, too
        self._poll.register(self._descriptor, selectors.EVENT_READ)
        self._ended = False

    def take(self, timeout_s: float) -> Iterator[tuple[Frame | int, str]]:
        """(message, "") of what is there within the time."""
        if not self._poll.select(timeout_s) or self._ended:
            return
        data = os.read(self._descriptor, _READ_BYTES)
        if not data:
            self._ended = True
            self._poll.unregister(self._descriptor)
        for frame in self._frames.feed(data) if data else self._frames.end(cut=False):
            yield frame, ""

    def close(self) -> None:
        """Close our copy of it."""
        self._poll.close()
        os.close(self._descriptor)


def _bound(listen: str, path: str | None, parts: Any) -> socket.socket:
    """A socket bound to the address. Raises: ConfigError, SourceError."""
    kind = _KINDS[parts.scheme]
    address: Any = path
    try:
        if path is not None:
            _remove_abandoned(path, kind)
            family = socket.AF_UNIX
        else:
            family, _, _, _, address = socket.getaddrinfo(parts.hostname, parts.port, type=kind)[0]
        made = socket.socket(family, kind)
        try:
            if path is None and kind == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
        return made
    except socket.gaierror as exc:
        raise ConfigError(f"no such host: {exc.strerror}", field="listen", value=listen) from exc
    except OSError as exc:
        if exc.errno in (errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR):
            raise ConfigError(f"cannot listen there: {exc.strerror}", field="listen", value=listen) from exc
        raise SourceError(f"cannot listen at {listen}: {exc.strerror}") from exc


def _remove_abandoned(path: str, kind: int) -> None:
    """Remove the socket that a killed process left behind; one at which somebody listens stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)


def _shown(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else ""
