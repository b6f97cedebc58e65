"""Settings of the connector `tail`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.path_glob import PathGlob
from headrace.connectors.tail_files import Rotation
from headrace.connectors.watch_config import DURATION
from headrace.schemas.pipeline import bytes_field, run_field


class TailConfig(ConnectorConfig):
    """Settings of the connector `tail`."""

    root: str = run_field(description="a folder, or one file")
    glob: tuple[str, ...] = bytes_field(("**/*.log",), description="the growing files, by their live names")
    exclude: tuple[str, ...] = bytes_field((), description="files to leave out, as globs")
    rotated: tuple[str, ...] = bytes_field(
        ("{name}.[0-9]*", "{name}-[0-9]*"),
        description="names of rotated files, also compressed: {name}GLOB or {stem}GLOB{ext}; they are never splits",
    )
    start: Literal["earliest", "latest"] = run_field(
        "earliest", description="where a file begins that was never read: at its first line, or behind its last one"
    )
    format: str | None = bytes_field(None, description="what a line is: json, text, csv … ; default: looked at")
    max_line_bytes: int = bytes_field(1 << 20, ge=1, description="a longer line is refused as too_large")
    follow_symlinks: bool = bytes_field(False, description="follow symbolic links to files, wherever they lead")
    poll: str = run_field("250ms", pattern=DURATION, description="how often a file is looked at that has ended")
    linger: str = run_field(
        "5s", pattern=DURATION, description="how long a rotated file must be quiet before the next one is begun"
    )

    @field_validator("glob", "exclude", "rotated", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("glob", "exclude")
    @classmethod
    def _globs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            PathGlob(pattern)
        return value

    @field_validator("rotated")
    @classmethod
    def _rotated(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Rotation(value)
        return value

    @field_validator("root")
    @classmethod
    def _root(cls, value: str) -> str:
        if not value or "://" in value:
            raise ValueError("a folder or file of this machine is expected")
        return value
