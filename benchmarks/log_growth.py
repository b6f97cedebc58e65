"""Does a commit cost the same after a day as in the first minute? A synthetic log of a service, entry by entry.

    python benchmarks/log_growth.py [--entries 20000] [--streams 16] [--shards 4] [--grace 5000] [--compact] [--json]

Every entry adds `--shards` shards (of the streams in turn), moves the places of their splits and adds a plan segment now
and then; with `--compact` a lane's shards are replaced by one whenever there are 16 small ones, as a service does,
and every 720 entries (an hour's) it says that the files that were replaced `--grace` entries ago are gone. The store is
a dictionary, so what is timed is the log's own work: check, fold, seal and parse. Two windows of one run are
compared, around entry 1,000 and around the last one: their ratio is 1 where nothing grows with the log. Times are of the
processor, so that a busy machine does not enter.

Then the end of the log is opened as a writer (`claim`) and as a reader (`Dataset.open`) does, from a checkpoint and the
most entries that can follow one, and the checkpoint is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from dataclasses import replace
from typing import Any

from headrace.shards.books import Books, SplitCounts, StreamCounts
from headrace.shards.checkpoint import EVERY, checkpoint_name, decode, encode
from headrace.shards.compact_plan import Policy, plan
from headrace.shards.dataset import Dataset
from headrace.shards.entry import (
    Block,
    Entry,
    Place,
    PlaceMove,
    PlanSegment,
    Range,
    Replace,
    ShardInfo,
    split_digest,
)
from headrace.shards.log import CommitLog
from headrace.shards.names import shard_name
from headrace.shards.state import COLLECTED
from headrace.shards.testing import MemoryStore, settings_of

ROWS, TOKENS, BLOCK, HEAD = 40, 1600, 8192, 2048
DIGEST = "0123456789abcdef" * 4


class Synthetic:
    """A service that writes no data: it appends what its lanes would."""

    def __init__(self, streams: int, shards: int, compact: bool, grace: int) -> None:
        self.store = MemoryStore()
        self.log = CommitLog(self.store)
        self.names = [f"s{n:02d}" for n in range(streams)]
        self.log.claim({}, {name: settings_of(name) for name in self.names})
        self.places: dict[str, Place] = {}
        self.per_entry, self.compact, self.grace, self.made = shards, compact, grace, 0
        self.policy = Policy(min_shards=16)

    def commit(self, number: int) -> None:
        """One group commit, and a compaction where one is due."""
        chosen = [self.names[(number * self.per_entry + i) % len(self.names)] for i in range(self.per_entry)]
        self.log.append(self._entry(chosen, number))
        if self.compact and number % 16 == 15:
            changes = [Replace([s.path for s in m.shards], [self._merged(m.shards)]) for m in plan(self.log.state, self.policy)]
            if changes:
                self.log.append(Entry(kind="compact", replace=changes))
                self.made += len(changes)
        if self.compact and number % 720 == 719 and self.log.state.v > self.grace:
            self.log.append(Entry(kind="commit", ext={COLLECTED: self.log.state.v - self.grace}))

    def _entry(self, chosen: list[str], number: int) -> Entry:
        add, moves, lines, streams = [], [], [], {}
        self.made += len(chosen)
        for name in chosen:
            begin, digest = self.places.get(name), split_digest(name)
            after = begin.position if begin else None
            upto = (after or 0) + ROWS
            add.append(_shard(name, self.log.state.epoch, number, [Range(digest, after, 0, upto, 0, ROWS)]))
            moves.append(PlaceMove(name, 0, Place(position=upto), begin, digest))
            lines.append(SplitCounts(name, digest, after, 0, upto, 0, ROWS, ROWS, 0))
            streams[name] = StreamCounts(ROWS, ROWS, tokens=TOKENS)
            self.places[name] = moves[-1].place
        segments = []
        if number % 50 == 0:
            segments.append(PlanSegment("files", number // 50, f"plan/files/e1-{number:06d}.parquet", DIGEST, 900, 3))
        return Entry(kind="commit", add=add, places=moves, books=Books(lines, streams), plan=segments)

    def _merged(self, shards: list[ShardInfo]) -> ShardInfo:
        """What compaction would make of them, numbers only."""
        blocks, at = [], HEAD
        for block in (b for s in shards for b in s.blocks):
            blocks.append(replace(block, offset=at))
            at += block.length
        first, last = shards[0].ranges[0], shards[-1].ranges[-1]
        rows = sum(s.rows for s in shards)
        return replace(
            shards[0], path=shard_name(shards[0].stream, 0, self.log.state.epoch), bytes=at + 500, blocks=blocks, rows=rows,
            tokens=sum(s.tokens for s in shards), ranges=[replace(first, upto=last.upto, rows=rows)],
        )  # fmt: skip


def _shard(name: str, epoch: int, number: int, ranges: list[Range]) -> ShardInfo:
    return ShardInfo(
        stream=name, lane=0, path=shard_name(name, 0, epoch, number), sha256=DIGEST, bytes=HEAD + BLOCK + 500, rows=ROWS,
        tokens=TOKENS, head_bytes=HEAD, head_xxh3=DIGEST[:16], tail_xxh3=DIGEST[:16],
        blocks=[Block(HEAD, BLOCK, ROWS, TOKENS, DIGEST[:16])], ranges=ranges,
    )  # fmt: skip


def _replace_ms(made: Synthetic) -> float:
    """What it costs to check the replacement of the 16 newest shards of a lane, against all that are live."""
    old = made.log.state.shards[made.names[0], 0][-16:]
    change = Replace([s.path for s in old], [made._merged(old)])
    entry = Entry(kind="compact", v=made.log.state.v + 1, epoch=made.log.state.epoch, replace=[change])
    return min(_timed(lambda: made.log.state.check(entry))[0] for _ in range(5)) * 1000


def _timed(call: Any) -> tuple[float, Any]:
    start = time.process_time()
    made = call()
    return time.process_time() - start, made


def measure(entries: int, streams: int, shards: int, compact: bool, grace: int) -> dict[str, Any]:
    """The table of one run; times in milliseconds."""
    made = Synthetic(streams, shards, compact, grace)
    costs: list[float] = []
    stalls: list[float] = []
    checks = [0.0]
    for number in range(entries):
        if number == min(1000, entries // 4):
            checks[0] = _replace_ms(made)
        before = made.log.state.v
        spent, _ = _timed(lambda number=number: made.commit(number))
        (stalls if made.log.state.v // EVERY > before // EVERY else costs).append(spent * 1000)
    window = min(800, entries // 4)
    early = statistics.fmean(costs[min(1000, entries // 4) :][:window])
    late = statistics.fmean(costs[-window:])
    checks.append(_replace_ms(made))
    while made.log.state.v % EVERY != EVERY - 1:  # the most entries that a reader must fold
        made.commit(entries)
        entries += 1
    replay, data = _timed(lambda: Dataset.open(made.store))
    claim, _ = _timed(lambda: CommitLog(made.store).claim({}, {}))
    newest = checkpoint_name(data.version // EVERY * EVERY)
    tracemalloc.start()
    state = decode(made.store.files[newest], data.version // EVERY * EVERY)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    encoding, _ = _timed(lambda: encode(state))
    decoding, _ = _timed(lambda: decode(made.store.files[newest], state.v))
    return {
        "entries": data.version,
        "shards ever": made.made,
        "shards live": len(data.state.live_shards()),
        "replaced, not gone": len(data.state.retired),
        "origins": sum(len(o) for o in data.state.origins.values()),
        "commit_ms at 1,000": early,
        "commit_ms at the end": late,
        "ratio": late / early,
        "check of a compaction_ms at 1,000": checks[0],
        "check of a compaction_ms at the end": checks[1],
        "check ratio": checks[1] / checks[0],
        "commit with a checkpoint, first_ms": stalls[0] if stalls else 0.0,
        "commit with a checkpoint, last_ms": stalls[-1] if stalls else 0.0,
        "open_ms": replay * 1000,
        "claim_ms": claim * 1000,
        "checkpoint_mb": len(made.store.files[newest]) / 1e6,
        "checkpoint encode_ms": encoding * 1000,
        "checkpoint decode_ms": decoding * 1000,
        "state_mb": memory / 1e6,
        "log_mb": sum(len(d) for n, d in made.store.files.items() if n.startswith("log/0")) / 1e6,
    }


def main() -> None:
    """Run without and with compaction and print both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--shards", type=int, default=4, help="shards an entry adds")
    parser.add_argument("--grace", type=int, default=5000, help="entries after which replaced files are gone")
    parser.add_argument("--compact", action="store_true", help="only the run with compaction")
    parser.add_argument("--plain", action="store_true", help="only the run without")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = {}
    for name, compact in (("plain", False), ("compacted", True)):
        if not (options.plain and compact) and not (options.compact and not compact):
            runs[name] = measure(options.entries, options.streams, options.shards, compact, options.grace)
    if options.json:
        sys.stdout.write(json.dumps(runs) + "\n")
        return
    names = list(next(iter(runs.values())))
    sys.stdout.write(f"{'':<36}" + "".join(f"{name:>14}" for name in runs) + "\n")
    for name in names:
        sys.stdout.write(f"{name:<36}" + "".join(f"{run[name]:>14,.2f}" for run in runs.values()) + "\n")


if __name__ == "__main__":
    main()
