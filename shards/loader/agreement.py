"""What all processes of a training job must agree on: which version is read, and when a newer one is taken.

A job names a run folder (any store; the dataset itself is never written). The first process to need an answer writes
it with `put_new`, the others read it: no barrier, no rank that must be first, and a job that is killed and resumed
finds the same answers. Without a run folder one process decides for itself, or, where torch.distributed is up, rank 0
for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, StorageError
from headrace.shards.store import Missing, Store, open_store


class Agreement:
    """Settles questions by name. Picklable: a worker process opens the folder again."""

    def __init__(self, run: str | None, options: Mapping[str, Any], processes: int) -> None:
        """run: folder or URL of this training run. processes: how many processes the job has, as far as is known."""
        self.run = run
        self._options = dict(options)
        self._processes = processes
        self._store: Store | None = None

    @property
    def shared(self) -> bool:
        """Whether what is settled here holds for every process of the job, worker processes included."""
        return self.run is not None

    def settled(self, name: str) -> dict[str, Any] | None:
        """The answer to a question, None if nobody gave one yet. Raises: StorageError."""
        if self.run is None:
            return None
        try:
            data = self._open().get(f"{name}.json")
        except Missing:
            return None
        try:
            found: dict[str, Any] = json.loads(data)
        except ValueError as exc:
            raise StorageError(f"{self.run}/{name}.json is not JSON: the run folder was altered") from exc
        return found

    def settle(self, name: str, propose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The answer that holds: what was settled before, or what `propose` says. Raises: StorageError, ConfigError."""
        found = self.settled(name)
        if found is not None:
            return found
        if self.run is not None:
            self._open().put_new(f"{name}.json", canonical_json(propose()))
            found = self.settled(name)
            assert found is not None
            return found
        torch = sys.modules.get("torch")  # somebody else imported it, or there is no process group
        if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
            told = [propose() if torch.distributed.get_rank() == 0 else None]
            torch.distributed.broadcast_object_list(told, src=0)
            assert told[0] is not None
            return dict(told[0])
        if self._processes > 1:
            raise ConfigError(
                f"{self._processes} processes must read the same version, and a dataset may grow while they start:"
                " give `version`, or `run`, a folder that all of them can write",
                field="run",
            )
        return propose()

    def _open(self) -> Store:
        assert self.run is not None
        if self._store is None:
            self._store = open_store(self.run, self._options, create=True)
        return self._store

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}
