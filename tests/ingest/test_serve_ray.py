"""`headrace serve` on Ray: workers, the coordinator and the command are killed, and the next one goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from headrace.shards.dataset import Dataset

from ..servers.redis import RedisServer
from .serving import Serving
from .test_same_bytes import descendants
from .test_serve import Pusher, numbers, redis_stream

pytestmark = [pytest.mark.server, pytest.mark.ray]


def kill(service: Serving, word: str) -> None:
    """SIGKILL to the actor's process of this name."""
    assert service.process is not None
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = descendants(service.process.pid, word)
        if found:
            os.kill(found[0], signal.SIGKILL)
            return
        time.sleep(0.1)
    raise AssertionError(f"no process is called {word}")


def _epoch(service: Serving) -> int:
    return Dataset.open(str(service.out)).state.epoch


def test_nothing_is_lost_or_doubled_while_actors_and_the_command_are_killed(tmp_path: Path) -> None:
    with RedisServer() as server:
        with Serving("streams:" + redis_stream(server, "m"), tmp_path, engine="ray", workers=2) as service:
            pusher = Pusher(server, "m", 100_000, 0.03)
            pusher.start()
            service.start()
            for victim in ("ray::_WorkerActor", "ray::_ServiceActor", "headrace.ingest.child", "command"):
                before = service.samples("m")
                service.wait(lambda before=before: service.samples("m") > before, 90, f"a commit before {victim}")
                if victim == "command":
                    epoch = _epoch(service)
                    service.kill()
                    service.start()
                    service.wait(lambda epoch=epoch: _epoch(service) > epoch, 120, "a claim after the kill")
                    before = service.samples("m")
                    service.wait(lambda before=before: service.samples("m") > before, 90, "a commit after the kill")
                else:
                    kill(service, victim)
            pusher.count = 0  # it has sent enough, however long the kills took
            pusher.join(30)
            count = int(server.client().xlen("m"))
            service.wait(lambda: service.samples("m") >= count, 120, "the last message")
            assert service.drain(90) == 0
        assert numbers(service, "m") == list(range(count))
        dataset, _ = service.checked()
        assert dataset.state.sources["m"].read == count
        assert dataset.state.epoch >= 3, "the coordinator and the command each claimed anew"
