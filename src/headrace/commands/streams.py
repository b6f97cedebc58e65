"""`headrace status` and `headrace streams`: look at a running service and tell it what to do, through its API."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer

_TIMEOUT_S = 15.0

Where = Annotated[str, typer.Argument(help="The dataset, or the address of its service (http://…).")]
Name = Annotated[str, typer.Argument(help="The stream's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status")(status)
    streams = typer.Typer(no_args_is_help=True, help="Change the streams of a running service.")
    streams.command("add")(add)
    streams.command("pause")(pause)
    streams.command("resume")(resume)
    streams.command("remove")(remove)
    streams.command("reload")(reload)
    app.add_typer(streams, name="streams")


def status(
    where: Where, as_json: Annotated[bool, typer.Option("--json", help="Print the whole status.")] = False
) -> None:
    """Show how a running service stands: streams, rates, lag, freshness, books."""
    from rich.console import Console

    from headrace.commands.status_table import status_table

    api = _api(where)
    told = _ask(f"{api}/api/v1/status")
    if as_json:
        typer.echo(json.dumps(told))
        return
    Console().print(status_table(told, api))


def add(
    where: Where,
    name: Name,
    spec: Annotated[Path, typer.Argument(help="YAML file: the stream's section as in a pipeline file.")],
) -> None:
    """Begin a stream. Put it into the pipeline file too, or it is gone when the service starts again."""
    _tell(where, "POST", "/api/v1/streams", {"name": name, "spec": spec.read_text(encoding="utf-8")})
    typer.echo(f"{name} runs; add it to the pipeline file, or the next start will not know it")


def pause(where: Where, name: Name) -> None:
    """Stop reading a stream; what was taken is committed. It stays paused over restarts."""
    _tell(where, "POST", f"/api/v1/streams/{name}/pause")
    typer.echo(f"{name} is paused")


def resume(where: Where, name: Name) -> None:
    """Go on with a stream that was paused, parked or stopped."""
    _tell(where, "POST", f"/api/v1/streams/{name}/resume")
    typer.echo(f"{name} runs")


def remove(where: Where, name: Name) -> None:
    """End a stream; what it has in the dataset stays."""
    _tell(where, "DELETE", f"/api/v1/streams/{name}")
    typer.echo(f"{name} is removed")


def reload(where: Where, pipeline: Annotated[Path, typer.Argument(help="The changed pipeline file.")]) -> None:
    """Follow a changed pipeline file; streams that are the same are not touched."""
    told = _tell(where, "POST", "/api/v1/reload", {"pipeline": pipeline.read_text(encoding="utf-8")})
    said = [f"{what} {', '.join(told[what])}" for what in ("added", "changed", "removed") if told.get(what)]
    typer.echo("; ".join(said) or "nothing changed")


def _api(where: str) -> str:
    """The address of a dataset's service. Raises: ConfigError if none runs."""
    if where.startswith(("http://", "https://")):
        return where.rstrip("/")
    from headrace.schemas.errors import ConfigError
    from headrace.shards.log import CommitLog
    from headrace.shards.store import open_store

    state = CommitLog(open_store(where)).replay()
    if not state.maybe_live or not state.api:
        raise ConfigError(f"no service runs on {where}: start one with `headrace serve`")
    return state.api


def _tell(where: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = _ask(f"{_api(where)}{path}", method, body)["result"]
    return answer


def _ask(url: str, method: str = "GET", body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON answer of the API. Raises: HeadraceError with its words."""
    from headrace.schemas.errors import HeadraceError

    headers = {"Accept": "application/json", "X-Headrace": "cli"}
    if token := os.environ.get("HEADRACE_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
            answer: dict[str, Any] = json.load(reply)
            return answer
    except urllib.error.HTTPError as exc:
        try:
            detail = json.load(exc).get("detail")
        except ValueError:
            detail = None
        hint = "; set HEADRACE_TOKEN to the service's token" if exc.code == 401 else ""
        raise HeadraceError(f"the service refused ({exc.code}): {detail or exc.reason}{hint}") from exc
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        raise HeadraceError(f"no service answers at {url.partition('/api/')[0]}: {reason}") from exc
