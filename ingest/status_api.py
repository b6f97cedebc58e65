"""The JSON API of the status server, under /api/v1; what it answers is described in `status_openapi.py`.

Handlers that read the dataset or ask the service are plain functions: they run in a thread pool, so a slow store or a
busy coordinator holds up nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.ingest.status_decoded import picture_png, sound_wav
from headrace.ingest.status_desk import Desk, body, desk_of, need_raw, number, text_of, word
from headrace.ingest.status_openapi import document
from headrace.ingest.status_problem import ProblemError
from headrace.ingest.status_quarantine import MAX_LOOK, MAX_ROWS, list_quarantine, look_at
from headrace.ingest.status_samples import list_samples
from headrace.ingest.view import Address
from headrace.schemas.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def _json(value: Any, status: int = 200) -> Response:
    import orjson
    from starlette.responses import Response

    return Response(orjson.dumps(value), status, media_type="application/json")


def status(request: Request) -> Response:
    """The last status of the service."""
    return _json(desk_of(request).status())


def streams(request: Request) -> Response:
    """All streams."""
    return _json({"streams": desk_of(request).status()["streams"]})


def stream(request: Request) -> Response:
    """One stream."""
    return _json(desk_of(request).stream(request.path_params["name"]))


def commits(request: Request) -> Response:
    """The newest commits."""
    limit = number(request, "limit", 200, 1, 200)
    return _json({"commits": desk_of(request).status()["commits"][-limit:]})


def openapi(request: Request) -> Response:
    """The description of this API."""
    return _json(document())


# ---- actions ----


def _act(desk: Desk, action: Callable[[], dict[str, Any]], status: int = 200) -> Response:
    result = action()
    desk.poller.poll()  # so that whoever asks next sees what came of it
    return _json({"result": result}, status)


async def add_stream(request: Request) -> Response:
    """Start a stream."""
    from starlette.concurrency import run_in_threadpool

    found = await body(request)
    name, spec = text_of(found, "name", {"spec"}), text_of(found, "spec", {"name"})
    desk = desk_of(request)
    return await run_in_threadpool(_act, desk, lambda: desk.view.streams_add(name, spec), 201)


async def reload(request: Request) -> Response:
    """Take a changed pipeline file."""
    from starlette.concurrency import run_in_threadpool

    pipeline = text_of(await body(request), "pipeline")
    desk = desk_of(request)
    return await run_in_threadpool(_act, desk, lambda: desk.view.reload(pipeline))


def pause(request: Request) -> Response:
    """Pause a stream."""
    desk, name = desk_of(request), request.path_params["name"]
    desk.stream(name)
    return _act(desk, lambda: desk.view.stream_pause(name))


def resume(request: Request) -> Response:
    """Resume a stream."""
    desk, name = desk_of(request), request.path_params["name"]
    desk.stream(name)
    return _act(desk, lambda: desk.view.stream_resume(name))


def remove(request: Request) -> Response:
    """Remove a stream."""
    desk, name = desk_of(request), request.path_params["name"]
    desk.stream(name)
    return _act(desk, lambda: desk.view.stream_remove(name))


def drain(request: Request) -> Response:
    """Commit what is open, then stop."""
    desk = desk_of(request)
    return _act(desk, desk.view.drain, 202)


# ---- quarantine ----


def quarantine(request: Request) -> Response:
    """Quarantined rows, newest first."""
    found = list_quarantine(
        desk_of(request).dataset().dataset,
        stream=word(request, "stream"),
        reason=word(request, "reason"),
        before=word(request, "before"),
        limit=number(request, "limit", 50, 1, MAX_ROWS),
    )
    return _json(found)


def quarantined(request: Request) -> Response:
    """One quarantined row with a look at its bytes."""
    need_raw(request)
    params = request.path_params
    name = f"{params['stream']}/{params['file']}/{params['row']}"
    offset, length = number(request, "offset", 0, 0, 1 << 40), number(request, "length", 4096, 0, MAX_LOOK)
    try:
        return _json(look_at(desk_of(request).dataset().dataset, name, offset=offset, length=length))
    except ConfigError as exc:
        raise ProblemError(404, "quarantine", str(exc)) from exc


# ---- samples ----


def samples(request: Request) -> Response:
    """Samples of a stream in address order."""
    need_raw(request)
    name = word(request, "stream")
    if name is None:
        raise ProblemError(400, "query", "`stream` is needed: the name of a stream of samples")
    view, place = desk_of(request).dataset(), word(request, "after")
    if name not in view.dataset.state.settings:
        known = ", ".join(sorted(view.dataset.state.settings)) or "none yet"
        raise ProblemError(404, "stream", f"the dataset has no stream `{name[:100]}`; there are {known}")
    lane = number(request, "lane", 0, 0, 1 << 31) if word(request, "lane") else None
    found = list_samples(
        view.dataset,
        name,
        place=None if place is None else Address.parse(place),
        lane=lane,
        limit=number(request, "limit", 50, 1, MAX_ROWS),
    )
    return _json(found)


def sample(request: Request) -> Response:
    """One sample, decoded."""
    need_raw(request)
    desk, address = desk_of(request), desk_of(request).address(request)
    try:
        return _json(desk.samples.look(desk.dataset(), address))
    except ConfigError as exc:
        raise ProblemError(404, "sample", str(exc)) from exc


def picture(request: Request) -> Response:
    """The picture of a sample."""
    return _media(request, "image/png", picture_png)


def frame(request: Request) -> Response:
    """One frame of a video."""
    shown = request.path_params["frame"]
    return _media(request, "image/png", lambda opened: picture_png(opened, shown))


def sound(request: Request) -> Response:
    """The sound of a sample; ranges are answered, so that a player can seek."""
    return _media(request, "audio/wav", sound_wav)


def _media(request: Request, media_type: str, draw: Callable[[Any], bytes]) -> Response:
    from starlette.responses import Response

    need_raw(request)
    desk, address = desk_of(request), desk_of(request).address(request)
    try:
        data = draw(desk.samples.open(desk.dataset(), address))
    except ConfigError as exc:
        raise ProblemError(404, "sample", str(exc)) from exc
    headers = {"accept-ranges": "bytes", "cache-control": "private, max-age=300"}
    span = _span(request.headers.get("range"), len(data)) if media_type == "audio/wav" else None
    if span is None:
        return Response(data, media_type=media_type, headers=headers)
    start, stop = span
    headers["content-range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Response(data[start:stop], 206, media_type=media_type, headers=headers)


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """The one range [start, stop) that was asked for; None to answer with everything."""
    unit, _, asked = (header or "").partition("=")
    first, dash, last = asked.strip().partition("-")
    if unit != "bytes" or not dash or not (first + last).isdigit():
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    return (start, stop) if start < stop else None
