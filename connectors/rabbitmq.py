"""The connector `rabbitmq`: RabbitMQ streams, read by offset over AMQP 0.9.1; each stream queue is a split.

Where reading goes on is kept by us. At each begin the message at our own position is asked for again and compared, so
a stream that was made anew, or lost its newest messages, is noticed. See rabbitmq_message.py for positions.

Offsets have holes that are no loss: the broker's own bookkeeping takes a number now and then. Retention cuts at the
front, so a hole is a gap exactly where the first message that is left lies behind our place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.connectors.contract import Connector, Gap, Idle, Lag, Position, Read, Split
from headrace.connectors.rabbitmq_config import RabbitConfig
from headrace.connectors.rabbitmq_link import CannotRead, Feed, Link, NoQueue
from headrace.connectors.rabbitmq_message import Delivered, Place, read_message
from headrace.connectors.redis_entry import id_of_key, key_of_id
from headrace.connectors.start_time import start_us
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

#: After so many endings in a row at one place it is the data there that the broker cannot give.
_ENDINGS = 3


class RabbitStreams(Connector):
    """RabbitMQ streams and super streams: every message by offset, with what retention took declared."""

    Config = RabbitConfig
    bounded = False
    replay = "exact"
    example = "{type: rabbitmq, urls: 'amqp://localhost:5672', streams: readings}"

    def __init__(self, config: RabbitConfig) -> None:
        super().__init__(config)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._endings: dict[str, tuple[int, int]] = {}  #: queue → (offset, how often the broker broke off there)

    def describe(self) -> str:
        names = (*self.config.streams, *self.config.super_streams)
        return f"rabbitmq {self.config.urls[0]} {self.config.vhost} {' '.join(names)}"

    def close(self) -> None:
        self._closed.set()  # readers look at it at least every half second, and close what is theirs

    def probe(self) -> None:
        with self._link() as link:
            for name in self.config.names():
                link.check(name)

    def splits(self) -> Iterator[Split]:
        for name in self.config.names():
            yield Split(id_of_key(name.encode()))

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        queue = _queue(split)
        place = None if after is None else Place.of(after)
        while True:
            with self._link() as link:
                feed = self._feed(link, queue, place)
                # The message at our own place comes first and shows that this is still the stream that was read.
                unproven = place is not None and place.mark is not None
                looked = time.monotonic()
                while True:
                    try:
                        found = feed.next(self.config.idle_s)
                    except NoQueue as exc:
                        raise self._gone(queue, place, exc) from exc
                    except CannotRead as exc:
                        raise self._ending(queue, place, exc) from exc
                    if found is None:
                        if unproven and place is not None and time.monotonic() - looked > self._patience_s:
                            self._compare_end(queue, place)
                            looked = time.monotonic()
                        yield Idle()
                        continue
                    if place is not None and found.offset <= place.offset:
                        if unproven and found.offset == place.offset:
                            self._compare(queue, place, found)
                            unproven = False
                        continue
                    if place is not None and (unproven or found.offset > place.offset + 1):
                        for gap in self._hole(link, queue, place, found.offset, unproven):
                            yield gap
                            place = Place.of(gap.position)
                    unproven = False
                    place = found.place
                    suspended = time.monotonic()
                    yield read_message(found)
                    if time.monotonic() - suspended > self.config.timeout_s / 2:
                        break  # the broker may have given up a connection on which we said nothing: take another

    @property
    def _patience_s(self) -> float:
        return min(2.0, self.config.timeout_s)

    def _feed(self, link: Link, queue: str, place: Place | None) -> Feed:
        start: str | int = "first" if place is None else place.offset if place.mark is not None else place.offset + 1
        try:
            return link.feed(queue, start, self.config.prefetch)
        except NoQueue as exc:
            raise self._gone(queue, place, exc) from exc

    def _hole(self, link: Link, queue: str, place: Place, came: int, unproven: bool) -> Iterator[Gap]:
        """The gap between our place and the message that came, if retention made it. Raises: SourceChanged."""
        first = link.first(queue)
        left = came if first is None else min(first, came)
        if left > place.offset + 1:
            yield Gap("retention", Place(left - 1).position, left - 1 - place.offset)
        elif unproven and (first is None or first <= place.offset):
            raise SourceChanged(
                f"{self._where}: the stream {queue} has no message at offset {place.offset} any more, where we had "
                f"read one; the next is {came}. {_ADVICE}"
            )

    def _compare(self, queue: str, place: Place, found: Delivered) -> None:
        if found.place != place:
            raise SourceChanged(
                f"{self._where}: the stream {queue} holds another message at offset {place.offset} than the one that "
                f"was read. {_ADVICE}"
            )

    def _compare_end(self, queue: str, place: Place) -> None:
        """Nothing comes, not even what we had read: is it there? Raises: SourceChanged."""
        with self._link() as link:
            last = link.last(queue)
        if last is None or last.offset < place.offset:
            ends = "is empty" if last is None else f"ends at offset {last.offset}"
            raise SourceChanged(f"{self._where}: the stream {queue} {ends}, and we had read {place.offset}. {_ADVICE}")

    def _gone(self, queue: str, place: Place | None, exc: NoQueue) -> Exception:
        if place is None or place.mark is None:
            return exc
        return SourceChanged(
            f"{self._where}: the stream {queue} is gone, of which we had read offset {place.offset}. Bring it back, or "
            "take it out of the pipeline"
        )

    def _ending(self, queue: str, place: Place | None, exc: CannotRead) -> Exception:
        """What to say of a broker that broke off: trouble of its own, or something that it cannot give."""
        at = -1 if place is None else place.offset
        with self._lock:
            where, count = self._endings.get(queue, (at, 0))
            count = count + 1 if where == at else 1
            self._endings[queue] = (at, count)
        if count < _ENDINGS:
            return exc
        message = (
            f"{self._where} breaks off behind offset {at} again and again: what lies there cannot be given to an AMQP "
            "0.9.1 reader (a batch of compressed sub-entries, or bytes that are no AMQP 1.0 message). Publish without "
            "compression, or read from behind it under a new stream name with `start`"
        )
        return ConfigError(message, field="streams", value=queue)

    # -- where it begins and ends -------------------------------------------------------------------------------------

    def start_of(self, split: Split) -> Position:
        queue = _queue(split)
        with self._link() as link:
            if self.config.start == "earliest":
                first = link.first(queue)
                # A real place rather than None: what is taken from now on is a gap.
                return None if first is None else Place(first - 1).position
            last = link.last(queue)
            end = None if last is None else last.place.position
            if self.config.start == "latest":
                return end
            since = link.since(queue, start_us(self.config.start))
            return end if since is None else Place(since - 1).position

    def end_of(self, split: Split) -> Position:
        with self._link() as link:
            last = link.last(_queue(split))
        return None if last is None else last.place.position

    def lag(self, split: Split, after: Position) -> Lag | None:
        """In offsets, a few of which may be the broker's own."""
        queue = _queue(split)
        with self._link() as link:
            last = link.last(queue)
            if last is None:
                return Lag(records=0)
            if after is None:
                first = link.first(queue)
                return Lag(records=last.offset - (last.offset if first is None else first) + 1)
        return Lag(records=max(0, last.offset - Place.of(after).offset))

    # -- below --------------------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return str(self.config.urls[0])

    @contextmanager
    def _link(self) -> Iterator[Link]:
        """A connection of our own. Raises: SourceError, ConfigError."""
        if self._closed.is_set():
            raise SourceError(f"{self._where}: this connector was closed")
        link = Link(self.config, self._closed.is_set)
        try:
            yield link
        finally:
            link.close()


_ADVICE = (
    "It was deleted and made anew, or the broker lost its newest messages; read it as a new source, or bring the old "
    "data back"
)


def _queue(split: Split) -> str:
    return key_of_id(split.id).decode()
