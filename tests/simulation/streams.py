"""The two streams of a history, resolved once: every process and history has the same ones."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.ingest.pipeline_file import make_pipeline
from headrace.ingest.resolve import ResolvedStream, Runtime

from . import paper
from .processes import BrokerConnector, SpoolConnector
from .sources import BrokerTicker, PushTicker

if TYPE_CHECKING:
    from .world import World

playing: list[World] = []  #: the history being played, if there is one


class SimStream(ResolvedStream):
    """A stream whose connector is that of the history being played."""

    def make_connector(self) -> Any:
        world = playing[-1]
        return SpoolConnector(world) if self.name == "push" else BrokerConnector(world)


class SimRuntime(Runtime):
    """Resolves nothing anew: a pipeline is the same in every process and history."""

    streams: dict[str, ResolvedStream]

    def with_stream(self, name: str, spec: dict[str, Any]) -> SimRuntime:
        return self

    def resolve(self, name: str) -> ResolvedStream:
        return self.streams[name]


@cache
def runtime_of(full: bool, windows: bool, push_window: int, quay_dedup: bool) -> SimRuntime:
    """The pipeline of one kind of history: `push` is spooled and deduplicated, `quay` is read from the broker."""
    text: dict[str, Any] = {
        "source": {"type": "./tickers.py:Ticker"},  # replaced below
        "record": {"type": "text"},
        "tokenizer": {"text": {"type": "raw"}},
        "live": {"lanes": 2, "commit_every_s": 1, "idle_after_s": 20, "lateness_s": 5},
        "shards": {"payload_mib": 4.5},  # four records of paper fill a lane
    }
    push = {**text, "dedup": {"window": push_window, "scope": "stream"}}
    quay = dict(text)
    if windows:
        quay |= {"record": {"type": "sensor", "time": "t"}, "tokenizer": {"sensor": {"type": "raw"}}}
        quay["windows"] = {"samples": 3}
    if quay_dedup:
        quay["dedup"] = {"window": 1000}
    here = Path(__file__).parent
    runtime = Runtime.of(make_pipeline({"streams": {"push": push, "quay": quay}}, base=here), "simulated", here)
    made = SimRuntime(runtime.pipeline, "simulated", here, {})
    streams = {}
    for name, connector in (("push", PushTicker), ("quay", BrokerTicker)):
        found = runtime.resolve(name)
        values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
        values["connector"] = connector
        if not full:
            values |= {"normalizer": paper.PaperNormalizer, "normalizer_config": None}
        streams[name] = SimStream(**values)
    object.__setattr__(made, "streams", streams)
    return made
