"""The connector `kafka` when messages, topics, brokers or its own process are lost."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Gap, Idle, Item, Read, Split
from headrace.connectors.kafka_items import next_offset
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

from ..servers import kafka_mock
from ..servers.kafka_cluster import (
    Cluster,
    confluent_kafka,
    numbers,
    only,
    reads,
    running,
    until,
    until_raised,
    values,
)
from ..servers.kafka_mock import KafkaMock

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=["mock", "broker"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running cluster."""
    yield from running(request.param)


@pytest.fixture
def shaky() -> Iterator[Cluster]:
    """A mock of its own, for tests that break it."""
    yield from running("mock")


# -- what is lost or changed ------------------------------------------------------------------------------------------


def test_what_retention_took_before_we_came_is_a_gap_with_its_count(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, numbers(100))
    connector = cluster.connector(topic)
    split = only(connector)
    tenth = reads(connector, split)[9].position
    cluster.delete_records(topic, 60)
    gap, *rest = reads(connector, split, tenth)
    assert gap == Gap("retention", 59, 50)
    assert values(rest) == numbers(40, 60)
    # The gap is a place like any other: going on behind it neither repeats it nor leaves anything out.
    assert values(reads(connector, split, gap.position)) == numbers(40, 60)
    connector.close()


def test_what_retention_takes_while_we_read_is_a_gap(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, [b"x" * 20_000] * 200)
    connector = cluster.connector(topic, buffer_mib=4)
    split = only(connector)
    reader = connector.read(split, None)
    first = [next(reader) for _ in range(3)]
    assert all(isinstance(read, Item) for read in first)
    cluster.delete_records(topic, 195)
    rest: list[Read] = list(itertools.takewhile(lambda read: not isinstance(read, Idle), reader))
    reader.close()
    gaps = [read for read in rest if isinstance(read, Gap)]
    got = [next_offset(read.position)[0] - 1 for read in [*first, *rest] if isinstance(read, Item)]
    assert len(gaps) == 1, "a slow reader lost messages and was not told"
    assert got == sorted(set(got))
    assert got[-1] == 199
    assert len(got) + (gaps[0].lost or 0) == 200
    connector.close()


def test_a_log_that_ends_before_our_place_has_changed(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, numbers(5))
    connector = cluster.connector(topic)
    error = until_raised(connector, only(connector), 500, 20)
    assert isinstance(error, SourceChanged)
    assert "501" in str(error) and "ends at 5" in str(error)
    connector.close()


def test_a_topic_made_anew_under_its_name_has_changed(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, numbers(5))
    connector = cluster.connector(topic)
    split = only(connector)
    if split.pin is None:
        pytest.skip("the broker tells no topic ids")
    cluster.delete(topic)
    with pytest.raises(SourceError, match=f"no topic {topic}"):
        next(connector.read(split, [4, 0]))
    cluster.create(topic)
    cluster.produce(topic, numbers(9))
    assert only(connector).pin != split.pin
    with pytest.raises(SourceChanged, match="made anew"):
        next(connector.read(split, [4, 0]))
    connector.close()


def test_a_broker_without_topic_ids_gives_splits_without_pins(shaky: Cluster) -> None:
    topic = shaky.topic()
    shaky.mock.controller(-1)
    connector = shaky.connector(topic)
    assert only(connector).pin is None
    connector.close()


def test_aborted_transactions_are_no_data_and_their_offsets_no_gap(cluster: Cluster) -> None:
    cluster.need_broker()
    topic = cluster.topic()
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.url, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(20)
    for n, keep in enumerate([True, False, True, False]):
        producer.begin_transaction()
        for value in numbers(3, 10 * n):
            producer.produce(topic, value, partition=0)
        (producer.commit_transaction if keep else producer.abort_transaction)(20)
    connector = cluster.connector(topic)
    found = reads(connector, only(connector))
    assert values(found) == [*numbers(3), *numbers(3, 20)]
    assert not [read for read in found if isinstance(read, Gap)]
    assert connector.end_of(only(connector)) == found[-1].position
    for item in found:
        assert values(reads(connector, only(connector), item.position)) == values(found[found.index(item) + 1 :])
    connector.close()


# -- faults -----------------------------------------------------------------------------------------------------------


def test_failed_fetches_and_a_moved_leader_lose_and_double_nothing(shaky: Cluster) -> None:
    topic = shaky.topic()
    shaky.mock.lead(topic, 0, 1)
    shaky.produce(topic, numbers(2000))
    shaky.mock.fail(kafka_mock.FETCH, [kafka_mock.NOT_LEADER, kafka_mock.HANG_UP, kafka_mock.NOT_LEADER])
    connector = shaky.connector(topic, buffer_mib=4)
    found: list[bytes] = []
    for n, read in enumerate(connector.read(only(connector), None)):
        if n == 50:
            shaky.mock.down(1)
            shaky.mock.lead(topic, 0, 2)
            shaky.produce(topic, numbers(1000, 2000))
        if isinstance(read, Item):
            found.append(read.data)
        if len(found) == 3000:
            break
    assert found == numbers(3000)
    connector.close()


def test_brokers_that_are_down_are_an_error_and_reading_goes_on_after_it(shaky: Cluster) -> None:
    topic = shaky.topic()
    shaky.produce(topic, numbers(30))
    connector = shaky.connector(topic, timeout_s=1)
    split = only(connector)
    found = reads(connector, split)
    shaky.mock.down()
    error = until_raised(connector, split, found[-1].position, 15)
    assert type(error) is SourceError
    shaky.mock.up()
    shaky.produce(topic, numbers(5, 30))
    until(lambda: not _fails(lambda: connector.probe()))
    assert values(reads(connector, split, found[-1].position)) == numbers(5, 30)
    connector.close()


def _fails(call: Any) -> bool:
    try:
        call()
    except SourceError:
        return True
    return False


def test_a_cluster_that_hangs_is_an_error(shaky: Cluster) -> None:
    topic = shaky.topic()
    shaky.produce(topic, numbers(3))
    connector = shaky.connector(topic, timeout_s=1)
    split = only(connector)
    reader = connector.read(split, None)
    assert [next(reader).data for _ in range(3)] == numbers(3)  # type: ignore[union-attr]
    shaky.mock.stop()
    try:
        with pytest.raises(SourceError):
            for _ in range(60):
                next(reader)
    finally:
        shaky.mock.go_on()
    connector.close()


def test_a_killed_cluster_is_an_error_that_names_no_secret() -> None:
    with KafkaMock() as mock:
        mock.create("tide")
        cluster = Cluster(mock.url, mock)
        connector = cluster.connector("tide", timeout_s=1)
        split = only(connector)
        mock.kill()
        for call in (connector.probe, connector.splits, lambda: next(connector.read(Split("tide/0"), None))):
            with pytest.raises(SourceError):
                call()
        with pytest.raises(SourceError):
            connector.lag(split, None)
        connector.close()


def test_a_group_that_may_not_be_used_does_not_matter(shaky: Cluster) -> None:
    topic = shaky.topic()
    shaky.produce(topic, numbers(5))
    shaky.mock.fail(kafka_mock.FIND_COORDINATOR, [kafka_mock.GROUP_REFUSED] * 50)
    connector = shaky.connector(topic)
    found: list[bytes] = []
    began = time.monotonic()
    for read in connector.read(only(connector), None):
        found += [read.data] if isinstance(read, Item) else []
        if time.monotonic() - began > 2.5:
            break
    assert found == numbers(5)
    connector.close()


def test_a_topic_that_may_not_be_read_parks_the_split(shaky: Cluster) -> None:
    topic = shaky.topic()
    shaky.produce(topic, numbers(5))
    connector = shaky.connector(topic)
    split = only(connector)
    shaky.mock.fail(kafka_mock.FETCH, [kafka_mock.TOPIC_REFUSED] * 20)
    error = until_raised(connector, split, None, 10)
    assert isinstance(error, ConfigError)
    assert "READ" in str(error)
    connector.close()


def test_credentials_that_are_not_taken_are_an_error_without_them(shaky: Cluster) -> None:
    topic = shaky.topic()
    connector = shaky.connector(topic, username="wheel", password="s3cret-canary", tls=False, sasl="PLAIN", timeout_s=1)
    with pytest.raises((ConfigError, SourceError)) as caught:
        connector.probe()
    assert "s3cret-canary" not in str(caught.value)
    connector.close()


# -- exactly once -----------------------------------------------------------------------------------------------------


_READER = """
import json, sys, time
task = json.load(sys.stdin)
sys.path[:0] = [p for p in task["path"] if p not in sys.path]
from headrace.connectors.contract import Idle, Item, Split
from headrace.connectors.kafka import Kafka
connector = Kafka(Kafka.Config.model_validate(task["settings"]))
with open(task["out"], "a", buffering=1) as out:
    for read in connector.read(Split(*task["split"]), task["after"]):
        if isinstance(read, Item):
            out.write(json.dumps([read.position, read.data.decode()]) + "\\n")
            time.sleep(0.0005)
"""


def test_a_reader_killed_again_and_again_takes_each_message_once(cluster: Cluster, tmp_path: Path) -> None:
    """The file stands for the dataset: a line holds an item and its position, so they are durable together."""
    topic = cluster.topic()
    total = 3000
    cluster.produce(topic, numbers(total))
    connector = cluster.connector(topic, buffer_mib=4)
    split = only(connector)
    out = tmp_path / "dataset"
    out.touch()
    settings = {**connector.config.model_dump(mode="json"), "librdkafka": {"fetch.wait.max.ms": 20}}
    chance = random.Random(7)
    kills = 0
    lines: list[Any] = []
    while len(lines) < total:
        after = lines[-1][0] if lines else None
        task = {
            "path": [os.path.abspath(p) for p in sys.path], "settings": settings, "out": str(out), "after": after,
            "split": [split.id, split.pin],
        }  # fmt: skip
        child = subprocess.Popen([sys.executable, "-c", _READER], stdin=subprocess.PIPE, text=True)
        assert child.stdin is not None
        child.stdin.write(json.dumps(task))
        child.stdin.close()
        aim = min(total, len(lines) + chance.randrange(1, 900))
        while len(out.read_bytes().splitlines()) < aim:
            assert child.poll() is None, "the reader ended by itself"
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
        text = out.read_text()
        out.write_text(text[: text.rfind("\n") + 1])  # a torn line was not committed
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert kills >= 3
    assert [line[1].encode() for line in lines] == numbers(total)
    connector.close()
