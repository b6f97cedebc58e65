"""The connector `kafka`: topics of a Kafka cluster, one split per partition, read from offsets of our own.

A split is `topic/partition` and is pinned to the topic's id. Its positions are described in kafka_items.py. There is no
consumer group: nobody else's rebalance moves us, and what was read is known from the dataset alone. Offsets that hold
nothing (compacted messages, markers and aborted messages of transactions) are ordinary and no gap; offsets that were
deleted before they were read are one, with their count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from headrace.connectors.contract import Connector, Gap, Idle, Lag, Position, Read, Split
from headrace.connectors.kafka_client import KafkaClient, error_of, kafka
from headrace.connectors.kafka_config import KafkaConfig
from headrace.connectors.kafka_feeds import Feed, Feeds
from headrace.connectors.kafka_items import next_offset, position_before, position_of, read_message
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

_IDLE_S = 0.5
#: How long a new read waits for its first word from the broker before it says that nothing comes.
_FIRST_S = 3.0


class _OutOfRange(Exception):
    """The broker has no message at the offset that was asked for."""


class Kafka(Connector):
    """Topics of Apache Kafka and of what speaks its protocol."""

    Config = KafkaConfig
    bounded = False
    replay = "window"
    example = "{type: kafka, bootstrap_servers: broker.example.org:9092, topics: [tide, wind]}"

    def __init__(self, config: KafkaConfig) -> None:
        super().__init__(config)
        self._client = KafkaClient(config)
        self._feeds = Feeds(self._client, (config.buffer_mib << 20) * 3 // 4)

    def describe(self) -> str:
        return f"kafka {', '.join(self.config.topics)}"

    def close(self) -> None:
        self._feeds.close()
        self._client.close()

    # -- listing ------------------------------------------------------------------------------------------------------

    def splits(self) -> list[Split]:
        topics, absent = self._wanted()
        if absent:
            raise SourceError(_absent(absent))
        ids = self._client.topic_ids(sorted(topics))
        return [Split(f"{t}/{n}", ids.get(t)) for t, numbers in sorted(topics.items()) for n in numbers]

    def probe(self) -> None:
        topics, absent = self._wanted()
        if absent:
            raise ConfigError(_absent(absent))
        for topic, numbers in sorted(topics.items()):
            self._client.ends(topic, numbers[0])

    def _wanted(self) -> tuple[dict[str, list[int]], list[str]]:
        """(topic → partitions, names and expressions that no topic answers to)."""
        there = self._client.topics()
        found: dict[str, list[int]] = {}
        absent = []
        for wanted in self.config.topics:
            if wanted.startswith("^"):
                # Kafka's own topics are no data, unless somebody spells them out.
                names = [n for n in there if re.match(wanted, n) and (wanted.startswith("^__") or n[:2] != "__")]
            else:
                names = [wanted] if there.get(wanted) else []
                if not names:
                    absent.append(wanted)
            found.update({name: there[name] for name in names if there[name]})
        return found, absent

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        topic, partition = _place(split)
        self._check_pin(topic, split.pin)
        if after is None:
            offset, epoch = self._client.ends(topic, partition)[0], None
        else:
            offset, epoch = next_offset(after)
        while True:
            with self._feeds.open(topic, partition, offset, epoch) as feed:
                try:
                    yield from self._follow(feed, split.id)
                except _OutOfRange as exc:
                    reason = str(exc)
                offset = feed.offset
            first, end = self._client.ends(topic, partition)
            if first > offset:
                # No message is at `first - 1`, so this position is no item's.
                yield Gap("retention", position_before(first), first - offset)
                offset, epoch = first, None
            elif offset > end:
                raise SourceChanged(
                    f"kafka: {split.id}: offset {offset} is next, but the log ends at {end}: it was cut short or made "
                    "anew, so what was read is no longer what is there"
                )
            else:
                raise SourceError(f"kafka: {split.id}: {reason}, though the log holds {first} to {end}")

    def _follow(self, feed: Feed, id: str) -> Iterator[Read]:
        """Items and idle ticks, for ever. Raises: _OutOfRange, SourceError, ConfigError, SourceChanged."""
        began = heard = time.monotonic()
        reached = -1  # the offset of the end that was reached last
        stuck = -1  # where we stood when the broker was asked last and had more
        word = False
        while True:
            messages = feed.take(_IDLE_S)
            now = time.monotonic()
            if messages:
                heard, word = now, True
            elif word or now - began > _FIRST_S:
                yield Idle()
            trouble = self._client.trouble()
            if isinstance(trouble, ConfigError):
                raise trouble
            if not messages and (trouble is not None or now - heard > self.config.timeout_s):
                # A leader that hangs says nothing, and neither does one that has nothing: so it is asked.
                stuck, heard = self._check_progress(feed, max(feed.offset, reached), stuck), time.monotonic()
            for message in messages:
                if message.error() is None:
                    item = read_message(message, self.config)
                    if item is not None:
                        yield item
                elif self._is_end(message.error(), id):
                    reached = message.offset()
                    yield Idle()

    def _check_progress(self, feed: Feed, at: int, before: int) -> int:
        """`at` if the broker has messages from there on, which should have come; else -1.

        Raises: SourceError if that was so `before`, or if there is no answer.
        """
        _, end = self._client.ends(*feed.place)
        if end <= at:
            return -1
        if at == before:
            said = self._client.last_words()
            raise SourceError(
                "kafka: {}/{}: ".format(*feed.place) + f"offsets {at} to {end - 1} are there, but nothing came in "
                f"{self.config.timeout_s:g} s{said}; a batch of messages over max_message_mib "
                f"({self.config.max_message_mib}) would be a reason"
            )
        return at

    def _is_end(self, error: Any, id: str) -> bool:
        """True for the end of a partition, False for what does not matter. Raises: every other error."""
        codes = kafka().KafkaError
        if error.code() == codes._PARTITION_EOF:
            return True
        if error.code() == codes._AUTO_OFFSET_RESET:
            raise _OutOfRange(error.str())
        if error.name() == "GROUP_AUTHORIZATION_FAILED":
            return False
        raise error_of(error, f"reading {id}")

    def _check_pin(self, topic: str, pin: str | None) -> None:
        if pin is None:
            return
        found = self._client.topic_ids([topic]).get(topic)
        if found is None:
            raise SourceError(f"kafka: there is no topic {topic} of id {pin}, or the brokers tell no ids now")
        if found != pin:
            raise SourceChanged(f"kafka: topic {topic} was made anew: its id is {found}, and was {pin}")

    # -- ends ---------------------------------------------------------------------------------------------------------

    def start_of(self, split: Split) -> Position:
        topic, partition = _place(split)
        first, end = self._client.ends(topic, partition)
        if self.config.start == "earliest":
            return position_before(first)
        if self.config.start == "latest":
            return position_before(end)
        found = self._client.offset_at(topic, partition, self.config.start_ms())
        return position_before(end if found is None else max(found, first))

    def lag(self, split: Split, after: Position) -> Lag:
        topic, partition = _place(split)
        first, end = self._client.ends(topic, partition)
        begin = first if after is None else max(next_offset(after)[0], first)
        return Lag(records=max(end - begin, 0))

    def end_of(self, split: Split) -> Position:
        """The position of the last item before the end of now, found by reading backwards: an offset need hold none."""
        topic, partition = _place(split)
        first, end = self._client.ends(topic, partition)
        consumer = self._client.new_consumer()
        try:
            step = 16
            while True:
                begin = max(first, end - step)
                last = self._last_between(consumer, split, begin, end) if begin < end else None
                if last is not None or begin == first:
                    return last
                step *= 16
        finally:
            consumer.close()

    def _last_between(self, consumer: Any, split: Split, begin: int, end: int) -> Position:
        topic, partition = _place(split)
        consumer.assign([kafka().TopicPartition(topic, partition, begin)])
        last: Position = None
        deadline = time.monotonic() + self.config.timeout_s
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None:
                continue
            deadline = time.monotonic() + self.config.timeout_s
            if message.error() is not None:
                try:
                    if self._is_end(message.error(), split.id):
                        return last
                except _OutOfRange as exc:
                    raise SourceError(f"kafka: {split.id}: the log was cut while its end was sought: {exc}") from exc
            elif message.offset() >= end:
                return last
            elif read_message(message, self.config) is not None:
                last = position_of(message)
                if message.offset() == end - 1:
                    return last
        raise SourceError(f"kafka: {split.id}: no message within {self.config.timeout_s:g} s while the end was sought")


def _place(split: Split) -> tuple[str, int]:
    topic, _, partition = split.id.rpartition("/")
    if not topic or not partition.isdecimal():
        raise ConfigError(f"{split.id!r} is no split of Kafka: topic/partition is meant")
    return topic, int(partition)


def _absent(names: list[str]) -> str:
    return f"kafka: there is no topic {', '.join(names)}, or the user may not see it"
