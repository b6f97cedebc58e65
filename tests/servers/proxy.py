"""A TCP proxy that breaks connections on purpose: put it between a client and a real server.

    with TcpProxy(server.port) as proxy:
        client = connect(port=proxy.port)
        proxy.cut()               every connection is reset; new ones are accepted
        proxy.refuse()            every connection is reset, and new ones are closed at once, until allow()
        proxy.freeze()            half open: nothing is forwarded, nothing is closed, until thaw(); new ones hang too
        proxy.drop_next_reply()   the server's next bytes are thrown away and that connection is reset
        proxy.cut_after(1000)     the next connection that has carried 1000 bytes to a client is reset there
        proxy.delay_s = 0.2       every chunk waits so long, in both directions

It forwards bytes and knows no protocol. `accepted` counts connections, `to_client` and `to_server` count bytes. What it
does not imitate: lost or reordered packets (TCP hides those), and a slow network by bytes per second.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType

_CHUNK = 1 << 16
#: SO_LINGER with 0 seconds: close() sends RST instead of FIN, as a killed peer or a firewall does.
_RESET = struct.pack("ii", 1, 0)


class TcpProxy:
    """Forwards 127.0.0.1:`port` to `host`:`target_port`."""

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = 0.0
        self.accepted = self.to_client = self.to_server = 0
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = self._closed = self._drop_reply = False
        self._cut_after: int | None = None
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._threads = [threading.Thread(target=self._accept, name="proxy-accept", daemon=True)]
        self._threads[0].start()

    # -- faults -------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection there is now."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)

    def refuse(self) -> None:
        """Reset every connection, and close new ones at once, until `allow`."""
        self._refusing = True
        self.cut()

    def allow(self) -> None:
        """Accept again."""
        self._refusing = False

    def freeze(self) -> None:
        """Forward nothing more and close nothing, as when a cable is pulled, until `thaw`."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Forward again, beginning with what was held."""
        self._flowing.set()

    def drop_next_reply(self) -> None:
        """Throw away the next bytes that a server sends, and reset that connection: done, but nobody was told."""
        with self._lock:
            self._drop_reply = True

    def cut_after(self, count: int) -> None:
        """Reset one connection after `count` more bytes went to clients."""
        with self._lock:
            self._cut_after = count

    # -- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every connection and thread."""
        self._closed = True
        self._flowing.set()
        # A thread in accept() is woken by shutdown, not by close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- forwarding ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refusing or self._closed:
                _close_hard(client)
                continue
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _close_hard(client)  # the server is down: the client sees the same
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            for source, sink in (pair, (server, client)):
                with contextlib.suppress(OSError):  # `cut` may have closed it meanwhile; its pump will see that
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                arguments = (source, sink, pair)
                thread = threading.Thread(target=self._pump, args=arguments, name="proxy-pump", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        from_server = source is pair[1]
        try:
            while data := source.recv(_CHUNK):
                if self.delay_s:
                    time.sleep(self.delay_s)
                self._flowing.wait()
                keep, reset = self._fate(data) if from_server else (data, False)
                sink.sendall(keep)
                with self._lock:
                    if from_server:
                        self.to_client += len(keep)
                    else:
                        self.to_server += len(keep)
                if reset:
                    break
            else:
                self._flowing.wait()
                sink.shutdown(socket.SHUT_WR)  # an orderly end, passed on; the other direction may still speak
                return
        except OSError:
            pass  # the other direction, a fault or a peer closed it: both ends are reset below
        self._reset(pair)

    def _fate(self, data: bytes) -> tuple[bytes, bool]:
        """What of a server's bytes is passed on, and whether the connection is reset then."""
        with self._lock:
            if self._drop_reply:
                self._drop_reply = False
                return b"", True
            if self._cut_after is not None:
                if len(data) >= self._cut_after:
                    keep, self._cut_after = data[: self._cut_after], None
                    return keep, True
                self._cut_after -= len(data)
        return data, False

    def _reset(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            _close_hard(end)


def _close_hard(end: socket.socket) -> None:
    """Close with a reset, waking a thread that reads from it."""
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD)  # wakes recv in another thread; SHUT_WR would send an orderly FIN
    except OSError:
        pass  # it is closed already
    end.close()
