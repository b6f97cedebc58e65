"""What the receiving process of a service does: one receiver for each spooled stream, as many as the service says."""

from __future__ import annotations

import time
from typing import Any, Protocol

from headrace.ingest.receiver import Receiver
from headrace.ingest.resolve import Runtime
from headrace.ingest.spool import SpoolSettings
from headrace.ingest.task import Task
from headrace.schemas.errors import ConfigError, HeadraceError

_POLL_S = 0.5


class PollChannel(Protocol):
    """How it speaks to its service."""

    def poll(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """Tell how receivers stand; gives back {"streams": […]} or {"drain": true}."""


class ReceiverLoop:
    """Runs receivers until told to end."""

    def __init__(self, task: Task, runtime: Runtime) -> None:
        self._runtime = runtime
        self._receivers: dict[str, tuple[int, Receiver]] = {}
        self._failed: dict[str, tuple[int, str, float]] = {}  #: stream → version, why it could not begin, since when
        self._change(task.lanes)

    def run(self, channel: PollChannel) -> dict[str, Any]:
        """Receive until the service drains; what was taken is on disk then."""
        try:
            while True:
                answer = channel.poll(self._snapshot())
                if answer.get("drain"):
                    return {}
                self._change(answer["streams"])
                time.sleep(_POLL_S)
        finally:
            for _, receiver in self._receivers.values():
                _stop(receiver)

    def _change(self, streams: list[dict[str, Any]]) -> None:
        wanted = {value["stream"]: value for value in streams}
        for name in list(self._receivers):
            version, receiver = self._receivers[name]
            if name not in wanted or wanted[name]["version"] != version or receiver.fenced:
                _stop(receiver)
                del self._receivers[name]
        for name, value in wanted.items():
            failed = self._failed.get(name)
            again = failed is None or failed[0] != value["version"] or time.time() - failed[2] > 10
            if name not in self._receivers and again:
                self._begin(name, value)

    def _begin(self, name: str, value: dict[str, Any]) -> None:
        try:
            stream = self._runtime.with_stream(name, value["spec"]).resolve(name)
            if stream.spool_folder is None:
                raise ConfigError("it has no spool", field=f"streams.{name}.spool.folder")
            receiver = Receiver(
                stream.make_receiver(), str(stream.spool_folder), SpoolSettings.of(stream.spec.spool)
            )
            receiver.start()
        except HeadraceError as exc:
            self._failed[name] = (value["version"], str(exc), time.time())
            return
        self._failed.pop(name, None)
        self._receivers[name] = (value["version"], receiver)

    def _snapshot(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, (_, receiver) in self._receivers.items():
            told = receiver.snapshot()
            troubled = next((s for s in told["splits"].values() if s["state"] in ("waiting", "parked")), None)
            message = troubled["message"] if troubled else told["last_error"] if told["state"] != "running" else None
            since = troubled["since_us"] if troubled else told["last_error_us"] or told["since_us"]
            out[name] = {
                "spool": {"bytes": told["spool_bytes"] or 0, "max_bytes": told["max_bytes"], "shed": told["shed"]},
                "items": told["items"],
                "state": told["state"],
                "error": message
                and {
                    "split": "",
                    "message": message,
                    "since": since / 1e6,
                    "parked": bool(troubled and troubled["state"] == "parked"),
                    "next_try": None,
                },
            }
        for name, (_, message, since_s) in self._failed.items():
            error = {"split": "", "message": message, "since": since_s, "parked": True, "next_try": None}
            out.setdefault(name, {"spool": None, "items": 0, "state": "failing", "error": error})
        return out


def _stop(receiver: Receiver) -> None:
    receiver.stop()
    receiver.connector.close()
