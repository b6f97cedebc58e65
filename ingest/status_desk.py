"""Everything a request handler works with, in one place; and how handlers read what is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headrace.ingest.status_contract import ServiceStatus, ServiceView, StreamStatus
from headrace.ingest.status_dataset import DatasetFollower, PinnedView
from headrace.ingest.status_decoded import SampleDesk
from headrace.ingest.status_guard import Gate
from headrace.ingest.status_metrics import Metrics
from headrace.ingest.status_poll import Poller
from headrace.ingest.status_problem import ProblemError
from headrace.ingest.view import Address
from headrace.schemas.errors import ConfigError

if TYPE_CHECKING:
    import threading

    from starlette.requests import Request

MAX_BODY = 1 << 20


@dataclass(frozen=True)
class Desk:
    """The parts of one status server. `stopping` is set when it should end, so that event streams end too."""

    view: ServiceView
    follower: DatasetFollower
    poller: Poller
    metrics: Metrics
    samples: SampleDesk
    gate: Gate
    stopping: threading.Event
    recent: dict[int, dict[str, Any]] = field(default_factory=dict)  #: newest quarantined rows, by version

    def status(self) -> ServiceStatus:
        """The last status. Raises: ProblemError 503 before the service has answered once."""
        snapshot = self.poller.snapshot()
        if snapshot.status is None:
            raise ProblemError(503, "starting", snapshot.not_ready() or "the service has not answered yet")
        return snapshot.status

    def stream(self, name: str) -> StreamStatus:
        """One stream of the last status. Raises: ProblemError 404."""
        streams = self.status()["streams"]
        for stream in streams:
            if stream["name"] == name:
                return stream
        known = ", ".join(s["name"] for s in streams[:20]) or "none yet"
        raise ProblemError(404, "stream", f"there is no stream `{name[:100]}`; there are {known}")

    def dataset(self) -> PinnedView:
        """The dataset, at the version the service last told or later. Raises: StorageError, LogError."""
        status = self.poller.snapshot().status
        return self.follower.view(None if status is None else status["version"])

    def address(self, request: Request) -> Address:
        """The sample that a path names. Raises: ProblemError 404."""
        text = f"{request.path_params['stream']}/{request.path_params['lane']}/{request.path_params['seq']}"
        try:
            return Address.parse(text)
        except ConfigError as exc:
            raise ProblemError(404, "sample", str(exc)) from exc


def desk_of(request: Request) -> Desk:
    """The desk of the app that serves this request."""
    desk: Desk = request.app.state.desk
    return desk


def need_raw(request: Request) -> None:
    """Raises: ProblemError 403 unless this request may see raw bytes and decoded samples."""
    if not request.state.raw:
        raise ProblemError(
            403,
            "user",
            "raw bytes and samples are shown to the service's own user only, because it has no token: set one, or ask"
            " as that user",
        )


def number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number of the query. Raises: ProblemError 400."""
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 13 and least <= int(text) <= most):
        raise ProblemError(400, "query", f"`{name}` is a whole number from {least} to {most}, not `{text[:40]}`")
    return int(text)


def word(request: Request, name: str) -> str | None:
    """A text of the query; None where it is empty."""
    return request.query_params.get(name) or None


async def body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent, up to 1 MiB. Raises: ProblemError 400, 413, 415."""
    import orjson

    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(415, "media-type", "send a JSON object as application/json")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise ProblemError(413, "too-large", f"a body may hold {MAX_BODY} bytes")
    try:
        found = orjson.loads(bytes(data))
    except orjson.JSONDecodeError as exc:
        raise ProblemError(400, "json", f"the body is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ProblemError(400, "json", 'the body is a JSON object, such as {"name": …}')
    return found


def text_of(found: dict[str, Any], name: str, others: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """A text field of a body. Raises: ProblemError 400 if it is absent, no text, or not the only one."""
    unknown = found.keys() - {name} - others
    if unknown or not isinstance(found.get(name), str) or not found[name]:
        what = f"unknown fields {sorted(unknown)}" if unknown else f"`{name}` is needed, a text"
        raise ProblemError(400, "body", what)
    value: str = found[name]
    return value
