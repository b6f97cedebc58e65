"""`headrace serve` as a process: real broker, real kills, commands while it runs."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..servers.redis import RedisServer
from .serving import Serving

pytestmark = pytest.mark.server

REDIS = """
  {name}:
    source: {{type: redis, url: "{url}", streams: [{name}]}}
    record: {{type: text, field: body}}
    tokenizer: {{type: bytes}}
    live: {{commit_every_s: 0.5, discover_every_s: 0.5}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def redis_stream(server: RedisServer, name: str) -> str:
    return REDIS.format(name=name, url=server.url)


def push(server: RedisServer, name: str, begin: int, end: int) -> None:
    client = server.client()
    for i in range(begin, end):
        client.xadd(name, {"data": json.dumps({"body": f"{name} {i}"})})


def numbers(service: Serving, name: str) -> list[int]:
    """The number in every sample's text: its tokens are its bytes."""
    return sorted(int(bytes(tokens).decode().split()[-1]) for tokens in service.column(name, "tokens"))


class Pusher(threading.Thread):
    """Adds messages all the while, also through restarts of the server."""

    def __init__(self, server: RedisServer, name: str, count: int, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.server, self.stream, self.count, self.pause_s = server, name, count, pause_s

    def run(self) -> None:
        client: Any = self.server.client()
        at = 0
        while at < self.count:
            try:
                # The id is ours, so a message whose reply was lost is not added twice.
                client.xadd(self.stream, {"data": json.dumps({"body": f"m {at}"})}, id=f"{at + 1}-1")
                at += 1
            except Exception as exc:
                if "equal or smaller" in str(exc):
                    at += 1
                    continue
                time.sleep(0.05)
            time.sleep(self.pause_s)


def test_nothing_is_lost_or_doubled_while_everything_is_killed(tmp_path: Path) -> None:
    rng = random.Random(3)
    with RedisServer() as server, Serving("streams:" + redis_stream(server, "m"), tmp_path) as service:
        pusher = Pusher(server, "m", 1500, 0.05)  # goes on beyond the last kill, however slow the machine is
        pusher.start()
        service.start()
        kills = {"child": 0, "service": 0, "broker": 0}
        for victim in ("child", "service", "child", "broker", "service", "child"):
            before = service.samples("m")
            service.wait(lambda before=before: service.samples("m") > before, what="a commit after a kill")
            time.sleep(rng.uniform(0, 0.7))
            if victim == "child":
                children = service.children()
                if children:
                    os.kill(rng.choice(children), signal.SIGKILL)
                    kills["child"] += 1
            elif victim == "service":
                service.kill()
                kills["service"] += 1
                service.start()
            else:
                server.kill()
                kills["broker"] += 1
                server.restart()
        pusher.pause_s = 0.0
        pusher.join(60)
        service.wait(lambda: service.samples("m") >= 1500, what="the last message")
        assert service.drain() == 0
        assert numbers(service, "m") == list(range(1500))
        dataset, report = service.checked()
        assert report.samples == 1500
        assert dataset.state.sources["m"].read == 1500
        assert kills["service"] == 2 and kills["broker"] == 1 and kills["child"] >= 2


def test_streams_are_paused_added_changed_and_removed_while_others_go_on(server: RedisServer, tmp_path: Path) -> None:
    push(server, "one", 0, 10)
    push(server, "two", 0, 10)
    with Serving("streams:" + redis_stream(server, "one"), tmp_path) as service:
        service.start()
        service.wait(lambda: service.samples("one") == 10)
        assert service.ask("streams", "pause", str(service.out), "one").returncode == 0
        push(server, "one", 10, 20)
        (tmp_path / "two.yaml").write_text(
            "\n".join(line[4:] for line in redis_stream(server, "two").strip("\n").splitlines()[1:])
        )
        added = service.ask("streams", "add", str(service.out), "two", str(tmp_path / "two.yaml"))
        assert added.returncode == 0, added.stderr
        service.wait(lambda: service.samples("two") == 10)
        assert service.samples("one") == 10, "a paused stream went on"
        assert service.stream("one")["state"] == "paused"
        service.kill()
        service.start()
        service.wait(lambda: service.stream("one").get("state") == "paused", what="the pause, over a restart")
        assert service.ask("streams", "resume", str(service.out), "one").returncode == 0
        service.wait(lambda: service.samples("one") == 20)
        service.pipeline.write_text("streams:" + redis_stream(server, "two"))
        told = service.ask("streams", "reload", str(service.out), str(service.pipeline))
        assert told.returncode == 0, told.stderr
        assert told.stdout.strip() == "added two; removed one"
        push(server, "two", 10, 20)
        push(server, "one", 20, 30)
        service.wait(lambda: service.samples("two") == 20)
        assert service.samples("one") == 20
        assert service.drain() == 0
    service.checked()


def test_files_are_taken_as_they_appear(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pipeline = f"""
streams:
  notes:
    source: {{type: files, root: {tmp_path / "in"}, watch: {{rename: true}}}}
    record: {{type: text}}
    tokenizer: {{type: bytes}}
    live: {{discover_every_s: 0.3}}
"""
    with Serving(pipeline, tmp_path) as service:
        service.start()
        for n in range(3):
            (tmp_path / "in" / f".part{n}").write_text(f"note {n}")
            os.rename(tmp_path / "in" / f".part{n}", tmp_path / "in" / f"{n}.txt")
            service.wait(lambda n=n: service.samples("notes") == n + 1)
        refused = service.ask("build", str(service.pipeline), "--out", str(service.out), "--engine", "inline")
        assert refused.returncode == 2 and "a service runs on this dataset" in refused.stderr
        assert service.stream("notes")["state"] == "running", "a build fenced the service"
        assert service.drain() == 0
    built = service.ask("build", str(service.pipeline), "--out", str(service.out), "--engine", "inline")
    assert built.returncode == 0, built.stderr
    assert sorted(service.column("notes", "uri")) == ["0.txt", "1.txt", "2.txt"]
    service.checked()


def test_the_newer_service_fences_the_older_which_says_so(server: RedisServer, tmp_path: Path) -> None:
    push(server, "fence", 0, 10)
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    pipeline = "streams:" + redis_stream(server, "fence")
    with Serving(pipeline, tmp_path / "old") as old, Serving(pipeline, tmp_path / "new") as new:
        new.out = old.out
        old.start()
        old.wait(lambda: old.samples("fence") == 10)
        refused = new.start().process
        assert refused is not None and refused.wait(30) == 4
        assert "a service is running on this dataset at http://127.0.0.1" in new.said()
        new.start("--take-over")
        push(server, "fence", 10, 20)
        new.wait(lambda: new.samples("fence") == 20)
        assert old.process is not None
        assert old.process.wait(30) == 4
        assert "another writer took the dataset over" in old.said()
        assert new.drain() == 0
    assert numbers(new, "fence") == list(range(20))
    new.checked()


def test_an_unfitted_tokenizer_is_refused_with_the_command_that_fits_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pipeline = f"""
streams:
  pictures:
    source: {{type: files, root: {tmp_path / "in"}}}
    record: {{type: image}}
"""
    with Serving(pipeline, tmp_path) as service:
        service.start()
        assert service.process is not None and service.process.wait(30) == 2
        assert "headrace fit" in service.said()


def test_a_source_that_is_away_is_reported_and_met_again(tmp_path: Path) -> None:
    with RedisServer() as server, Serving("streams:" + redis_stream(server, "away"), tmp_path) as service:
        push(server, "away", 0, 5)
        service.start()
        service.wait(lambda: service.samples("away") == 5)
        server.kill()
        service.wait(lambda: bool(service.stream("away").get("errors")), what="a word about the server")
        server.restart()
        push(server, "away", 5, 9)
        service.wait(lambda: service.samples("away") == 9, 90)
        service.wait(lambda: not service.stream("away").get("errors"), what="the end of the trouble")
        assert service.drain() == 0
    service.checked()


def test_a_tokenizer_is_fitted_to_what_a_stream_holds_now(server: RedisServer, tmp_path: Path) -> None:
    import io

    import numpy as np
    from PIL import Image

    client = server.client()
    rng = np.random.default_rng(5)
    for _ in range(6):
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((64, 64))
        sink = io.BytesIO()
        picture.save(sink, "png")
        client.xadd("pictures", {"data": sink.getvalue()})
    pipeline = f"""
streams:
  pictures:
    source: {{type: redis, url: "{server.url}", streams: [pictures]}}
    record: {{type: image}}
    live: {{commit_every_s: 0.5}}
"""
    with Serving(pipeline, tmp_path) as service:
        fitted = service.ask("fit", str(service.pipeline), "--out", str(service.out), "--engine", "inline")
        assert fitted.returncode == 0, fitted.stderr
        assert fitted.stdout.startswith("pictures: ")
        service.start()
        service.wait(lambda: service.samples("pictures") == 6)
        assert service.drain() == 0
    service.checked()
