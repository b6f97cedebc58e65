"""The HTTP server of `http_push`: h11 on asyncio streams, in a thread of its own.

Why no web framework: what matters here is when not to read. A body is read only when there is room for it, a head and a
body that come too slowly are given up, and an answer waits until its bytes are on disk. uvicorn has no time limit for
request heads and ends the process when its port is taken; h11 parses, and the rest is these lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import h11

from headrace.connectors.http_push_config import HttpPushConfig
from headrace.connectors.http_push_problem import Problem
from headrace.schemas.errors import ConfigError, HeadraceError, SourceError

_CHUNK = 1 << 16
_HEAD_BYTES = 16 << 10  #: of a request line and its headers
_KEEP_ALIVE_S = 60.0
_LINGER_S, _LINGER_BYTES = 2.0, 16 << 20
_STOP_S = 3.0
_ROUNDS = 8

Body = Callable[[], Awaitable[bytes | None]]  #: the next piece of a body; None: it is complete
#: (request, address of the peer, its body) → (status, headers, body). May raise Problem.
Handler = Callable[[h11.Request, str, Body], Awaitable[tuple[int, dict[str, str], bytes]]]


class Server:
    """Listens from `start` to `stop`; calls the handler in its own thread's event loop."""

    def __init__(self, config: HttpPushConfig, handler: Handler) -> None:
        self.port = config.port
        self.loop = asyncio.new_event_loop()
        self._config = config
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"http_push {config.port}", daemon=True)

    def start(self) -> None:
        """Listen. Raises: SourceError if the port is taken, ConfigError if the address or certificate is wrong."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result()
        except BaseException:
            self._end_thread()
            raise

    def stop(self, parting: Callable[[], None]) -> None:
        """Free the port at once, let answers that `parting` brings about go out, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._part(parting), self.loop).result()
        self._end_thread()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def _end_thread(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    async def _listen(self) -> None:
        config = self._config
        try:
            # SO_REUSEADDR is set by asyncio: connections of a killed predecessor in TIME_WAIT do not hold the port.
            self._server = await asyncio.start_server(
                self._accepted, config.host, config.port, limit=_CHUNK, backlog=256, **_tls(config)
            )
        except OSError as exc:
            raise _cannot_listen(config, exc) from exc
        self.port = self._server.sockets[0].getsockname()[1]

    async def _part(self, parting: Callable[[], None]) -> None:
        self._stopping = True
        if self._server is not None:
            # What was accepted a moment ago gets its transport and task some rounds of the loop later. asyncio drops
            # it, unclosed, if its server is closed by then, and the peer would wait for an answer for ever: so first
            # no more are accepted, then those are let in, and only then the server is closed.
            for listener in self._server.sockets:
                self.loop.remove_reader(listener.fileno())
            for _ in range(_ROUNDS):
                await asyncio.sleep(0)
            self._server.close()
        for task in self._connections - self._answering:
            task.cancel()
        parting()
        if self._answering:
            await asyncio.wait(self._answering, timeout=_STOP_S)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for open_task in rest:
            open_task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    # -- a connection -------------------------------------------------------------------------------------------------

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(self._config, reader, writer)
        crowded = len(self._connections) >= self._config.max_connections
        self._connections.add(task)
        try:
            if crowded:
                said = f"{self._config.max_connections} connections are open already"
                await connection.refuse(Problem(503, said, {"Retry-After": str(self._config.retry_after_s)}))
                return
            while not self._stopping and await self._answer_next(task, connection):
                pass
        except (OSError, asyncio.CancelledError, TimeoutError):
            pass  # the peer is gone or too slow, or we are stopping: nobody is left to tell
        finally:
            self._connections.discard(task)
            self._answering.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), _LINGER_S)

    async def _answer_next(self, task: asyncio.Task[None], connection: _Connection) -> bool:
        """Answer one request; whether another may follow."""
        try:
            request = await connection.request()
            if request is None:
                return False
            self._answering.add(task)
            status, headers, body = await self._handler(request, connection.address, connection.piece)
        except Problem as problem:
            await connection.refuse(problem)
        else:
            await connection.send(status, headers, body, closing=self._stopping)
        finally:
            self._answering.discard(task)
        return connection.next_cycle()


class _Connection:
    """HTTP/1.1 of one peer: heads and bodies under time limits, and answers."""

    def __init__(self, config: HttpPushConfig, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._config = config
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        self._first = True
        self._bodiless = False  # a HEAD request: its answer has a head only
        self._deadline = 0.0
        peer = writer.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""

    async def request(self) -> h11.Request | None:
        """The next request's head; None if the peer has nothing more to say. Raises: Problem, TimeoutError."""
        if not self._first and self._http.trailing_data[0] == b"":
            got = await asyncio.wait_for(self._reader.read(_CHUNK), _KEEP_ALIVE_S)
            self._http.receive_data(got)
        self._first = False
        self._deadline = time.monotonic() + self._config.read_timeout_s
        event = await self._event("the head of the request")
        if not isinstance(event, h11.Request):
            return None
        self._bodiless = event.method == b"HEAD"
        return event

    async def piece(self) -> bytes | None:
        """The next piece of the body, or None at its end. Raises: Problem 408 when it comes too slowly."""
        if self._http.they_are_waiting_for_100_continue:
            await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        event = await self._event("the body")
        if isinstance(event, h11.Data):
            data = bytes(event.data)
            self._deadline += len(data) / self._config.min_bytes_per_s
            return data
        if isinstance(event, h11.EndOfMessage):
            return None
        raise ConnectionResetError("the peer left in the middle of a body")

    async def _event(self, what: str) -> Any:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise Problem(exc.error_status_hint, f"this is not HTTP/1.1 as we read it: {exc}") from exc
            if event is not h11.NEED_DATA:
                return event
            try:
                left = max(0.0, self._deadline - time.monotonic())
                self._http.receive_data(await asyncio.wait_for(self._reader.read(_CHUNK), left))
            except TimeoutError as exc:
                raise Problem(408, f"{what} came too slowly") from exc

    async def send(self, status: int, headers: dict[str, str], body: bytes, *, closing: bool = False) -> None:
        """Answer. A connection with a body that was not read cannot go on, and its peer is told so."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise ConnectionResetError("this connection takes no answer")
        said = {"Content-Length": str(len(body)), "Cache-Control": "no-store", **headers}
        if closing or self._http.their_state is not h11.DONE:
            said["Connection"] = "close"
        data = self._http.send(h11.Response(status_code=status, headers=list(said.items()))) or b""
        if not self._bodiless:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._write(data)
        if self._http.their_state is not h11.DONE:
            await self._linger()

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem."""
        headers = {"Content-Type": "application/problem+json", **problem.headers}
        await self.send(problem.status, headers, problem.body())

    def next_cycle(self) -> bool:
        """Whether the connection can carry another request; then it is ready for it."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _write(self, data: bytes | None) -> None:
        if data:
            self._writer.write(data)
            await asyncio.wait_for(self._writer.drain(), self._config.read_timeout_s)

    async def _linger(self) -> None:
        """Read on a little: closing on unread bytes would reset the connection before the peer has seen the answer."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        left = _LINGER_BYTES
        deadline = time.monotonic() + _LINGER_S
        while left > 0 and (wait := deadline - time.monotonic()) > 0:
            got = await asyncio.wait_for(self._reader.read(_CHUNK), wait)
            if not got:
                return
            left -= len(got)


def _tls(config: HttpPushConfig) -> dict[str, Any]:
    """What asyncio is told of TLS."""
    if config.tls_cert is None:
        return {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"tls_cert and tls_key cannot be used: {exc}") from exc
    return {"ssl": context, "ssl_handshake_timeout": config.read_timeout_s}


def _cannot_listen(config: HttpPushConfig, cause: OSError) -> HeadraceError:
    said = f"cannot listen on {config.host}:{config.port}: {cause.strerror or cause}"
    if cause.errno == errno.EADDRINUSE:
        return SourceError(f"{said}; another program, or another stream, listens there")
    return ConfigError(f"{said}: set `host` and `port` to an address of this machine that may be used")
