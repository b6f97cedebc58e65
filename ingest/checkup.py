"""What would fail during a run, found before it: the machine, libraries, codecs, Ray, storage, and every source."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.schemas.errors import HeadraceError
from headrace.shards.log import CommitLog
from headrace.shards.race import exclusive_race
from headrace.shards.store import open_store

Verdict = Literal["ok", "warn", "bad", "absent"]

_SOURCE_S = 15.0  #: how long a source may take to answer
_FILES = 4096  #: open files that a service with many splits wants
_SHM = 256 << 20
_EXTRAS = {
    "pillow": "image", "av": "media", "rasterio": "raster", "sentencepiece": "text", "ray": "ray", "s3fs": "s3",
    "mcap": "sensor", "tokenizers": "hf", "tiktoken": "tiktoken", "starlette": "serve", "redis": "redis",
    "paho-mqtt": "mqtt", "confluent-kafka": "kafka", "psycopg": "postgres",
    "pika": "rabbitmq", "fastavro": "avro", "websockets": "websocket",
}  # fmt: skip
_CODECS = ("h264", "hevc", "av1", "vp9", "mjpeg", "aac", "opus", "mp3", "flac")


@dataclass(frozen=True)
class Check:
    """One finding. `absent`: an optional thing that is not here, which is no fault by itself."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def machine() -> Iterator[Check]:
    """Python, cores, memory for Ray, temporary space, open files, the clock, variables that break Ray."""
    right = sys.version_info >= (3, 11)
    yield Check("python", "ok" if right else "bad", sys.version.split()[0], "" if right else "Python 3.11 or newer")
    yield Check("cores", "ok", str(len(os.sched_getaffinity(0))))
    scratch = os.environ.get("TMPDIR", "/tmp")
    free = shutil.disk_usage(scratch).free
    enough = free >= 1 << 30
    yield Check(
        "temporary space",
        "ok" if enough else "bad",
        f"{free / (1 << 30):.1f} GiB free in {scratch}",
        "" if enough else "set TMPDIR to a folder with space; on some clusters /tmp is memory of the job",
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = soft if hard == resource.RLIM_INFINITY else hard
    yield Check(
        "open files",
        "ok" if soft >= _FILES else "warn",
        f"{soft:,} (at most {most:,})",
        "" if soft >= _FILES else f"ulimit -n {min(most, _FILES) if most > 0 else _FILES}",
    )
    if os.path.isdir("/dev/shm"):
        shm = shutil.disk_usage("/dev/shm").total
        yield Check(
            "/dev/shm",
            "ok" if shm >= _SHM else "warn",
            f"{shm >> 20:,} MiB",
            "" if shm >= _SHM else "Ray wants 128 MiB there; in a container raise --shm-size",
        )
    year = time.gmtime().tm_year
    yield Check("clock", "ok" if year >= 2025 else "bad", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    if "ROCR_VISIBLE_DEVICES" in os.environ and "HIP_VISIBLE_DEVICES" not in os.environ:
        yield Check("ROCR_VISIBLE_DEVICES", "bad", "set", "Ray refuses to start unless HIP_VISIBLE_DEVICES is set too")


def libraries() -> Iterator[Check]:
    """Which optional libraries are here."""
    for library, extra in _EXTRAS.items():
        try:
            yield Check(library, "ok", version(library))
        except PackageNotFoundError:
            yield Check(library, "absent", "not installed", f"pip install 'headrace[{extra}]'")


def codecs() -> Iterator[Check]:
    """Which decoders the installed libav has."""
    if importlib.util.find_spec("av") is None:
        return
    import av

    missing = [name for name in _CODECS if name not in av.codecs_available]
    yield Check(
        "codecs",
        "warn" if missing else "ok",
        f"without {', '.join(missing)}" if missing else ", ".join(_CODECS),
        "the wheel of `av` on PyPI has them" if missing else "",
    )


def ray_start(address: str | None) -> Check:
    """Whether Ray starts here, or the cluster at `address` lets us in."""
    if importlib.util.find_spec("ray") is None:
        return Check("ray start", "absent", "not installed", "--engine inline needs no Ray")
    from headrace.ingest.ray_engine import nodes_of

    began = time.monotonic()
    try:
        nodes, cores = nodes_of(address)
    except HeadraceError as exc:
        return Check("ray start", "bad", str(exc), "--engine inline needs no Ray")
    return Check("ray start", "ok", f"{nodes} nodes, {cores} cores, up in {time.monotonic() - began:.0f} s")


def port(listen: str) -> Check:
    """Whether the address of the status page is free."""
    host, _, number = listen.rpartition(":")
    try:
        with socket.create_server((host, int(number))):
            return Check(f"port {listen}", "ok", "free")
    except (OSError, ValueError) as exc:
        return Check(f"port {listen}", "bad", str(exc), "another address: --listen 127.0.0.1:PORT")


def storage(url: str) -> Check:
    """Whether the store creates a name exactly once under a race of processes."""
    try:
        result = exclusive_race(open_store(url, create=True))
    except HeadraceError as exc:
        return Check(f"storage {url}", "bad", str(exc), "a dataset needs a store that creates a name exactly once")
    found = f"exclusive: {result.names} names raced for by {result.processes} processes, one winner each"
    return Check(f"storage {url}", "ok", found)


def sources(runtime: Runtime) -> Iterator[Check]:
    """Whether each source of a pipeline can be reached with its credentials, and each tokenizer is there."""
    settings = _settings(runtime.dataset)
    for name in runtime.pipeline.streams:
        try:
            stream = runtime.resolve(name)
        except HeadraceError as exc:
            yield Check(f"stream {name}", "bad", str(exc))
            continue
        yield _reached(stream)
        for output in stream.outputs.values():
            if output.fit_group and output.modality == stream.normalizer.modality and output.name not in settings:
                remedy = "headrace fit, before headrace serve; headrace build does it by itself"
                yield Check(f"tokenizer {output.name}", "warn", "not fitted yet", remedy)
        if stream.spool_folder is not None:
            yield _spool(stream.name, stream.spool_folder)


def _reached(stream: ResolvedStream) -> Check:
    name = f"source {stream.name}"
    began = time.monotonic()
    answer = _within(_SOURCE_S, lambda: _probe(stream))
    if answer is None:
        return Check(name, "bad", f"no answer within {_SOURCE_S:.0f} s", "is it reachable from this node?")
    if answer:
        return Check(name, "bad", answer)
    return Check(name, "ok", f"{stream.spec.source.type}, answered in {time.monotonic() - began:.1f} s")


def _probe(stream: ResolvedStream) -> str:
    try:
        connector = stream.make_receiver()
        try:
            connector.probe()
        finally:
            connector.close()
    except HeadraceError as exc:
        return str(exc)
    return ""


def _within(seconds: float, ask: Callable[[], str]) -> str | None:
    """The answer, or None if it did not come in time; the thread is left behind."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _spool(name: str, folder: Path) -> Check:
    here = folder
    while not here.exists():
        here = here.parent
    writable = os.access(here, os.W_OK)
    free = shutil.disk_usage(here).free >> 30
    verdict: Verdict = "ok" if writable and free else "bad"
    return Check(f"spool {name}", verdict, f"{folder}, {free} GiB free", "" if writable else f"{here} is not writable")


def _settings(dataset: str) -> dict[str, object]:
    try:
        return dict(CommitLog(open_store(dataset)).replay().settings)
    except HeadraceError:
        return {}
