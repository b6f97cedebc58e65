"""One librdkafka consumer that serves many partitions, each to a thread of its own.

A consumer costs a thread of 8 MiB of address space and a connection for each broker, so one for each of 100 partitions
would cost 600 threads and 5 GiB (measured); one for all costs what one costs. There is no thread here that polls: of
the threads that wait for messages one polls for all, and hands each feed what is its own. A feed that nobody empties is
unassigned at a known offset and assigned again there when it has been emptied, so it holds no other feed up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from headrace.connectors.kafka_client import KafkaClient, error_of, kafka
from headrace.schemas.errors import SourceError

_POLL_S = 0.1  #: how long an opening or closing feed may have to wait for the thread that polls
_BATCH = 2000  #: messages taken from the library at once; their bytes are bounded by its own queue
_LEAST_BYTES = 128 << 10  #: what a feed may hold, however many there are


class Feed:
    """The messages of one partition, in order, as they came; errors and ends stand among them."""

    def __init__(self, feeds: Feeds, place: tuple[str, int], offset: int, epoch: int | None) -> None:
        self._feeds = feeds
        self.place = place
        self.offset = offset  #: of the next message that may come
        self.epoch = epoch
        self.waiting: list[Any] = []
        self.bytes = 0
        self.parked = False

    def take(self, timeout_s: float) -> list[Any]:
        """All messages there are, at least one if one comes in time. Raises: SourceError, ConfigError."""
        return self._feeds.take(self, timeout_s)

    def add(self, message: Any) -> None:
        """Keep a message that came."""
        if message.error() is None:
            if message.offset() < self.offset:
                return  # a fetch may begin before the offset that was asked for: messages come in batches
            self.offset, self.epoch = message.offset() + 1, message.leader_epoch()
            self.bytes += _size(message)
        self.waiting.append(message)


class Feeds:
    """The feeds of one connector. Every method may be called from any thread."""

    def __init__(self, client: KafkaClient, limit_bytes: int) -> None:
        self._client = client
        self._limit = limit_bytes
        self._turn = threading.Condition()
        self._open: dict[tuple[str, int], Feed] = {}
        self._consumer: Any = None
        self._polling = False
        self._entering = 0  #: threads that want the consumer for themselves
        self._closed = False

    @contextmanager
    def open(self, topic: str, partition: int, offset: int, epoch: int | None) -> Iterator[Feed]:
        """The messages of a partition from `offset` on. Raises: SourceError if it is being read already."""
        feed = Feed(self, (topic, partition), offset, epoch)
        with self._alone():
            if self._closed:
                raise SourceError("kafka: the connector was closed")
            if feed.place in self._open:
                raise SourceError(f"kafka: {topic}/{partition} is being read already")
            if self._consumer is None:
                self._consumer = self._client.new_consumer()
            self._assign(feed)
            self._open[feed.place] = feed
        try:
            yield feed
        finally:
            with self._turn:
                if self._open.get(feed.place) is feed:
                    del self._open[feed.place]
                    if not feed.parked and not self._closed:
                        self._unassign(feed)

    def take(self, feed: Feed, timeout_s: float) -> list[Any]:
        """See `Feed.take`."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._turn:
                if self._closed:
                    raise SourceError("kafka: the connector was closed")
                if feed.waiting:
                    taken, feed.waiting, feed.bytes = feed.waiting, [], 0
                    if feed.parked:
                        self._assign(feed)
                        feed.parked = False
                    return taken
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                if self._polling or self._entering:
                    self._turn.wait(left)
                    continue
                self._polling = True
            batch: list[Any] = []
            try:
                batch = self._poll(min(left, _POLL_S))
            finally:
                with self._turn:
                    self._polling = False
                    self._deliver(batch)
                    self._turn.notify_all()

    def close(self) -> None:
        """End the consumer; threads that wait get a SourceError."""
        with self._alone():
            self._closed = True
            consumer, self._consumer = self._consumer, None
            self._open.clear()
        if consumer is not None:
            consumer.close()

    def _poll(self, timeout_s: float) -> list[Any]:
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        # `consume` with a timeout waits for its full number; so wait for one, then take what is there.
        return [first, *self._consumer.consume(_BATCH - 1, 0)]

    def _deliver(self, batch: list[Any]) -> None:
        most = max(self._limit // max(len(self._open), 1), _LEAST_BYTES)
        full: set[tuple[str, int]] = set()
        for message in batch:
            feed = self._open.get((message.topic(), message.partition()))
            if feed is not None:
                feed.add(message)
                if feed.bytes > most:
                    full.add(feed.place)
        for place in full:
            feed = self._open[place]
            if not feed.parked:
                self._unassign(feed)
                feed.parked = True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody polls meanwhile: what a poll has in hand was asked for before, and must not reach a new feed."""
        with self._turn:
            self._entering += 1
            try:
                while self._polling:
                    self._turn.wait()
                yield
            finally:
                self._entering -= 1
                self._turn.notify_all()

    def _assign(self, feed: Feed) -> None:
        topic, partition = feed.place
        known = {} if feed.epoch is None or feed.epoch < 0 else {"leader_epoch": feed.epoch}
        self._tell(feed, lambda: self._consumer.incremental_assign(
            [kafka().TopicPartition(topic, partition, feed.offset, **known)]
        ))  # fmt: skip

    def _unassign(self, feed: Feed) -> None:
        self._tell(feed, lambda: self._consumer.incremental_unassign([kafka().TopicPartition(*feed.place)]))

    def _tell(self, feed: Feed, order: Callable[[], None]) -> None:
        try:
            order()
        except kafka().KafkaException as exc:
            error = error_of(exc.args[0], "reading {}/{}".format(*feed.place))
            raise error from exc


def _size(message: Any) -> int:
    """What a message takes, about."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers() or ())
    return len(message.value() or b"") + len(message.key() or b"") + headers + 400
