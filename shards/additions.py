"""Which log entry added a sample, exactly.

The state keeps one origin (first_seq, version) for every live shard, so those of shards that were merged are no longer
in it (`State.blurred`). The log has them: an entry names the first_seq of each shard that it added. What lies between
two origins of the state is read there when somebody asks, about a millisecond an entry.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict

from headrace.schemas.errors import BrokenLog
from headrace.shards.log import CommitLog
from headrace.shards.shard_check import LaneKey
from headrace.shards.spans import clipped
from headrace.shards.state import State
from headrace.shards.store import Store

_CHUNK = 256  #: entries read together
_KEPT = 64  #: chunks held in memory

Origin = tuple[int, int]  #: (first_seq, version)


class Additions:
    """The origins of one version of a dataset. Raises, where it reads the log: BrokenLog, StorageError."""

    def __init__(self, store: Store, state: State) -> None:
        self._log = CommitLog(store)
        self._state = state
        self._chunks: OrderedDict[int, dict[LaneKey, list[Origin]]] = OrderedDict()

    def version(self, key: LaneKey, seq: int) -> int | None:
        """The version that added a sample; None if none did."""
        found = self.of_lane(key, seq, seq + 1)
        return found[-1][1] if found else None

    def of_lane(self, key: LaneKey, start: int, stop: int) -> list[Origin]:
        """The origins of the samples [start, stop) of a lane, in order; the first may begin before `start`."""
        origins = self._state.origins.get(key, [])
        low = max(bisect_right(origins, start, key=lambda o: o[0]) - 1, 0)
        high = bisect_left(origins, stop, key=lambda o: o[0])
        if not clipped(self._state.blurred.get(key, []), start, stop):
            return origins[low:high]
        exact = self._between(key, origins[low][1], self._upper(key, high))
        first = max(bisect_right(exact, start, key=lambda o: o[0]) - 1, 0)
        return exact[first : bisect_left(exact, stop, key=lambda o: o[0])]

    def added_after(self, key: LaneKey, v: int) -> int:
        """The first seq of a lane that was added by a version later than `v`; the end of the lane if there is none."""
        origins = self._state.origins.get(key, [])
        at = bisect_right(origins, v, key=lambda o: o[1])
        end = origins[at][0] if at < len(origins) else self._state.next_seq.get(key, 0)
        if at == 0 or v >= self._state.v or not clipped(self._state.blurred.get(key, []), origins[at - 1][0], end):
            return end
        exact = self._between(key, origins[at - 1][1], self._upper(key, at))
        later = bisect_right(exact, v, key=lambda o: o[1])
        return exact[later][0] if later < len(exact) else end

    def may_hold(self, key: LaneKey, start: int, stop: int) -> bool:
        """Whether the versions `start` to `stop`, both included, may have added to a lane; without reading the log."""
        origins = self._state.origins.get(key, [])
        low = bisect_left(origins, start, key=lambda o: o[1])
        if low < len(origins) and origins[low][1] <= stop:
            return True
        if low == 0:
            return False
        end = origins[low][0] if low < len(origins) else self._state.next_seq.get(key, 0)
        return bool(clipped(self._state.blurred.get(key, []), origins[low - 1][0], end))

    def _upper(self, key: LaneKey, at: int) -> int:
        """A version that is not before any between the origins `at - 1` and `at`."""
        origins = self._state.origins[key]
        return origins[at][1] if at < len(origins) else self._state.v

    def _between(self, key: LaneKey, low: int, high: int) -> list[Origin]:
        """The origins of a lane by the entries `low` to `high`, both included."""
        found: list[Origin] = []
        for number in range((low - 1) // _CHUNK, (high - 1) // _CHUNK + 1):
            found += [o for o in self._chunk(number).get(key, []) if low <= o[1] <= high]
        if not found:
            raise BrokenLog(f"no entry from {low} to {high} adds to {key[0]}/L{key[1]:04d}, where the state has some")
        return found

    def _chunk(self, number: int) -> dict[LaneKey, list[Origin]]:
        """All origins of the entries of one chunk, held for those who ask next."""
        if number not in self._chunks:
            made: dict[LaneKey, list[Origin]] = {}
            start = number * _CHUNK + 1
            for entry, _ in self._log.entries(start, min(start + _CHUNK - 1, self._state.v)):
                for shard in entry.add:
                    made.setdefault((shard.stream, shard.lane), []).append((shard.first_seq, entry.v))
            self._chunks[number] = made
            while len(self._chunks) > _KEPT:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(number)
        return self._chunks[number]
