"""`headrace serve`: the service, until it is told to stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE = "127.0.0.1:8400"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline file (.yaml).")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="Dataset: a folder or s3://bucket/prefix.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, help="Workers. Default: one per core of the cluster.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="auto, ray, or inline (this machine, without Ray).")] = "auto",
    address: Annotated[str | None, typer.Option("--address", help="Join the Ray cluster at this address.")] = None,
    listen: Annotated[
        str, typer.Option("--listen", help="Address of the status page, API and metrics; `none` for none.")
    ] = _PAGE,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Fence a service that runs on this dataset, and go on in its place.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Log as JSON lines; end with one JSON document.")] = False,
) -> None:
    """Run streams until told to stop: every few seconds what came is committed, exactly once.

    SIGTERM or Ctrl-C drains: what was taken is committed, then the service ends. Started again it goes on where it
    stopped. The page is shown to this machine only, unless a token stands in the environment variable HEADRACE_TOKEN.
    """
    from headrace.commands.build import check_engine, read_source
    from headrace.commands.serve_display import ServeDisplay
    from headrace.ingest.resolve import Runtime
    from headrace.schemas.errors import ConfigError

    if as_json:
        _log_json()
    spec, base = read_source(pipeline, "NOASSERTION")
    dataset = out or spec.dataset
    if not dataset:
        raise ConfigError("where does the dataset go? give --out, or `dataset:` in the pipeline file", field="dataset")
    if "://" not in dataset:
        dataset = str(Path(dataset).resolve())
    runtime = Runtime.of(spec, dataset, base)
    began = time.monotonic()
    status = _page(listen)
    stopping = _Stop()
    if _chosen(check_engine(engine), address) == "ray":
        url, wait, look = _on_ray(runtime, workers, address, status, take_over, stopping.listen)
    else:
        url, wait, look = _inline(runtime, workers, status, take_over)
    stopping.listen()
    with ServeDisplay(dataset, url, look, quiet=as_json) as display:


        def stop() -> bool:
            display.tick()
            return stopping.asked

        told = wait(stop)
    _end(told, time.monotonic() - began, as_json)


def _inline(runtime: Any, workers: int | None, status: dict[str, Any] | None, take_over: bool) -> tuple[Any, Any, Any]:
    from headrace.ingest.service_inline import InlineService
    from headrace.ingest.service_view import View

    service = InlineService(runtime.to_json(), workers=workers or os.cpu_count() or 1)
    url = None
    page: Any = None
    if status is not None:
        from headrace.ingest.status_server import StatusServer

        view = View(service.service, runtime.dataset, runtime.base)
        page = StatusServer(view, status["host"], status["port"], status["token"], base=runtime.base)
        url = page.start()
        service.api = url
    try:
        service.start(take_over=take_over)
    except BaseException:
        if page is not None:
            page.stop()
        raise

    def wait(stopping: Callable[[], bool]) -> dict[str, Any]:
        try:
            return service.wait(stopping)
        finally:
            if page is not None:
                page.stop()

    return url, wait, service.service.status


def _on_ray(
    runtime: Any,
    workers: int | None,
    address: str | None,
    status: dict[str, Any] | None,
    take_over: bool,
    listen: Callable[[], None],
) -> tuple[Any, Any, Any]:
    from headrace.ingest.ray_service import RayService

    service = RayService(runtime.to_json(), workers=workers, address=address, status=status)
    url = service.start(take_over=take_over, joined=listen)
    return url, service.wait, service.status


def _chosen(engine: str, address: str | None) -> str:
    """Ray where it is installed: it restarts what dies, and spans nodes."""
    import importlib.util

    if engine != "auto":
        return engine
    return "ray" if address or importlib.util.find_spec("ray") else "inline"


def _page(listen: str) -> dict[str, Any] | None:
    from headrace.schemas.errors import ConfigError

    if listen == "none":
        return None
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError("an address such as 127.0.0.1:8400 is expected, or none", field="--listen", value=listen)
    return {"host": host.strip("[]"), "port": int(port), "token": os.environ.get("HEADRACE_TOKEN") or None}


class _Stop:
    """Notes SIGTERM and SIGINT, and SIGUSR1, which Slurm sends before a time limit (`--signal=B:USR1@120`)."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """From now on; again after Ray's start, which takes SIGTERM for itself."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def _end(told: dict[str, Any], seconds: float, as_json: bool) -> None:
    from headrace.schemas.errors import Fenced

    if as_json:
        typer.echo(json.dumps({**told, "seconds": round(seconds, 1)}))
    if told["state"] == "fenced":
        raise Fenced(told["message"] or "another writer took the dataset over")
    if not as_json:
        typer.echo(f"drained: version {told['version']} is committed; the same command goes on from here")


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(min(logging.getLogger().level, logging.INFO))
