"""Byte streams of MPEG-TS over UDP, TCP and HTTP through sockets of our own, as the file object that libav reads.

libav never sees an address of these, so nothing can make it open another one, and a read ends at once when the
connector is closed, which a read inside libav does not. The end of such a stream is always the end of file (libav then
gives out what it still holds); `ended` says why it came.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from headrace.connectors.live_video_http import Http
from headrace.connectors.live_video_url import Address
from headrace.schemas.errors import SourceError

#: Seconds between looks at whether the connector was closed.
_LOOK_S = 0.25
#: Room for datagrams in the kernel while the reader is busy; the kernel may grant less.
_UDP_ROOM = 8 << 20
_DATAGRAM = 1 << 16


class ByteStream(ABC):
    """What libav reads. It has no name and cannot seek."""

    def __init__(self, stall_s: float, stop: threading.Event) -> None:
        self.stall_s = stall_s
        self.stop = stop
        #: Why the end came: "stalled", "closed" (by us), or the sender's own words.
        self.ended: str | None = None

    @abstractmethod
    def read(self, size: int) -> bytes:
        """Some bytes, at most `size`; empty at the end."""

    @abstractmethod
    def close(self) -> None:
        """Free the socket."""

    def _end(self, why: str) -> bytes:
        self.ended = self.ended or why
        return b""


class SocketBytes(ByteStream):
    """The bytes of a connected TCP or a bound UDP socket."""

    def __init__(self, sock: socket.socket, stall_s: float, stop: threading.Event) -> None:
        super().__init__(stall_s, stop)
        self._socket = sock
        self._datagrams = sock.type == socket.SOCK_DGRAM
        self._held = b""

    def waits_in_vain(self) -> bool:
        """Wait for the first bytes; true if none came within `stall_s`."""
        self._held = self.read(_DATAGRAM)
        return not self._held

    def read(self, size: int) -> bytes:
        """As ByteStream.read; a datagram larger than `size` is given in pieces."""
        if not self._held and self.ended is None:  # libav asks again after an end, as for each track it flushes
            deadline = time.monotonic() + self.stall_s
            self._socket.settimeout(_LOOK_S)
            while not self._held:
                if self.stop.is_set():
                    return self._end("closed")
                if time.monotonic() > deadline:
                    return self._end("stalled")
                try:
                    self._held = self._socket.recv(_DATAGRAM)
                except TimeoutError:
                    continue
                except OSError as exc:
                    return self._end(f"the connection broke: {exc.strerror or exc}")
                if not self._held and not self._datagrams:
                    return self._end("the sender closed the connection")
        given, self._held = self._held[:size], self._held[size:]
        return given

    def close(self) -> None:
        self._socket.close()


class HttpBytes(ByteStream):
    """The body of one endless HTTP answer."""

    def __init__(self, http_: Http, answer: http.client.HTTPResponse, stall_s: float, stop: threading.Event) -> None:
        super().__init__(stall_s, stop)
        self._http = http_
        self._answer = answer
        self.head = b""  #: first bytes, read ahead to see what this is
        self.head = self.read(8)

    def read(self, size: int) -> bytes:
        if self.head:
            given, self.head = self.head[:size], self.head[size:]
            return given
        if self.stop.is_set() or self.ended is not None:
            return self._end("closed")
        try:
            data = self._answer.read1(size)
        except TimeoutError:
            return self._end("stalled")
        except (OSError, http.client.HTTPException) as exc:
            return self._end(f"the connection broke: {exc}")
        return data or self._end("closed" if self.stop.is_set() else "the sender closed the connection")

    def close(self) -> None:
        self._answer.close()


def open_udp(address: Address, interface: str | None, stall_s: float, stop: threading.Event) -> SocketBytes:
    """Datagrams sent to an address and port of ours, or to a multicast group that is joined. Raises: SourceError."""
    try:
        family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
        group = ipaddress.ip_address(place[0])
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as exc:
        raise SourceError(f"{address.masked}: {exc.strerror or exc}") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_ROOM)
        if group.is_multicast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        if group.is_multicast and family == socket.AF_INET:
            ours = socket.inet_aton(interface or "0.0.0.0")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(str(group)) + ours)
        elif group.is_multicast:
            number = socket.if_nametoindex(interface) if interface else 0
            member = socket.inet_pton(socket.AF_INET6, str(group)) + struct.pack("@I", number)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    except OSError as exc:
        sock.close()
        raise SourceError(f"{address.masked}: cannot listen there: {exc.strerror or exc}") from exc
    return SocketBytes(sock, stall_s, stop)


def open_tcp(address: Address, timeout_s: float, stall_s: float, stop: threading.Event) -> SocketBytes:
    """The bytes that a server sends. Raises: SourceError."""
    try:
        sock = socket.create_connection((address.host, address.port or 0), timeout=timeout_s)
    except OSError as exc:
        raise SourceError(f"{address.masked}: {exc.strerror or exc}") from exc
    return SocketBytes(sock, stall_s, stop)


def accept_tcp(
    address: Address, stall_s: float, stop: threading.Event, waiting: Callable[[], bool]
) -> SocketBytes | None:
    """The bytes of the first sender that connects; None if `waiting` says so before one does. Raises: SourceError."""
    try:
        server = socket.create_server((address.host, address.port or 0), backlog=1)
    except OSError as exc:
        raise SourceError(f"{address.masked}: cannot listen there: {exc.strerror or exc}") from exc
    with server:
        server.settimeout(_LOOK_S)
        while waiting():
            try:
                sock, _ = server.accept()
            except TimeoutError:
                continue
            return SocketBytes(sock, stall_s, stop)
    return None
