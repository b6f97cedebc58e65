"""The connector `redis`: Redis Streams, read by entry id and without consumer groups; each stream is a split.

Position: the id of the last entry (`1526919030474-55`), or with a tilde an id that need not have been one. What was
trimmed or deleted before it was read becomes a Gap (see redis_gaps.py); nothing is ever written to the server.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator

from headrace.connectors.contract import Connector, ConnectorConfig, Idle, Lag, Position, Read, Split
from headrace.connectors.redis_entry import (
    FIRST,
    Entry,
    Id,
    before,
    id_of_key,
    key_of_id,
    parse_position,
    position_of,
    read_entry,
    show_id,
    time_us,
)
from headrace.connectors.redis_gaps import Place, step
from headrace.connectors.redis_link import RedisLink
from headrace.connectors.start_time import check_start, start_us
from headrace.schemas.errors import ConfigError, SourceChanged
from headrace.schemas.pipeline import bytes_field, run_field

_PATTERN = re.compile(r"[*?\[\\]")
_BATCH_BYTES = 1 << 20
#: While nothing comes, the counters are looked at this often: what was added and trimmed at once wakes nobody.
_LOOK_S = 5.0
_REMEMBERED = 512  #: ends of batches whose count is kept for `lag`


class RedisStreamsConfig(ConnectorConfig):
    """Settings of the connector `redis`."""

    url: str = run_field(description="redis://host:6379/0, rediss:// for TLS, or unix:///path; no password in it")
    streams: tuple[str, ...] = bytes_field(
        min_length=1, description="keys of streams, or Redis globs (`sensors:*`); each key is a split"
    )
    payload: str | None = bytes_field(
        None,
        min_length=1,
        description="the field that is the payload; default: the only field, else data, payload or body, else all as "
        "a JSON object",
    )
    key: str | None = bytes_field(None, min_length=1, description="the field that is the item's key")
    start: str = run_field("earliest", description="where a new stream begins: earliest, latest, or an ISO 8601 time")
    username: str | None = run_field(None, description="user of the server's access list")
    password: SecretStr | None = run_field(None, description="its password, best as ${env:NAME}")
    ca_file: str | None = run_field(None, description="rediss only: authorities to trust instead of the system's")
    cert_file: str | None = run_field(None, description="rediss only: our certificate, where the server asks for one")
    key_file: str | None = run_field(None, description="rediss only: the key of `cert_file`")
    batch: int = run_field(
        256, ge=1, le=10_000, description="entries asked for at once; fewer while they are large (about 1 MiB)"
    )
    timeout_s: float = run_field(10, ge=1, description="the longest silence of the server")
    idle_s: float = run_field(0.5, ge=0.01, le=0.5, description="how long the server waits for news in one request")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        # The value is not shown: it may hold a password.
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("no user, password, ? or # may stand in the URL: use `username` and `password`")
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("redis://, rediss:// or unix:// is expected")
        database = parts.path.strip("/")
        if parts.scheme != "unix" and (not parts.hostname or (database and not database.isdigit())):
            raise ValueError("redis://host:port/number is expected")
        return value

    @field_validator("streams", mode="before")
    @classmethod
    def _streams(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("start")
    @classmethod
    def _start(cls, value: str) -> str:
        return check_start(value)


class RedisStreams(Connector):
    """Redis Streams: every entry of streams named by key or glob, with trimming declared."""

    Config = RedisStreamsConfig
    bounded = False
    replay = "exact"
    example = "{type: redis, url: 'redis://localhost:6379/0', streams: 'sensors:*'}"

    def __init__(self, config: RedisStreamsConfig) -> None:
        super().__init__(config)
        self._link = RedisLink(config)
        self._lock = threading.Lock()
        self._counted: dict[str, deque[tuple[Id, int]]] = {}

    def describe(self) -> str:
        return f"redis {self.config.url} {' '.join(self.config.streams)}"

    def close(self) -> None:
        self._link.close()

    def probe(self) -> None:
        self._link.ping()
        for name in self.config.streams:
            kind = "stream" if _PATTERN.search(name) else self._link.type(name.encode())
            if kind not in ("stream", "none"):
                message = f"a stream is expected at this key of {self.config.url}, not a {kind}"
                raise ConfigError(message, field="streams", value=name)
        for split in self.splits():
            self._link.counters(key_of_id(split.id))  # is it allowed?
            break

    def splits(self) -> Iterator[Split]:
        keys: set[bytes] = set()
        for name in self.config.streams:
            # A stream that is named may come later; it waits as an empty split.
            keys.update(self._link.keys(name) if _PATTERN.search(name) else [name.encode()])
        for key in sorted(keys):
            yield Split(id_of_key(key))

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        key = key_of_id(split.id)
        place = Place() if after is None else Place(*parse_position(after))
        count = min(16, self.config.batch)
        while True:
            shown = self._link.snapshot(key, place.id, count)
            if shown is None:
                place = self._absent(split, place)
            else:
                gaps, following = step(place, shown, split.id)
                for index, entry in enumerate([*shown.entries, None]):
                    yield from (gap for at, gap in gaps if at == index)
                    if entry is not None:
                        yield read_entry(entry, *self._fields)
                place = following
                self._remember(split, place)
                count = _next_count(count, shown.entries, self.config.batch)
                if not shown.complete:
                    continue
            look = time.monotonic() + _LOOK_S
            while not self._link.wait(key, place.id or FIRST):
                yield Idle()
                if time.monotonic() > look:
                    break

    @property
    def _fields(self) -> tuple[bytes | None, bytes | None]:
        payload, key = self.config.payload, self.config.key
        return payload.encode() if payload else None, key.encode() if key else None

    def _absent(self, split: Split, place: Place) -> Place:
        """The place in a stream that does not exist yet."""
        if place.was_entry:
            raise SourceChanged(
                f"{self.config.url}: the stream {split.id} is gone, of which we had read entry "
                f"{show_id(place.id or FIRST)}. Bring it back, or take it out of `streams`"
            )
        id = place.id or FIRST
        return Place(id, False, 0 if id == FIRST else None)

    def _remember(self, split: Split, place: Place) -> None:
        if place.seen is not None and place.id is not None:
            with self._lock:
                self._counted.setdefault(split.id, deque(maxlen=_REMEMBERED)).append((place.id, place.seen))

    # -- where it begins and ends -------------------------------------------------------------------------------------

    def start_of(self, split: Split) -> Position:
        if self.config.start not in ("earliest", "latest"):
            ms = max(0, start_us(self.config.start) // 1000)
            return position_of(before((ms, 0)), False)
        shown = self._link.counters(key_of_id(split.id))
        if shown is None:
            return position_of(FIRST, False)
        if self.config.start == "earliest":
            # A real place rather than None: what is trimmed from now on is a gap.
            return position_of(before(shown.first) if shown.first else shown.last, False)
        return position_of(shown.last, shown.last != FIRST)

    def end_of(self, split: Split) -> Position:
        last = self._link.last_entry(key_of_id(split.id))
        return None if last is None else position_of(last, True)

    def lag(self, split: Split, after: Position) -> Lag | None:
        shown = self._link.counters(key_of_id(split.id))
        if shown is None:
            return Lag(records=0, seconds=0.0)
        if after is None:
            return Lag(records=shown.length)
        id, _ = parse_position(after)
        if id >= shown.last:
            return Lag(records=0, seconds=0.0)
        behind_us = (time_us(shown.last) or 0) - (time_us(id) or 0)
        seconds = behind_us / 1_000_000 if time_us(shown.last) and time_us(id) else None
        if shown.first is None or shown.first > id:
            return Lag(records=shown.length, seconds=seconds)
        with self._lock:
            known = max((pair for pair in self._counted.get(split.id, ()) if pair[0] <= id), default=None)
        if known is None or shown.added is None:
            return Lag(seconds=seconds)
        return Lag(records=max(0, min(shown.added - known[1], shown.length)), seconds=seconds)


def _next_count(count: int, entries: Sequence[Entry], most: int) -> int:
    """How many entries to ask for next: 1 MiB if all are as large as the largest now, and at most twice as many."""
    largest = max((entry.size for entry in entries), default=0)
    return max(1, min(2 * count, most, _BATCH_BYTES // max(1, largest)))

