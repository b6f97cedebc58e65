"""The OpenAPI document of the status server, made from the shapes it answers with.

    python -m headrace.ingest.status_openapi > docs/openapi.json

A test compares that file, and the routes of the app, with what is made here.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from headrace.ingest import status_shapes as shapes
from headrace.ingest.status_contract import ServiceStatus, StreamStatus
from headrace.ingest.status_quarantine import MAX_LOOK, MAX_ROWS

_TEXT = {"type": "string"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a path or a query."""

    name: str
    where: str
    schema: dict[str, Any]
    description: str


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked. `answers` is a shape, or a media type."""

    method: str
    path: str
    id: str
    summary: str
    answers: Any
    parameters: list[Parameter] = field(default_factory=list)
    takes: Any = None
    status: int = 200
    errors: tuple[int, ...] = ()
    open: bool = False  #: needs no token


def _path(name: str, description: str, schema: dict[str, Any] = _TEXT) -> Parameter:
    return Parameter(name, "path", schema, description)


def _query(name: str, description: str, schema: dict[str, Any] = _TEXT) -> Parameter:
    return Parameter(name, "query", schema, description)


def _whole(least: int, most: int, default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


_NAME = [_path("name", "A stream of the pipeline.")]
_SAMPLE = [
    _path("stream", "A stream of samples."),
    _path("lane", "Its lane, as 3 or L0003."),
    _path("seq", "The sequence number in the lane."),
]
_LIMIT = _query("limit", "The most rows of the answer.", _whole(1, MAX_ROWS, 50))
_V1 = "/api/v1"

OPERATIONS: list[Operation] = [
    Operation("get", f"{_V1}/status", "getStatus", "The service and all its streams", ServiceStatus),
    Operation("get", f"{_V1}/streams", "listStreams", "All streams", shapes.StreamList),
    Operation(
        "post", f"{_V1}/streams", "addStream", "Start a stream", shapes.ActionResult, takes=shapes.NewStream, status=201
    ),
    Operation("get", f"{_V1}/streams/{{name}}", "getStream", "One stream", StreamStatus, _NAME, errors=(404,)),
    Operation(
        "delete",
        f"{_V1}/streams/{{name}}",
        "removeStream",
        "Stop a stream for good; its samples stay",
        shapes.ActionResult,
        _NAME,
        errors=(404,),
    ),
    Operation(
        "post",
        f"{_V1}/streams/{{name}}/pause",
        "pauseStream",
        "Read nothing more of a stream until it is resumed",
        shapes.ActionResult,
        _NAME,
        errors=(404,),
    ),
    Operation(
        "post",
        f"{_V1}/streams/{{name}}/resume",
        "resumeStream",
        "Go on with a paused or parked stream",
        shapes.ActionResult,
        _NAME,
        errors=(404,),
    ),
    Operation(
        "post", f"{_V1}/reload", "reload", "Take a changed pipeline file", shapes.ActionResult, takes=shapes.NewPipeline
    ),
    Operation("post", f"{_V1}/drain", "drain", "Commit what is open, then stop", shapes.ActionResult, status=202),
    Operation(
        "get",
        f"{_V1}/commits",
        "listCommits",
        "The newest commits, newest last",
        shapes.CommitList,
        [_query("limit", "The most commits of the answer.", _whole(1, 200, 200))],
    ),
    Operation(
        "get",
        f"{_V1}/events",
        "followEvents",
        "Server-sent events: `status`, `commit` (its id is the version) and `problem`, each with JSON data",
        "text/event-stream",
    ),
    Operation(
        "get",
        f"{_V1}/quarantine",
        "listQuarantine",
        "What did not become a sample, newest first",
        shapes.QuarantineList,
        [
            _query("stream", "Only this stream of samples."),
            _query("reason", "Only this reason: a code, or a whole reason such as unsupported:heif."),
            _query("before", "Rows older than this id: `next` of the page before."),
            _LIMIT,
        ],
    ),
    Operation(
        "get",
        f"{_V1}/quarantine/{{stream}}/{{file}}/{{row}}",
        "getQuarantined",
        "One quarantined row and a bounded look at its bytes",
        shapes.QuarantineLook,
        [
            _path("stream", "A stream of samples."),
            _path("file", "The quarantine file."),
            _path("row", "The row in it.", {"type": "integer", "minimum": 0}),
            _query("offset", "The first byte to show.", _whole(0, 1 << 40, 0)),
            _query("length", "How many bytes to show.", _whole(0, MAX_LOOK, 4096)),
        ],
        errors=(404,),
    ),
    Operation(
        "get",
        f"{_V1}/samples",
        "listSamples",
        "Samples of a stream in address order",
        shapes.SampleList,
        [
            Parameter("stream", "query", _TEXT, "A stream of samples (needed)."),
            _query("after", "Samples after this address: `next` of the page before."),
            _query("lane", "Only this lane.", {"type": "integer", "minimum": 0}),
            _LIMIT,
        ],
        errors=(404,),
    ),
    Operation(
        "get",
        f"{_V1}/samples/{{stream}}/{{lane}}/{{seq}}",
        "getSample",
        "One sample: where it came from, its tokens, and what they decode to",
        shapes.SampleLook,
        _SAMPLE,
        errors=(404,),
    ),
    Operation(
        "get",
        f"{_V1}/samples/{{stream}}/{{lane}}/{{seq}}/picture.png",
        "getPicture",
        "An image, or the quicklook of a raster",
        "image/png",
        _SAMPLE,
        errors=(404,),
    ),
    Operation(
        "get",
        f"{_V1}/samples/{{stream}}/{{lane}}/{{seq}}/frame-{{frame}}.png",
        "getFrame",
        "One frame of a video",
        "image/png",
        [*_SAMPLE, _path("frame", "The frame, from 0.", {"type": "integer", "minimum": 0})],
        errors=(404,),
    ),
    Operation(
        "get",
        f"{_V1}/samples/{{stream}}/{{lane}}/{{seq}}/sound.wav",
        "getSound",
        "The sound, as 16 bit WAV",
        "audio/wav",
        _SAMPLE,
        errors=(404,),
    ),
    Operation("get", f"{_V1}/openapi.json", "getOpenApi", "This document", dict[str, Any]),
    Operation("get", "/healthz", "getHealth", "The process is alive", shapes.Health, open=True),
    Operation("get", "/readyz", "getReadiness", "The service has claimed and answers", shapes.Readiness, open=True),
    Operation("get", "/metrics", "getMetrics", "Prometheus metrics", "text/plain"),
]


@cache
def document() -> dict[str, Any]:
    """The document (OpenAPI 3.1)."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, schemas)
    _schema(shapes.Problem, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "headrace status",
            "version": "1.0.0",
            "summary": "What a running headrace service does, and commands to it",
            "description": (
                "Times are microseconds since 1970 UTC, ages are seconds, unknown values are null. Where the server has"
                " a token, everything but health and readiness needs it. Commands sent by a browser, or without a"
                " token, carry the header `X-Headrace: 1`."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "headrace_session"},
            },
        },
        "security": [{"bearer": []}, {"cookie": []}, {}],
    }


def _described(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    content = (
        {operation.answers: {"schema": {"type": "string"}}}
        if isinstance(operation.answers, str)
        else {"application/json": {"schema": _schema(operation.answers, schemas)}}
    )
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    out: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": {
            str(operation.status): {"description": operation.summary, "content": content},
            **{str(code): {"description": "There is none", "content": problem} for code in operation.errors},
            "default": {"description": "What was wrong, and what would be right", "content": problem},
        },
    }
    if operation.id == "getReadiness":
        out["responses"]["503"] = {"description": "It is not ready, and why", "content": content}
    if operation.parameters:
        out["parameters"] = [
            {
                "name": p.name,
                "in": p.where,
                "required": p.where == "path" or (operation.id == "listSamples" and p.name == "stream"),
                "description": p.description,
                "schema": p.schema,
            }
            for p in operation.parameters
        ]
    if operation.takes is not None:
        content = {"application/json": {"schema": _schema(operation.takes, schemas)}}
        out["requestBody"] = {"required": True, "content": content}
    if operation.open:
        out["security"] = []
    return out


def _schema(shape: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    from pydantic import TypeAdapter

    made = TypeAdapter(shape).json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(made.pop("$defs", {}))
    if "title" in made and made.get("type") == "object" and "properties" in made:
        name = made["title"]
        schemas[name] = made
        return {"$ref": f"#/components/schemas/{name}"}
    return made


def text() -> str:
    """The document as it lies in docs/openapi.json."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
