"""The connector `nats`: a NATS JetStream stream, read by stream sequence; no durable consumer, nothing acknowledged.

Position: the stream sequence of the last message, a number. One split is the stream, or one split each subject filter.

What is lost, and how it is known:
    without a filter   sequences are handed out without holes, so each hole is messages that are gone: a gap, counted
    with a filter      a hole is mostly other subjects. Only retention that passed our place is seen: a gap of unknown
                       size, since what went may have been other subjects alone. A message deleted from inside is not
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from headrace.connectors.contract import Connector, Gap, Idle, Lag, Position, Read, Split
from headrace.connectors.nats_config import NatsConfig
from headrace.connectors.nats_message import read_message
from headrace.connectors.nats_pull import Api, Puller
from headrace.connectors.nats_wire import Wire
from headrace.connectors.start_time import start_us
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

#: While nothing comes, the stream's own account is looked at this often.
_LOOK_S = 2.0
#: A connection on which nothing was said for so long (our consumer paused) may be given up by the server: take another.
_STALE_S = 60.0
_NEVER = float("-inf")


class NatsJetStream(Connector):
    """NATS JetStream: a stream by its sequence, whole or by subjects, with what retention took declared."""

    Config = NatsConfig
    bounded = False
    replay = "exact"
    example = "{type: nats, urls: 'nats://localhost:4222', stream: SENSORS, subjects: 'sensors.>'}"

    def __init__(self, config: NatsConfig) -> None:
        super().__init__(config)
        filters = {s: f"{config.stream}:{s}" for s in config.subjects if s != ">"}
        #: split id -> subject filter; None is the whole stream
        self._filters: dict[str, str | None] = {id: s for s, id in filters.items()} or {config.stream: None}
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._wires: set[Wire] = set()
        self._shared: Wire | None = None
        self._closed = False

    def describe(self) -> str:
        return f"nats {self.config.urls[0]} {' '.join(self._filters)}"

    def close(self) -> None:
        with self._lock:
            self._closed = True
            wires = list(self._wires)
        for wire in wires:
            wire.abort()  # wakes who reads from it; a reader closes its own
        with self._asking:
            if self._shared is not None:
                self._forget(self._shared)
                self._shared = None

    def probe(self) -> None:
        with self._api() as api:
            self._look(api, None)

    def splits(self) -> Iterator[Split]:
        with self._api() as api:
            info = self._look(api, None)
        for id in sorted(self._filters):
            yield Split(id, str(info["created"]))

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        subject = self._filter_of(split)
        place = None if after is None else _sequence(after)  # the last sequence that is behind us
        wire: Wire | None = None
        puller: Puller | None = None
        looked = _NEVER
        last: int | None = None  # the newest sequence when we looked, until it is behind us
        quiet = False
        try:
            while True:
                if wire is None or puller is None or time.monotonic() - wire.used > _STALE_S:
                    self._forget(wire)
                    wire = self._open()
                    api = Api(wire, self.config.domain)
                    puller = self._puller(api, subject)
                    looked = _NEVER
                if last is None and time.monotonic() - looked > _LOOK_S:
                    state = self._look(api, split.pin, place)["state"]
                    looked, last = time.monotonic(), int(state["last_seq"])
                    edge = _edge(state)
                    if place is None:
                        place = edge  # what was gone before we came is not ours
                    if subject is not None and edge > place:
                        yield Gap("retention", edge, None)
                        place = edge
                assert place is not None  # the first look gave one
                found = [] if quiet and last is None else puller.pull(place)
                if not found and last is not None:
                    # This pull came after that look: what is not behind us up to `last` is gone, or not ours.
                    if last > place:
                        if api.next_after(self.config.stream, place, subject) is not None:
                            puller.drop()  # it is there and did not arrive
                            continue
                        if subject is None:
                            yield Gap("removed", last, last - place)
                        place = last
                    last = None
                found = found or puller.pull(place, self.config.idle_s)
                edge = 0
                if found and subject is not None and found[0].seq > place + 1:
                    # Looked at after the pull: what is left now was left then.
                    edge = _edge(self._look(api, split.pin, place)["state"])
                for one in found:
                    if subject is None and one.seq > place + 1:
                        yield Gap("removed", one.seq - 1, one.seq - place - 1)
                    elif min(edge, one.seq - 1) > place:
                        yield Gap("retention", min(edge, one.seq - 1), None)
                    place = one.seq
                    yield read_message(one)
                quiet = not found
                if quiet:
                    yield Idle()
        finally:
            if puller is not None and not self._closed:
                with suppress(SourceError, ConfigError):
                    puller.drop()  # else the server does it, after half a minute
            self._forget(wire)

    # -- where it begins and ends -------------------------------------------------------------------------------------

    def start_of(self, split: Split) -> Position:
        subject = self._filter_of(split)
        with self._api() as api:
            state = self._look(api, split.pin)["state"]
            if self.config.start == "earliest":
                return _edge(state)  # a real place rather than None: what goes from now on is a gap
            if self.config.start == "latest":
                return int(state["last_seq"])
            first = self._puller(api, subject).first_since(start_us(self.config.start))
            return int(state["last_seq"]) if first is None else first - 1

    def end_of(self, split: Split) -> Position:
        subject = self._filter_of(split)
        with self._api() as api:
            state = self._look(api, split.pin)["state"]
            if subject is not None:
                return api.last_of(self.config.stream, subject)
            return int(state["last_seq"]) if state["messages"] else None

    def lag(self, split: Split, after: Position) -> Lag | None:
        subject = self._filter_of(split)
        with self._api() as api:
            state = self._look(api, split.pin)["state"]
            place = max(_edge(state), 0 if after is None else _sequence(after))
            if subject is None and not state.get("num_deleted"):
                return Lag(records=max(0, int(state["last_seq"]) - place))
            return Lag(records=self._puller(api, subject).pending(place))

    # -- below --------------------------------------------------------------------------------------------------------

    def _filter_of(self, split: Split) -> str | None:
        try:
            return self._filters[split.id]
        except KeyError:
            message = f"there is no split {split.id} in these settings, only {', '.join(self._filters)}"
            raise ConfigError(message, field="subjects") from None

    def _puller(self, api: Api, subject: str | None) -> Puller:
        return Puller(api, self.config.stream, subject, self.config.batch, self.config.timeout_s)

    def _look(self, api: Api, pin: str | None, place: int | None = None) -> dict[str, Any]:
        """The stream's description, if it is still the one that was planned."""
        name = self.config.stream
        info = api.ask(f"STREAM.INFO.{name}")
        if info is None:
            if pin is not None:
                raise SourceChanged(f"{api.wire.url}: the stream {name} is gone; it was created at {pin}")
            raise ConfigError(f"{api.wire.url} has no stream of this name", field="stream", value=name)
        retention = info["config"].get("retention", "limits")
        if retention != "limits":
            raise ConfigError(
                f"its retention is `{retention}`, where messages vanish once others have acknowledged them; retention "
                f"`limits` is expected. A second stream of that retention with {name} as its source can be read",
                field="stream",
                value=name,
            )
        if pin is not None and info["created"] != pin:
            raise SourceChanged(
                f"{api.wire.url}: the stream {name} was created at {info['created']}; the one that was read, at {pin}. "
                "Read it as a new source, or bring the old one back"
            )
        last = int(info["state"]["last_seq"])
        if place is not None and last < place:
            raise SourceChanged(
                f"{api.wire.url}: the stream {name} ends at sequence {last}, and we had read {place}: the server lost "
                "its newest writes (`sync_interval: always` prevents that) and will give their numbers to others"
            )
        return info

    def _open(self) -> Wire:
        wire = Wire(self.config.login())
        with self._lock:
            if not self._closed:
                self._wires.add(wire)
                return wire
        wire.close()
        raise SourceError(f"{wire.url}: this connector was closed")

    def _forget(self, wire: Wire | None) -> None:
        if wire is not None:
            with self._lock:
                self._wires.discard(wire)
            wire.close()

    @contextmanager
    def _api(self) -> Iterator[Api]:
        """The shared connection for questions; given up after any error."""
        with self._asking:
            if self._shared is not None and time.monotonic() - self._shared.used > _STALE_S:
                self._forget(self._shared)
                self._shared = None
            if self._shared is None:
                self._shared = self._open()
            try:
                yield Api(self._shared, self.config.domain)
            except BaseException:
                self._forget(self._shared)
                self._shared = None
                raise


def _sequence(position: Position) -> int:
    if not isinstance(position, int) or isinstance(position, bool) or position < 0:
        raise ConfigError(f"{position!r} is not a position in a JetStream stream: a sequence number is expected")
    return position


def _edge(state: dict[str, Any]) -> int:
    """The last sequence before the first that is left."""
    return max(0, int(state["first_seq"]) - 1)
