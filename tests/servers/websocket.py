"""A real WebSocket server on loopback, for tests: a process that can be killed, and started again on the same port.

    with WebSocketServer(token="…") as server:
        server.send([b"one", b"two"])      to everybody who is connected to /stream, in order
        server.told()                      what clients have sent, and the headers they came with

It is the `websockets` package's own server. Nothing is kept for those who are not connected.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from .http_api import ROOT, RUN
from .process import ServerProcess, free_port
from .redis import make_certificates


class WebSocketServer(ServerProcess):
    """The server in a process of its own; skips the test where `websockets` is not installed."""

    def __init__(self, *, tls: bool = False, **settings: Any) -> None:
        pytest.importorskip("websockets", reason="the Python library websockets is not installed (headrace[websocket])")
        super().__init__("websocket")
        self.port = free_port()
        self.url = f"ws{'s' if tls else ''}://127.0.0.1:{self.port}/stream"
        self._context: ssl.SSLContext | None = None
        if tls:
            self.ca, certificate, key = make_certificates(self.folder)
            settings |= {"certificate": str(certificate), "key": str(key)}
            self._context = ssl.create_default_context(cafile=self.ca)
        self._settings = settings
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start, or start again."""
        said = json.dumps(self._settings)
        command = [sys.executable, "-c", RUN, ROOT, "tests.servers.websocket", str(self.port), said]
        self.launch(command, lambda: self.readers() >= 0)

    def send(self, messages: Sequence[bytes], kind: str = "binary") -> None:
        """To all who are connected; returns when they are queued. kind: binary, text, cut (text that is no UTF-8)."""
        for begin in range(0, len(messages), 50):
            some = [base64.b64encode(message).decode() for message in messages[begin : begin + 50]]
            self._control({"do": "send", "messages": some, "kind": kind})

    def zeros(self, count: int) -> None:
        """A message of so many zeros, which compression makes a thousand times smaller."""
        self._control({"do": "zeros", "count": count})

    def hang_up(self, code: int = 1001, reason: str = "") -> None:
        """Close every connection of readers."""
        self._control({"do": "hang up", "code": code, "reason": reason})

    def readers(self) -> int:
        """How many are connected to /stream."""
        return int(self._control({"do": "readers"}))

    def told(self) -> list[Any]:
        """What readers sent (texts), and their headers when they connected (mappings), in order."""
        answer: list[Any] = self._control({"do": "told"})
        return answer

    def _control(self, what: dict[str, Any]) -> Any:
        from websockets.sync.client import connect

        url = self.url.replace("/stream", "/control")
        with connect(url, ssl=self._context, max_size=None, proxy=None, open_timeout=5) as control:
            control.send(json.dumps(what))
            return json.loads(control.recv(20))


# -- the process ------------------------------------------------------------------------------------------------------


class _Server:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.queues: dict[Any, asyncio.Queue[Any]] = {}
        self.told: list[Any] = []

    def check(self, connection: Any, request: Any) -> Any:
        """Refuse before the handshake ends."""
        if request.path.startswith("/control"):
            return None
        token = self.settings.get("token")
        if token is not None and request.headers.get("Authorization") != f"Bearer {token}":
            return connection.respond(401, "who are you?\n")
        if "status" in self.settings:
            answer = connection.respond(self.settings["status"], "no\n")
            answer.headers.update(self.settings.get("headers", {}))
            return answer
        return None

    async def serve(self, connection: Any) -> None:
        if connection.request.path.startswith("/control"):
            await connection.send(json.dumps(await self.control(json.loads(await connection.recv()))))
            return
        self.told.append(dict(connection.request.headers.raw_items()))
        queue: asyncio.Queue[Any] = asyncio.Queue()
        if not self.settings.get("wait_for_subscription"):
            self.queues[connection] = queue
        listening = asyncio.create_task(self.listen(connection, queue))
        try:
            while True:
                payload, kind = await queue.get()
                if kind == "cut":
                    await connection.send(payload, text=True)
                else:
                    await connection.send(payload.decode() if kind == "text" else payload)
        finally:
            self.queues.pop(connection, None)
            listening.cancel()

    async def listen(self, connection: Any, queue: asyncio.Queue[Any]) -> None:
        with contextlib.suppress(Exception):
            async for message in connection:
                self.told.append(message)
                self.queues[connection] = queue
        self.queues.pop(connection, None)

    async def control(self, what: dict[str, Any]) -> Any:
        match what["do"]:
            case "send":
                for queue in self.queues.values():
                    for message in what["messages"]:
                        queue.put_nowait((base64.b64decode(message), what["kind"]))
            case "zeros":
                for queue in self.queues.values():
                    queue.put_nowait((bytes(what["count"]), "binary"))
            case "hang up":
                for connection in list(self.queues):
                    await connection.close(what["code"], what["reason"])
            case "readers":
                return len(self.queues)
            case "told":
                return self.told
        return True


async def main(port: int, settings: dict[str, Any]) -> None:
    """Serve until the process ends."""
    from websockets.asyncio.server import serve

    server = _Server(settings)
    context = None
    if "certificate" in settings:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings["certificate"], settings["key"])
    async with serve(
        server.serve, "127.0.0.1", port, process_request=server.check, max_size=None, ping_interval=None, ssl=context,
        select_subprotocol=lambda _, offered: next((s for s in offered if s in settings.get("subprotocols", ())), None),
    ) as running:  # fmt: skip
        await running.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), json.loads(sys.argv[2])))
