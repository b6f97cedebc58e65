"""The process that decodes: reads tasks from a pipe, does them, and writes messages back.

    python -m headrace.ingest.child IN_FD OUT_FD SLOT_FILE

It bounds its own memory before it touches foreign bytes, leaves word of every step in the slot, and dies with its
supervisor. It never opens the commit log: it writes data files and hands over manifests.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headrace.ingest.encoding import WrongEngine
from headrace.ingest.lane import encode_lane
from headrace.ingest.normalizers.registry import LIBRARIES
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.slot import EXIT_OOM, Slot
from headrace.ingest.task import Task
from headrace.ingest.without_pandas import all_built_in, leave_pandas_out
from headrace.schemas.errors import HeadraceError
from headrace.shards.store import open_store
from headrace.tokenizers import engine_text

_PR_SET_PDEATHSIG = 1
#: What a kind of task needs besides: most processes only ever encode.
_MODULES = {
    "collect": ("headrace.ingest.fit",),
    "fit": ("headrace.ingest.fit",),
    "live": ("headrace.ingest.live_loop",),
    "probe": ("headrace.ingest.probe", "headrace.ingest.replay"),
    "reencode": ("headrace.ingest.reencode",),
    "receive": ("headrace.ingest.receiver_loop",),
    "replay": ("headrace.ingest.replay",),
}
_THREAD_BYTES = 16 << 20  # stack and client buffers of a reader


class Channel:
    """Messages to and from the supervisor."""

    def __init__(self, in_fd: int, out_fd: int) -> None:
        self._in = os.fdopen(in_fd, "rb")
        self._out = os.fdopen(out_fd, "wb", buffering=0)
        self._lock = threading.Lock()

    def receive(self) -> dict[str, Any]:
        """The next message; ends the process when the supervisor is gone."""
        line = self._in.readline()
        if not line:
            os._exit(0)
        message: dict[str, Any] = json.loads(line)
        return message

    def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        with self._lock:
            self._out.write(json.dumps(message).encode() + b"\n")

    def commit(self, manifest: dict[str, Any]) -> None:
        """Hand a manifest over and wait until it is committed; ends the process when the lane was taken away."""
        self.send({"type": "cut", "manifest": manifest})
        if "stop" in self.receive():
            os._exit(0)

    def commit_lanes(self, manifests: list[dict[str, Any]]) -> None:
        """As `commit`, for several live lanes at once."""
        self.send({"type": "cuts", "manifests": manifests})
        if "stop" in self.receive():
            os._exit(0)

    def poll(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """Tell a service how live lanes or receivers stand; gives back what should change."""
        self.send({"type": "poll", "snapshot": snapshot})
        answer = self.receive()
        if "stop" in answer:
            os._exit(0)
        return answer

    def progress(self, counters: dict[str, Any]) -> None:
        """Tell how far the task is."""
        self.send({"type": "progress", "counters": counters})


def main() -> None:
    """Serve tasks until the pipe closes."""
    in_fd, out_fd, slot_path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the supervisor decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.getLogger("rasterio").setLevel(logging.ERROR)  # what matters of GDAL's warnings becomes findings
    channel, slot = Channel(in_fd, out_fd), Slot(slot_path)
    hello = channel.receive()
    runtime = Runtime.from_json(hello["runtime"])
    engine_text.configure(runtime.pipeline.text_engine.fast, runtime.pipeline.text_engine.check_one_in)
    if all_built_in(runtime.pipeline):
        leave_pandas_out()
    store = open_store(runtime.dataset)
    memory = _Memory()
    streams: dict[str, ResolvedStream] = {}
    while True:
        task = Task.from_json(channel.receive()["task"])
        try:
            if task.spec is not None:
                runtime = runtime.with_stream(task.stream, task.spec)
                streams.pop(task.stream, None)
            if task.stream and task.stream not in streams:
                streams[task.stream] = runtime.resolve(task.stream)
            stream = streams.get(task.stream)
            memory.load(_MODULES.get(task.kind, ()))
            if stream is not None:
                memory.bound(stream)
            result = _do(task, stream, runtime, store, slot, channel, memory)
        except MemoryError:
            os._exit(EXIT_OOM)
        except HeadraceError as exc:
            error = {"type": type(exc).__name__, "message": str(exc), "traceback": traceback.format_exc()}
            retired = {"retired": exc.retired.to_json()} if isinstance(exc, WrongEngine) else {}
            channel.send({"type": "failed", "error": {**error, **retired}})
        except Exception as exc:
            message = f"{type(exc).__name__}: {exc}"
            channel.send(
                {
                    "type": "failed",
                    "error": {"type": "internal", "message": message, "traceback": traceback.format_exc()},
                }
            )
        else:
            channel.send({"type": "done", "result": result})


def _do(
    task: Task,
    stream: ResolvedStream | None,
    runtime: Runtime,
    store: Any,
    slot: Slot,
    channel: Channel,
    memory: _Memory,
) -> dict[str, Any]:
    if task.kind == "receive":
        from headrace.ingest.receiver_loop import ReceiverLoop

        return ReceiverLoop(task, runtime).run(channel)
    if task.kind == "live":
        from headrace.ingest.live_loop import LiveLoop

        for lane in task.lanes:
            live = runtime.with_stream(lane["stream"], lane["spec"]).resolve(lane["stream"])
            memory.bound(live, besides=_buffers(task))
        return LiveLoop(task, runtime, store, slot).run(channel)
    if task.kind == "fit":
        from headrace.ingest.fit import fit

        _unbound_memory()  # records are trusted by now: they were decoded under the limit
        return fit(task, runtime, store)
    if stream is None:
        raise ValueError(f"a {task.kind} task without a stream")
    if task.kind == "encode":
        return encode_lane(task, stream, runtime, store, slot, channel)
    if task.kind == "collect":
        from headrace.ingest.fit import collect

        return collect(task, stream, runtime, store, slot, channel)
    if task.kind == "reencode":
        from headrace.ingest.reencode import reencode

        return reencode(task, stream, runtime, store, slot, channel)
    if task.kind == "replay":
        from headrace.ingest.replay import replay_rows

        return replay_rows(task, stream, runtime, store, slot, channel)
    if task.replay:
        from headrace.ingest.replay import probe_replay

        return probe_replay(task, stream, runtime, store, slot)
    from headrace.ingest.probe import probe

    return probe(task, stream, runtime, store, slot)


def _buffers(task: Task) -> int:
    """Bytes that the queues, threads and open shards of live lanes may hold besides a record being decoded."""
    total = 0
    for lane in task.lanes:
        spec = lane["spec"]
        each = (spec["live"]["buffer_mib"] + 2 * spec["shards"]["block_mib"]) * (1 << 20) + _THREAD_BYTES
        total += int(each) * max(4, 2 * len(lane["splits"]))  # splits may be added while the task runs
    return total


class _Memory:
    """Limits this process to its base plus a stream's allowance for a record.

    The base is what the process had before it decoded anything, with the libraries it imported since: never what
    earlier records left behind, or the same record would pass in an old process and fail in a fresh one.
    RLIMIT_DATA counts private writable memory, so mapped input files are free; RLIMIT_AS would charge them.
    """

    def __init__(self) -> None:
        self._base = _private_bytes()

    def load(self, modules: Iterable[str]) -> None:
        """Import what is needed besides; its size is never charged to a record."""
        before = _private_bytes()
        for name in modules:
            try:
                importlib.import_module(name)
            except ImportError:
                if name.startswith("headrace."):
                    raise
                continue  # the normalizer will say which extra brings it
        self._base += max(0, _private_bytes() - before)

    def bound(self, stream: ResolvedStream, *, besides: int = 0) -> None:
        """Set the limit for a stream's records, with `besides` bytes for what waits in queues."""
        self.load(LIBRARIES.get(stream.spec.record.type, ()))
        limit = self._base + besides + (stream.spec.limits.memory_mib << 20)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _private_bytes() -> int:
    """VmData of this process. Source: proc(5), /proc/PID/status."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))


def _unbound_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the supervisor goes, so that no orphan decodes on. Source: prctl(2)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
