"""What the engine sees while a history is played: its clock, disk, threads and names in place of those of the host."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from headrace.shards.entry import Entry

from . import paper
from .clock import Event
from .processes import NoWatch, SimCompaction, SimDiscovery
from .sources import SimFeed
from .streams import playing

if TYPE_CHECKING:
    from .world import World


def _patches(world: World) -> Iterator[tuple[str, str, Any]]:
    clock = world.clock
    for name in (
        "service", "service_lanes", "service_stream", "service_commits", "service_batches", "service_receivers",
        "service_discovery", "live_loop", "live_lane", "walk",
    ):  # fmt: skip
        yield f"headrace.ingest.{name}", "time", clock
    yield "headrace.ingest.live_loop", "ThreadFeed", SimFeed
    yield "headrace.ingest.live_loop", "threading", SimpleNamespace(Event=lambda: Event(clock))
    yield "headrace.ingest.live_loop", "_resident_bytes", lambda: None
    yield "headrace.ingest.service", "open_store", lambda url, create: world.store
    yield "headrace.ingest.service", "Runtime", SimpleNamespace(from_json=lambda value: world.runtime)
    yield "headrace.ingest.service", "resolve", lambda *_: dict(world.runtime.streams)
    yield "headrace.ingest.service", "library_versions", lambda: {"headrace": "simulated"}
    yield "headrace.ingest.service", "Discovery", SimDiscovery
    yield "headrace.ingest.service", "LogWatch", NoWatch
    yield "headrace.ingest.service", "Compaction", SimCompaction
    if world.posix is not None:
        yield "headrace.shards.store_local", "os", world.posix
        yield "headrace.shards.store_local", "open", world.posix.read_file
    if not world.full:
        yield "headrace.shards.log", "seal", world.seal
        yield "headrace.shards.log", "parse", world.parse
        yield from paper.PATCHES


@contextmanager
def staged(world: World) -> Iterator[None]:
    """The engine's modules see the simulated clock, disk and threads; the dice give random names."""
    before = []
    absent = object()
    for module_name, name, value in _patches(world):
        module = importlib.import_module(module_name)
        before.append((module, name, module.__dict__.get(name, absent)))
        setattr(module, name, value)
    wire = Entry.__dict__.get("to_json"), Entry.__dict__.get("from_json")
    if not world.full:  # entries travel from lane to log as they are
        Entry.to_json = lambda self: self  # type: ignore[method-assign]
        Entry.from_json = classmethod(lambda cls, value: value)  # type: ignore[method-assign, assignment]
    token_hex, secrets.token_hex = secrets.token_hex, world.token_hex
    playing.append(world)
    try:
        yield
    finally:
        playing.pop()
        secrets.token_hex = token_hex
        if not world.full:
            assert wire == (None, None)  # both are inherited
            del Entry.to_json, Entry.from_json
        for module, name, value in reversed(before):
            if value is absent:
                delattr(module, name)
            else:
                setattr(module, name, value)
