"""The ASGI app of the status server: routes, the guard around them, and errors as documents or pages."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, Any

from headrace.ingest import status_api as api
from headrace.ingest import status_browse as browse
from headrace.ingest import status_pages as pages
from headrace.ingest.status_desk import Desk, desk_of
from headrace.ingest.status_events import api_events
from headrace.ingest.status_guard import Guard
from headrace.ingest.status_login import login, login_page, logout
from headrace.ingest.status_problem import ProblemError, problem, problem_of, problem_response
from headrace.schemas.errors import HeadraceError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp

_STATIC = frozenset({"style.css", "live.js", "theme.js", "icon.svg"})


def make_app(desk: Desk) -> ASGIApp:
    """The app that works at this desk. The guard stands outside of everything, also of the handler of its failures."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException

    app = Starlette(
        routes=routes(),
        exception_handlers={
            ProblemError: _failed,
            HeadraceError: _failed,
            HTTPException: _refused,
            500: _failed,
        },
    )
    app.state.desk = desk
    return Guard(app, desk.gate)


def routes() -> list[Route]:
    """Every route; those of the API are described in `status_openapi.py`."""
    from starlette.routing import Route

    def get(path: str, handler: Any) -> Route:
        return Route(path, handler, methods=["GET"])

    def post(path: str, handler: Any) -> Route:
        return Route(path, handler, methods=["POST"])

    v1, one = "/api/v1", "/{stream}/{lane}/{seq}"
    return [
        get("/", pages.overview),
        get("/streams/{name}", pages.stream_page),
        get("/quarantine", browse.quarantine_page),
        get("/quarantine/{stream}/{file}/{row}", browse.quarantined_page),
        get("/samples", browse.samples_page),
        get("/samples" + one, browse.sample_page),
        get("/live", pages.live),
        get("/login", login_page),
        post("/login", login),
        post("/logout", logout),
        get("/static/{name}", static),
        get(f"{v1}/status", api.status),
        get(f"{v1}/streams", api.streams),
        post(f"{v1}/streams", api.add_stream),
        get(f"{v1}/streams/{{name}}", api.stream),
        Route(f"{v1}/streams/{{name}}", api.remove, methods=["DELETE"]),
        post(f"{v1}/streams/{{name}}/pause", api.pause),
        post(f"{v1}/streams/{{name}}/resume", api.resume),
        post(f"{v1}/reload", api.reload),
        post(f"{v1}/drain", api.drain),
        get(f"{v1}/commits", api.commits),
        get(f"{v1}/events", api_events),
        get(f"{v1}/quarantine", api.quarantine),
        get(f"{v1}/quarantine/{{stream}}/{{file}}/{{row}}", api.quarantined),
        get(f"{v1}/samples", api.samples),
        get(f"{v1}/samples{one}", api.sample),
        get(f"{v1}/samples{one}/picture.png", api.picture),
        get(f"{v1}/samples{one}/frame-{{frame:int}}.png", api.frame),
        get(f"{v1}/samples{one}/sound.wav", api.sound),
        get(f"{v1}/openapi.json", api.openapi),
        get("/healthz", healthz),
        get("/readyz", readyz),
        get("/metrics", metrics),
    ]


async def healthz(request: Request) -> Response:
    """The process is alive."""
    from starlette.responses import JSONResponse

    return JSONResponse({"alive": True})


async def readyz(request: Request) -> Response:
    """Whether the service has claimed its dataset and its coordinator answers."""
    from starlette.responses import JSONResponse

    why = desk_of(request).poller.snapshot().not_ready()
    return JSONResponse({"ready": why is None, "why": why}, 200 if why is None else 503)


def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    from starlette.responses import Response

    data, content_type = desk_of(request).metrics.text(request.headers.get("accept", ""))
    return Response(data, headers={"content-type": content_type})


def static(request: Request) -> Response:
    """A file of the page's own; what is not on the list is not there."""
    from starlette.responses import Response

    name = request.path_params["name"]
    if name not in _STATIC:
        raise ProblemError(404, "file", f"there is no file `{name[:60]}`")
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "application/octet-stream"
    keep = "public, max-age=31536000, immutable" if request.url.query else "no-cache"
    return Response((pages.FOLDER / name).read_bytes(), media_type=kind, headers={"cache-control": keep})


def _failed(request: Request, error: Exception) -> Response:
    made = problem_of(error)
    if _wants_page(request):
        return pages.error_page(request, made)
    return problem_response(made, getattr(error, "headers", None))


def _refused(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    path = request.url.path[:200]
    detail = f"{request.method} is not allowed on {path}" if status == 405 else f"there is nothing at {path}"
    made = problem(status, "not-found" if status == 404 else "http", detail)
    if _wants_page(request):
        return pages.error_page(request, made)
    return problem_response(made, getattr(error, "headers", None))


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")
