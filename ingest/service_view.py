"""A service as its HTTP API sees it: the same commands, with the pipeline's YAML in place of its values."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

from headrace.ingest.pipeline_file import parse_pipeline
from headrace.schemas.pipeline import Pipeline

_LEFT_S = 10.0  #: how long a worker may take to commit and leave a stream


class Commands(Protocol):
    """What a service obeys; the service itself, or a proxy of it."""

    def status(self) -> dict[str, Any]: ...

    def add(self, name: str, spec: dict[str, Any]) -> dict[str, Any]: ...

    def pause(self, name: str) -> dict[str, Any]: ...

    def resume(self, name: str) -> dict[str, Any]: ...

    def remove(self, name: str) -> dict[str, Any]: ...

    def works_on(self, name: str) -> bool: ...

    def reload(self, pipeline: Pipeline) -> dict[str, Any]: ...

    def drain(self) -> dict[str, Any]: ...


class View:
    """See `status_contract.ServiceView`. `base` is where relative paths of YAML begin."""

    def __init__(self, service: Commands, dataset: str, base: Path) -> None:
        self._service = service
        self._dataset = dataset
        self._base = base

    @property
    def dataset(self) -> str:
        return self._dataset

    def status(self) -> Any:
        return self._service.status()

    def streams_add(self, name: str, spec_yaml: str) -> dict[str, Any]:
        """Add a stream whose section is given as YAML. Raises: ConfigError."""
        indented = "\n".join(f"    {line}" for line in spec_yaml.splitlines())
        pipeline = parse_pipeline(f"streams:\n  {name}:\n{indented}\n", base=self._base, name=name)
        return self._service.add(name, pipeline.streams[name].model_dump(mode="json"))

    def stream_pause(self, name: str) -> dict[str, Any]:
        """Pause, and answer when nobody takes anything of it any more."""
        answer = self._service.pause(name)
        self._until_left(name)
        return answer

    def stream_resume(self, name: str) -> dict[str, Any]:
        return self._service.resume(name)

    def stream_remove(self, name: str) -> dict[str, Any]:
        answer = self._service.remove(name)
        self._until_left(name)
        return answer

    def _until_left(self, name: str) -> None:
        end = time.monotonic() + _LEFT_S
        while self._service.works_on(name) and time.monotonic() < end:
            time.sleep(0.05)

    def reload(self, yaml: str) -> dict[str, Any]:
        """Follow a changed pipeline file. Raises: ConfigError."""
        answer = self._service.reload(parse_pipeline(yaml, base=self._base))
        for name in answer["removed"]:
            self._until_left(name)
        return answer

    def drain(self) -> dict[str, Any]:
        return self._service.drain()
