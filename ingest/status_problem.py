"""Errors of the status server as problem documents (RFC 9457), and what each branch of the error tree becomes."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from headrace.ingest.status_shapes import Problem
from headrace.schemas.errors import (
    ConfigError,
    Fenced,
    HeadraceError,
    RateLimited,
    RecordError,
    SourceError,
    StorageError,
)

if TYPE_CHECKING:
    from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"

#: First match wins.
_STATUS: list[tuple[type[HeadraceError], int, str]] = [
    (ConfigError, 400, "config"),
    (RecordError, 422, "record"),
    (Fenced, 409, "fenced"),
    (RateLimited, 503, "rate-limited"),
    (SourceError, 502, "source"),
    (StorageError, 503, "storage"),
    (HeadraceError, 500, "headrace"),
]


class ProblemError(Exception):
    """A request cannot be served: `status` is the HTTP status, `detail` says what would be right."""

    def __init__(self, status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = headers or {}
        super().__init__(detail)


def problem(status: int, kind: str, detail: str, field: str | None = None) -> Problem:
    """The document."""
    made: Problem = {
        "type": f"urn:headrace:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if field is not None:
        made["field"] = field
    return made


def problem_of(error: Exception) -> Problem:
    """The document that an error becomes."""
    if isinstance(error, ProblemError):
        return problem(error.status, error.kind, error.detail)
    for cls, status, kind in _STATUS:
        if isinstance(error, cls):
            return problem(status, kind, str(error), getattr(error, "field", None))
    return problem(500, "internal", "headrace itself failed; its log says more")


def problem_response(made: Problem, headers: dict[str, str] | None = None) -> Response:
    """The document as a response."""
    from starlette.responses import Response

    body = json.dumps(made, ensure_ascii=False).encode()
    return Response(body, made["status"], headers=headers, media_type=MEDIA_TYPE)
