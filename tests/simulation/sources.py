"""Where items come from: a broker whose splits can be read again, and senders who repeat what was not acknowledged.

An item's payload is `<kind>:<id>`; the kind says what becomes of it (see paper.py), so the checker knows what to find:

    g  one record          m  three records       h  record, refused record, record
    b  refused as a whole  e  nothing comes of it, so it is refused as a whole
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headrace.connectors.contract import Connector, ConnectorConfig, Gap, Idle, Item, Position, Split

if TYPE_CHECKING:
    from .world import World

KINDS = "gggggmmhbe"

#: What becomes of an item: (number of the record, "data" or "bad"); None stands for the whole item.
FATES: dict[str, list[tuple[int | None, str]]] = {
    "g": [(0, "data")],
    "m": [(0, "data"), (1, "data"), (2, "data")],
    "h": [(0, "data"), (1, "bad"), (2, "data")],
    "b": [(None, "bad")],
    "e": [(None, "bad")],
}


class BrokerTicker(Connector):
    """What the pipeline names for the stream `quay`."""

    Config = ConnectorConfig
    bounded = False

    def splits(self) -> list[Split]:
        return []

    def read(self, split: Split, after: Any) -> Iterator[Any]:
        return iter(())


class PushTicker(BrokerTicker):
    """What the pipeline names for the stream `push`."""

    replay = "none"
    acknowledges = True


@dataclass
class BrokerSplit:
    """Items at positions 1, 2, 3 …; those up to `trimmed` are gone."""

    name: str
    items: list[tuple[str, str]] = field(default_factory=list)  #: (payload, key)
    times: list[int] = field(default_factory=list)
    trimmed: int = 0
    acked: int = 0
    ended: bool = False
    lost: set[int] = field(default_factory=set)  #: positions that the retention took


class Broker:
    """Splits appear, grow, are trimmed by age, and end. What is acknowledged may be dropped at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = world.dice
        self.splits: dict[str, BrokerSplit] = {}
        self.drops_acknowledged = self._dice.random() < 0.5
        self.repeats = False
        self._made = 0

    def produce(self) -> None:
        """Another item, or the same again, or another split."""
        dice = self._dice
        if not self.splits or (len(self.splits) < 3 and dice.random() < 0.2):
            name = f"s{len(self.splits)}"
            self.splits[name] = BrokerSplit(name)
            self._world.counts["splits"] += 1
        alive = [s for s in self.splits.values() if not s.ended]
        if not alive:
            return
        split = dice.choice(alive)
        for _ in range(dice.choice((1, 2, 3))):
            self._made += 1
            if self.repeats and split.items and dice.random() < 0.3:
                self._world.counts["repeated items"] += 1
                item = dice.choice(split.items[-4:])
            else:
                kind = "g" if self._world.full else dice.choice(KINDS)
                item = (f"{kind}:{split.name}-{self._made}", f"k{self._made}")
            split.items.append(item)
            time = self._world.clock.us() + dice.randint(-40, 5) * 1_000_000  # late and out of order
            split.times.append(time)
        if dice.random() < 0.05:
            split.ended = True
            self._world.counts["splits that ended"] += 1

    def trim(self) -> None:
        """The retention passes by, whether the items were read or not."""
        for split in self.splits.values():
            if len(split.items) > split.trimmed and self._dice.random() < 0.5:
                before = split.trimmed
                split.trimmed += self._dice.randint(1, len(split.items) - split.trimmed)
                split.lost.update(range(before + 1, split.trimmed + 1))
                self._world.counts["trims"] += 1

    def read(self, split_id: str, after: Position) -> Iterator[Item | Idle | Gap]:
        split = self.splits[split_id]
        at = after or 0
        while True:
            self._world.scheduler.point("fetch", split_id)
            if at < split.trimmed:
                lost, at = split.trimmed - at, split.trimmed
                yield Gap("trimmed", at, lost)
            elif at < len(split.items):
                yield self._item(split, at)
                at += 1
            elif split.ended:
                return
            else:
                yield Idle()

    def _item(self, split: BrokerSplit, at: int) -> Item:
        payload, key = split.items[at]
        if self._world.windows:
            number = int(payload.rpartition("-")[2])
            row = {"t": 1_700_000_000 + number, "c0": float(number)}
            return Item(json.dumps(row).encode(), at + 1, key, split.times[at])
        headers = {"format": "text", "object": f"{split.name}@{at + 1}"}
        return Item(payload.encode(), at + 1, key, split.times[at], headers)

    def ack(self, split_id: str, upto: Position) -> None:
        split = self.splits[split_id]
        if not self._world.only_items:
            durable = self._world.durable_position("quay", split_id)
            assert durable >= upto, f"acknowledged {split_id} up to {upto}, but only {durable} was committed durably"
        self._world.counts["broker acks"] += 1
        split.acked = max(split.acked, upto)
        if self.drops_acknowledged:
            split.trimmed = max(split.trimmed, split.acked)


class Sender:
    """Pushes messages to whoever receives; repeats each until it hears that it was taken."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = world.dice
        self.payloads: dict[str, str] = {}  #: key → payload, of everything ever sent
        self.acknowledged: set[str] = set()
        self._waiting: list[str] = []

    @property
    def satisfied(self) -> bool:
        return not self._waiting

    def make(self) -> None:
        """New messages to send."""
        for _ in range(self._dice.choice((1, 2, 3))):
            number = len(self.payloads)
            kind = "g" if self._world.full else self._dice.choice(KINDS)
            self.payloads[f"p{number}"] = f"{kind}:p{number}"
            self._waiting.append(f"p{number}")

    def send(self) -> list[tuple[str, bytes]]:
        """Some of what was not acknowledged, in any order, some of it twice, now and then with an old one."""
        dice = self._dice
        keys = dice.sample(self._waiting, min(len(self._waiting), dice.randint(1, 4)))
        if keys and dice.random() < 0.15:
            keys.append(dice.choice(keys))
        if self.acknowledged and dice.random() < 0.1:  # a copy that was long under way
            keys.append(dice.choice(sorted(self.acknowledged)))
        return [(key, self.payloads[key].encode()) for key in keys]

    def hear(self, keys: list[str]) -> None:
        """These were taken."""
        self.acknowledged.update(keys)
        self._waiting = [key for key in self._waiting if key not in self.acknowledged]


class SimFeed:
    """As ingest/feed.py, but without a thread: it reads when it is asked, a few items ahead."""

    def __init__(
        self, connector: Any, split: Split, after: Position, *, credit_bytes: int, ready: Any, seed: int
    ) -> None:
        self.trouble = None
        self._connector, self._split, self._after = connector, split, after
        self._ahead: list[Any] = []
        self._reads: Any = None
        self._over = False
        self._stopped = False

    def take(self, most: int, most_bytes: int) -> list[Any]:
        self._read()
        taken, self._ahead = self._ahead, []
        return taken

    @property
    def ended(self) -> bool:
        return self._over and not self._ahead

    def stop(self) -> None:
        self._stopped = True
        self._ahead = []

    def join(self, timeout: float) -> bool:
        return True

    def _read(self) -> None:
        from headrace.schemas.errors import HeadraceError, SourceChanged

        if self._over or self._stopped or self.trouble is not None:
            return
        try:
            if self._reads is None:
                self._reads = self._connector.read(self._split, self._after)
            for _ in range(3):
                got = next(self._reads, None)
                if got is None:
                    self._over = True
                if got is None or isinstance(got, Idle):
                    return
                self._ahead.append(got)
                self._after = got.position
        except SourceChanged as exc:
            self.trouble = _Parked(str(exc))  # type: ignore[assignment]
        except (HeadraceError, OSError):
            self._reads = None  # tried again from the last position when it is asked again


@dataclass
class _Parked:
    message: str
    since: float = 0.0
    parked: bool = True
    next_try: float | None = None
