"""The status server of a running service, in a thread of its own.

    server = StatusServer(view, "127.0.0.1", 0, token=None)
    url = server.start()                          # http://127.0.0.1:43121
    …
    server.stop()

Beyond loopback a token is needed. The libraries of the extra `serve` are imported when a server is made.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.ingest.status_contract import ServiceView
from headrace.ingest.status_guard import Gate, check_token, is_loopback
from headrace.schemas.errors import ConfigError, HeadraceError, MissingExtra

if TYPE_CHECKING:
    import uvicorn

_log = logging.getLogger(__name__)

_START_S = 15.0


def serve_status(
    view: ServiceView,
    host: str = "127.0.0.1",
    port: int = 8400,
    token: str | None = None,
    *,
    base: Path | None = None,
    names: Iterable[str] = (),
) -> StatusServer:
    """A started server. Raises: ConfigError for an address beyond loopback without a token; MissingExtra."""
    server = StatusServer(view, host, port, token, base=base, names=names)
    server.start()
    return server


class StatusServer:
    """The server of one service.

    `base` is the folder of the pipeline file, for plug-ins named by path; `names` are further names under which
    browsers may reach a server on loopback, such as that of a proxy before it.
    """

    def __init__(
        self,
        view: ServiceView,
        host: str,
        port: int,
        token: str | None = None,
        *,
        base: Path | None = None,
        names: Iterable[str] = (),
    ) -> None:
        """Raises: ConfigError for an address that is none, or beyond loopback without a token; MissingExtra."""
        family, address = _resolved(host)
        loopback = is_loopback(address)
        check_token(token, loopback)
        self._bind = (family, address, port)
        self._gate = Gate(token, loopback, frozenset({name.lower() for name in names} | _written(address)))
        self._view = view
        self._base = base
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._server: uvicorn.Server | None = None
        self.url: str | None = None
        _check_installed()

    def start(self) -> str:
        """Bind, serve, and give the URL. Raises: ConfigError if the address is taken."""
        import uvicorn

        from headrace.ingest.status_app import make_app
        from headrace.ingest.status_dataset import DatasetFollower, quarantine_counts
        from headrace.ingest.status_decoded import SampleDesk
        from headrace.ingest.status_desk import Desk
        from headrace.ingest.status_metrics import Metrics
        from headrace.ingest.status_poll import Poller

        family, address, port = self._bind
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(128)
        except OSError as exc:
            listener.close()
            raise ConfigError(
                f"the status page cannot listen on {address} port {port}: {exc}", field="status.port"
            ) from exc
        poller = Poller(self._view)
        follower = DatasetFollower(self._view.dataset, self._base)

        def reasons() -> dict[str, dict[str, int]]:
            try:
                return quarantine_counts(follower.view().dataset.state)
            except HeadraceError as exc:
                _log.warning("the dataset cannot be read for its metrics: %s", exc)
                return {}

        metrics = Metrics(poller.snapshot, reasons)
        poller.listeners.append(metrics.observe)
        desk = Desk(self._view, follower, poller, metrics, SampleDesk(), self._gate, self._stopping)
        config = uvicorn.Config(
            make_app(desk),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            limit_concurrency=256,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="headrace-status", daemon=True
        )
        poller.start()
        self._poller = poller
        self._thread.start()
        end = time.monotonic() + _START_S
        while not server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                self.stop()
                raise ConfigError("the status page did not start; the log says why", field="status")
            time.sleep(0.01)
        bound = listener.getsockname()[1]
        shown = f"[{address}]" if ":" in address else address
        self.url = f"http://{shown}:{bound}"
        return self.url

    def stop(self) -> None:
        """End event streams, answer what is under way, close. Harmless when it does not run."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
            self._poller.stop()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout=10)
        self._server = None

    def __enter__(self) -> StatusServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _resolved(host: str) -> tuple[socket.AddressFamily, str]:
    """The family and address to bind; a name that also means an address beyond loopback counts as that."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise ConfigError(f"`{host}` is no address of this machine: {exc}", field="status.host", value=host) from exc
    addresses = sorted(((f, str(a[0])) for f, _, _, _, a in found), key=lambda pair: (is_loopback(pair[1]), pair[0]))
    return addresses[0]


def _written(address: str) -> frozenset[str]:
    return frozenset({f"[{address}]" if ":" in address else address})


def _check_installed() -> None:
    try:
        import jinja2
        import prometheus_client
        import starlette
        import uvicorn
    except ImportError as exc:
        raise MissingExtra(exc.name or "starlette", "serve", need="the status page") from exc
    del jinja2, prometheus_client, starlette, uvicorn
