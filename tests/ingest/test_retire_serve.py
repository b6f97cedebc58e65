"""A fast engine goes wrong in a service: the streams go on with the reference, and what was wrong is made right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from headrace.shards.spans import count

from ..servers.redis import RedisServer
from .retire_plugins import QUICK
from .serving import Serving

pytestmark = pytest.mark.server

PIPELINE = """
streams:
{streams}
"""
STREAM = """
  {name}:
    source: {{type: redis, url: "{url}", streams: [{name}]}}
    record: {{type: text, field: body}}
    tokenizer: {{type: "./retire_plugins.py:Words"}}
    live: {{commit_every_s: 0.3, discover_every_s: 0.3}}
"""


def text(name: str, i: int) -> str:
    kind = {3: "WRONG", 7: "WORSE", 11: "LOSSY WRONG"}.get(i % 20, "")
    return f"{name} {kind} {i}"


def push(server: RedisServer, name: str, begin: int, end: int, more: str = "") -> None:
    client = server.client()
    for i in range(begin, end):
        client.xadd(name, {"data": json.dumps({"body": text(name, i) + more})})


def test_every_message_comes_once_with_the_tokens_of_the_reference(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("retire_plugins.py"), tmp_path)
    with RedisServer() as server:
        streams = "".join(STREAM.format(name=name, url=server.url) for name in ("a", "b"))
        with Serving(PIPELINE.format(streams=streams), tmp_path, workers=2) as service:
            push(server, "a", 0, 100)
            push(server, "b", 0, 50)
            service.start()
            service.wait(lambda: service.samples("a") == 100 and service.samples("b") == 50, what="the first messages")
            push(server, "a", 100, 101, " WRONG CHECKED")
            push(server, "b", 50, 100)
            push(server, "a", 101, 200)
            service.wait(lambda: service.samples("a") == 200 and service.samples("b") == 100, what="the rest")
            service.wait(lambda: not _due(service), what="what was to be encoded again")
            engine = next(o["engine"] for s in (service.status() or {})["streams"] for o in s["outputs"])
            assert engine["name"] == "reference" and engine["retired"][0]["engine"] == QUICK
            assert f"{QUICK} retired at v" in " ".join(service.ask("status", str(service.out)).stdout.split())
            assert service.drain() == 0
        dataset, _ = service.checked()
        for name, messages in (("a", 200), ("b", 100)):
            expected = [text(name, i) + (" WRONG CHECKED" if (name, i) == ("a", 100) else "") for i in range(messages)]
            wanted = sorted((t.lower() if "LOSSY" in t else t).encode() for t in expected)
            assert sorted(bytes(tokens) for tokens in service.column(name, "tokens")) == wanted
        assert dataset.state.engines.again["a"].replaced >= 15  # 0 to 99: of every 20 three are wrong
        assert dataset.state.sources["a"].read == 200
        assert not dataset.state.engines.unchecked


def _due(service: Serving) -> int:
    from headrace.shards.dataset import Dataset

    state = Dataset.open(str(service.out)).state
    assert state.engines.retired
    return sum(count(spans) for _, spans in state.engines.due_lanes(state.settings))
