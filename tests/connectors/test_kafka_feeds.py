"""The connector `kafka` with many partitions at once, some of them slow."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Idle, Item, Split
from headrace.connectors.kafka_client import KafkaClient
from headrace.connectors.kafka_config import KafkaConfig
from headrace.connectors.kafka_feeds import Feeds
from headrace.schemas.errors import SourceError

from ..servers.kafka_cluster import (
    Cluster,
    FakeMessage,
    numbers,
    only,
    reads,
    running,
    values,
)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=["mock", "broker"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running cluster."""
    yield from running(request.param)


# -- many partitions, slow readers ------------------------------------------------------------------------------------


def _threads_and_data() -> tuple[int, int]:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["Threads"]), int(fields["VmData"].split()[0]) >> 10


def test_a_hundred_partitions_cost_the_threads_of_one(cluster: Cluster) -> None:
    topic = cluster.topic(100)
    for n in range(100):
        cluster.produce(topic, numbers(3, n), partition=n)
    connector = cluster.connector(topic)
    splits = connector.splits()
    assert len(splits) == 100
    threads, data = _threads_and_data()
    open_reads = [connector.read(split, None) for split in splits]
    got = [[next(read).data for _ in range(3)] for read in open_reads]  # type: ignore[union-attr]
    more_threads, more_data = _threads_and_data()
    assert got == [numbers(3, n) for n in (int(split.id.rpartition("/")[2]) for split in splits)]
    assert more_threads - threads < 20
    assert more_data - data < 300, "MiB"
    for read in open_reads:
        read.close()  # type: ignore[attr-defined]
    connector.close()


def test_a_partition_that_nobody_reads_holds_up_no_other_and_loses_nothing(cluster: Cluster) -> None:
    topic = cluster.topic(2)
    slow = [b"%06d" % n + b"s" * 4000 for n in range(1000)]
    cluster.produce(topic, slow, partition=0)
    connector = cluster.connector(topic, buffer_mib=4)
    first, second = connector.splits()
    sleeper = connector.read(first, None)
    got = [next(sleeper).data]  # type: ignore[union-attr]
    quick = connector.read(second, None)
    seen = 0
    for round in range(20):
        cluster.produce(topic, numbers(50, 50 * round), partition=1)
        while seen < 50 * (round + 1):
            seen += isinstance(next(quick), Item)
    held = sum(feed.bytes for feed in connector._feeds._open.values())
    assert held < 3 << 20, "a quarter of the buffer, and what the library may have read ahead"
    got += values(list(itertools.takewhile(lambda read: not isinstance(read, Idle), sleeper)))
    assert got == slow
    connector.close()


def test_many_threads_read_their_partitions_from_one_connector(cluster: Cluster) -> None:
    topic = cluster.topic(8)
    for n in range(8):
        cluster.produce(topic, [b"%d/%d" % (n, i) for i in range(3000)], partition=n)
    connector = cluster.connector(topic, buffer_mib=4)
    got: dict[str, list[bytes]] = {}

    def follow(split: Split) -> None:
        found = got.setdefault(split.id, [])
        for read in connector.read(split, None):
            found += [read.data] if isinstance(read, Item) else []
            if len(found) == 3000:
                return

    threads = [threading.Thread(target=follow, args=(split,)) for split in connector.splits()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == {f"{topic}/{n}": [b"%d/%d" % (n, i) for i in range(3000)] for n in range(8)}
    connector.close()


def test_closing_and_opening_feeds_while_others_read_mixes_nothing_up(cluster: Cluster) -> None:
    topic = cluster.topic(2)
    for n in (0, 1):
        cluster.produce(topic, numbers(400), partition=n)
    connector = cluster.connector(topic)
    first, second = connector.splits()
    stop = threading.Event()

    def spin() -> None:
        for _ in connector.read(second, None):
            if stop.is_set():
                return

    thread = threading.Thread(target=spin)
    thread.start()
    chance = random.Random(4)
    for _ in range(25):
        at = chance.randrange(0, 390)
        reader = connector.read(first, at)
        got = [next(reader).data for _ in range(chance.randrange(1, 9))]  # type: ignore[union-attr]
        reader.close()  # type: ignore[attr-defined]
        assert got == numbers(len(got), at + 1)
    stop.set()
    thread.join(10)
    connector.close()


class StaleConsumer:
    """A consumer whose poll holds a message of partition 0, fetched from the old place, until it is let go."""

    def __init__(self) -> None:
        self.polls, self.go = threading.Event(), threading.Event()

    def incremental_assign(self, places: Any) -> None: ...

    def incremental_unassign(self, places: Any) -> None: ...

    def close(self) -> None: ...

    def poll(self, timeout_s: float) -> Any:
        self.polls.set()
        return StaleMessage() if self.go.wait(5) else None

    def consume(self, most: int, timeout_s: float) -> list[Any]:
        return []


class StaleMessage(FakeMessage):
    """Of offset 41 of tide/0."""

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return "tide"

    def partition(self) -> int:
        return 0


def test_a_message_in_hand_does_not_reach_a_feed_that_was_opened_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    client = KafkaClient(KafkaConfig(bootstrap_servers=("h:1",), topics=("tide",)))
    consumer = StaleConsumer()
    monkeypatch.setattr(client, "new_consumer", lambda: consumer)
    feeds = Feeds(client, 1 << 20)
    reached: list[int] = []

    def follow_another() -> None:
        with feeds.open("tide", 1, 0, None) as other:
            other.take(0.2)

    def open_anew() -> None:
        with feeds.open("tide", 0, 7, None) as feed:
            poller.join(5)
            reached.append(feed.offset)

    with feeds.open("tide", 0, 40, None):
        poller = threading.Thread(target=follow_another)
        poller.start()
        assert consumer.polls.wait(5)
    opener = threading.Thread(target=open_anew)
    opener.start()
    time.sleep(0.2)
    consumer.go.set()
    poller.join(5)
    opener.join(5)
    assert reached == [7], "a message of the old place moved the new feed beyond what it has to read"
    feeds.close()


def test_one_partition_is_read_once_at_a_time(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, numbers(3))
    connector = cluster.connector(topic)
    split = only(connector)
    reader = connector.read(split, None)
    next(reader)
    with pytest.raises(SourceError, match="being read already"):
        next(connector.read(split, None))
    reader.close()  # type: ignore[attr-defined]
    assert values(reads(connector, split)) == numbers(3)
    connector.close()


def test_close_ends_a_reader_that_waits(cluster: Cluster) -> None:
    topic = cluster.topic()
    connector = cluster.connector(topic)
    ended: list[Exception] = []

    def wait() -> None:
        try:
            for _ in connector.read(Split(f"{topic}/0"), None):
                pass
        except SourceError as exc:
            ended.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.8)
    connector.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed" in str(ended[0])
