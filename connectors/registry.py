"""Which connector bears which name: built in, from an installed package, from a file beside the pipeline, or a module.

type: files                  built in
type: tides                  an entry point of the group `headrace.connectors`
type: ./tide.py:TideGauge    a class in a file, relative to the pipeline file; its hash enters the stream digest
type: package.module:Tides   a class in an importable module
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.connectors.contract import Connector
from headrace.schemas.canonical import sha256_hex
from headrace.schemas.errors import ConfigError, HeadraceError
from headrace.schemas.plugins import file_of, is_file_type, resolve_class

GROUP = "headrace.connectors"

#: name → module:class
BUILTIN: dict[str, str] = {
    "files": "headrace.connectors.files:Files",
    "redis": "headrace.connectors.redis_streams:RedisStreams",
    "nats": "headrace.connectors.nats_jetstream:NatsJetStream",
    "rabbitmq": "headrace.connectors.rabbitmq:RabbitStreams",
    "kafka": "headrace.connectors.kafka:Kafka",
    "postgres": "headrace.connectors.postgres:Postgres",
    "postgres_table": "headrace.connectors.postgres_table:PostgresTable",
    "tail": "headrace.connectors.tail:Tail",
    "line_sockets": "headrace.connectors.line_sockets:LineSockets",
    "http_poll": "headrace.connectors.http_poll:HttpPoll",
    "stac": "headrace.connectors.stac:Stac",
    "websocket": "headrace.connectors.websocket:WebSocket",
    "mqtt": "headrace.connectors.mqtt:Mqtt",
    "http_push": "headrace.connectors.http_push:HttpPush",
    "live_video": "headrace.connectors.live_video:LiveVideo",
    "rtsp": "headrace.connectors.live_video:LiveVideo",
}


def connector_class(type: str, base: Path | None = None) -> type[Connector]:
    """The class named in a pipeline's `source: {type: …}`. Raises: ConfigError with the nearest known name."""
    found: Any = resolve_class(type, group=GROUP, known=BUILTIN, base=base, kind="source type", parent=Connector)
    return found


def file_hash(type: str, base: Path | None = None) -> str | None:
    """Hex sha256 of the source file behind `./file.py:Class` or `package.module:Class`; None for registered names.

    A registered name is as stable as the package that registers it, so its version stands for it.
    Raises: ConfigError if there is no such file.
    """
    if is_file_type(type):
        path = file_of(type, base)
    elif ":" in type:
        module = type.partition(":")[0]
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError as exc:
            raise ConfigError(f"`{type}`: there is no module {exc.name}") from exc
        if spec is None or not spec.has_location or spec.origin is None:
            raise ConfigError(f"`{type}`: the module {module} has no source file")
        path = Path(spec.origin)
    else:
        return None
    try:
        return sha256_hex(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc


def all_connectors() -> dict[str, type[Connector]]:
    """Every registered connector by name: built-in ones first, then those of installed packages."""
    names = [*BUILTIN, *sorted(e.name for e in importlib.metadata.entry_points(group=GROUP) if e.name not in BUILTIN)]
    return {name: connector_class(name) for name in names}


@dataclass(frozen=True)
class Description:
    """A connector as `headrace connectors` shows it."""

    name: str
    summary: str
    guarantee: str
    settings: dict[str, Any]  #: JSON Schema of its settings
    example: str
    error: str | None = None  #: why it cannot be loaded


def guarantee_of(cls: type[Connector]) -> str:
    """The delivery that a connector declares, into a dataset."""
    if cls.replay == "none":
        return "at least once, exactly once by key" if cls.acknowledges else "at most once"
    if cls.repeats:
        return "at least once, exactly once by key"
    return {"exact": "exactly once", "window": "exactly once within the source's retention"}[cls.replay]


def describe_connectors() -> list[Description]:
    """Every registered connector; one that cannot be loaded says why and does not hide the others."""
    names = {
        **dict.fromkeys(BUILTIN),
        **dict.fromkeys(sorted(e.name for e in importlib.metadata.entry_points(group=GROUP))),
    }
    return [_describe(name) for name in names]


def _describe(name: str) -> Description:
    try:
        cls = connector_class(name)
    except (HeadraceError, ImportError, AttributeError) as exc:
        return Description(name, "", "", {}, "", error=str(exc))
    schema = cls.Config.model_json_schema()
    summary = (cls.__doc__ or "").strip().split("\n")[0]
    example = getattr(cls, "example", None) or _example(name, schema)
    return Description(name, summary, guarantee_of(cls), schema, example)


def _example(name: str, schema: dict[str, Any]) -> str:
    """A source section with every required setting."""
    required = "".join(f", {field}: …" for field in schema.get("required", []))
    return f"{{type: {name}{required}}}"
