"""Is what a history left behind right? Judged from the files of the dataset and from what senders and broker remember.

It shares no code with what it checks: entries are read as JSON, sums are added up here. Each function checks one
promise, and says in its AssertionError what was found where.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from .sources import FATES

if TYPE_CHECKING:
    from .world import World

Place = tuple[str, int]  #: (canonical position, k)
Seen = Counter[tuple[str, int | None, str]]  #: (item id, number of the record or None, "data" or "bad")


def check(world: World) -> None:
    """Raises: AssertionError."""
    files = world.contents()
    entries = chain(files)
    if not world.full:
        entries = [_unfolded(entry) for entry in entries]
    if not world.only_items:
        fence(entries)
        places(entries)
        sequences(entries)
        books(entries)
        watermarks(entries)
        referenced(files, entries)
        prefixes(world, files)
    if world.windows:
        windowed(world, files, entries)
    else:
        exactly_once(world, files, entries)
    pushed(world, files, entries)


def chain(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """The entries: numbered without a hole, each naming the digest of the one before."""
    names = sorted(n for n in files if n.startswith("log/"))
    assert names == [f"log/{v:020d}.json" for v in range(1, len(names) + 1)], f"the log has a hole: {names}"
    entries, digest = [], ""
    for v, name in enumerate(names, 1):
        line, _, rest = files[name].partition(b"\n")
        entry = orjson.loads(line)
        assert entry["v"] == v and entry["prev"] == digest, f"{name} does not follow the entry before"
        digest = hashlib.sha256(line + b"\n").hexdigest()
        assert rest == digest.encode() + b"\n", f"{name} is torn"
        entries.append(entry)
    return entries


def fence(entries: list[dict[str, Any]]) -> None:
    """Epochs go up by one at claims; between them only the claimer writes, files of its epoch only; no entry twice."""
    epoch, writer, ids, ended = 0, "", set(), True
    for entry in entries:
        name = f"entry {entry['v']}"
        assert entry["id"] not in ids, f"{name} was written twice"
        ids.add(entry["id"])
        if entry["kind"] == "claim":
            epoch, writer, ended = epoch + 1, entry["id"].partition("-")[0], False
        assert entry["epoch"] == epoch, f"{name} is of epoch {entry['epoch']}, epoch {epoch} was claimed last"
        assert entry["id"].partition("-")[0] == writer, f"{name} is not by the writer that claimed epoch {epoch}"
        assert not ended, f"{name} stands behind the end of its epoch"
        ended = entry["kind"] == "end"
        for path in _added(entry):
            assert path.rpartition("/")[2].startswith(f"e{epoch}-"), f"{name} adds {path} in epoch {epoch}"


def places(entries: list[dict[str, Any]]) -> None:
    """Of each split: a step begins where the last one ended, its books and its ranges reach exactly as far."""
    at: dict[tuple[str, int, str], Place] = {}
    lanes: dict[tuple[str, str], int] = {}
    for entry in entries:
        name = f"entry {entry['v']}"
        moves: dict[tuple[str, str], tuple[Place | None, Place]] = {}
        for move in entry.get("places", []):
            key = (move["source"], move["lane"], move["split"])
            assert lanes.setdefault((key[0], key[2]), key[1]) == key[1], f"{name}: split {key[2]} is in two lanes"
            assert (move["source"], move["split"]) not in moves, f"{name} moves {key} twice"
            expect = _place(move["expect"]) if "expect" in move else None
            assert at.get(key) == expect, f"{name} moves {key} from {expect}, it stood at {at.get(key)}"
            moves[move["source"], move["split"]] = (expect, _place(move["place"]))
            at[key] = _place(move["place"])
        lines = {(line[0], line[1]): line for line in entry.get("books", {}).get("splits", [])}
        for key2, line in lines.items():
            assert key2 in moves, f"{name} has books of {key2}, which does not move"
            assert _pair(line, 2) == (moves[key2][0] or ("null", 0)), f"{name}: books of {key2} begin elsewhere"
            assert _pair(line, 4) == moves[key2][1], f"{name}: books of {key2} end elsewhere than its place"
        if lines:
            assert moves.keys() == lines.keys(), f"{name} moves {moves.keys() - lines.keys()} without books"
        for shard in entry.get("add", []):
            ranges = defaultdict(list)
            for row in shard["ranges"]:
                ranges[row[0]].append(row)
            for split, rows in ranges.items():
                line = lines[shard["stream"], split]
                ends = [_pair(row, 3) for row in rows]
                assert [_pair(row, 1) for row in rows] == [_pair(line, 2), *ends[:-1]], f"{name}: a hole in {rows}"
                assert ends[-1] == _pair(line, 4), f"{name}: the last range of {split} does not end at its place"


def sequences(entries: list[dict[str, Any]]) -> None:
    """Addresses of a lane are given from 0 on, each once."""
    due: Counter[tuple[str, int]] = Counter()
    for entry in entries:
        for shard in entry.get("add", []):
            key = (shard["stream"], shard["lane"])
            assert shard["first_seq"] == due[key], f"entry {entry['v']}: {shard['path']} begins at the wrong number"
            due[key] += shard["rows"]


def books(entries: list[dict[str, Any]]) -> None:
    """Items read = closed + quarantined + open; records = samples + quarantined + duplicates; open is never below 0."""
    open_: Counter[str] = Counter()
    for entry in entries:
        name = f"entry {entry['v']}"
        told = entry.get("books", {})
        for source, _, _, _, _, _, read, closed, quarantined, still in told.get("splits", []):
            assert read == closed + quarantined + still, f"{name}: books of {source} do not balance"
            open_[source] += still
        assert min(open_.values(), default=0) >= 0, f"{name}: more items were finished than begun"
        samples: Counter[str] = Counter()
        for shard in entry.get("add", []):
            samples[shard["stream"]] += shard["rows"]
        for stream, counts in told.get("streams", {}).items():
            parts = [counts.get(part, 0) for part in ("samples", "quarantined", "duplicates")]
            assert counts.get("records", 0) == sum(parts), f"{name}: books of {stream} do not balance"
            assert parts[0] == samples.pop(stream, 0), f"{name}: books of {stream} do not tell its shards"
        assert not +samples, f"{name}: shards without books"
    # An item that was cut in its midst and then lost at its source stays open, so open is not always zero at the end.


def watermarks(entries: list[dict[str, Any]]) -> None:
    """A lane's watermark never falls."""
    have: dict[tuple[str, int], int] = {}
    for entry in entries:
        for mark in entry.get("watermarks", []):
            key = (mark["source"], mark["lane"])
            time = mark["event_time_us"]
            assert time >= have.get(key, time), f"entry {entry['v']}: the watermark of {key} falls to {time}"
            have[key] = time


def referenced(files: dict[str, bytes], entries: list[dict[str, Any]]) -> None:
    """What the log names is there, byte for byte, and after gc there is nothing else."""
    needed: dict[str, dict[str, Any]] = {}
    lane_files: dict[tuple[str, str, int], dict[str, Any]] = {}
    for entry in entries:
        for file in [*entry.get("add", []), *entry.get("quarantine", [])]:
            needed[file["path"]] = file
        for tokenizer in entry.get("tokenizers", []):
            needed |= {file["path"]: file for file in tokenizer["files"]}
        if entry.get("vocab"):  # older ones stay too, for those who read older versions
            name = f"vocab/{entry['vocab']}.json"
            needed[name] = {"path": name, "sha256": entry["vocab"], "bytes": len(files.get(name, b""))}
        for kind in ("carry", "dedup"):
            for file in entry.get(kind, []):
                lane_files[kind, file["source"], file["lane"]] = file
    needed |= {file["path"]: file for file in lane_files.values()}
    there = {name for name in files if not name.startswith("log/")}
    assert needed.keys() <= there, f"the log names {sorted(needed.keys() - there)}, which is gone"
    assert there <= needed.keys(), f"gc left {sorted(there - needed.keys())}"
    for path, file in needed.items():
        data = files[path]
        assert len(data) == file["bytes"], f"{path} has {len(data)} bytes, not {file['bytes']}"
        assert hashlib.sha256(data).hexdigest() == file["sha256"], f"{path} has other bytes than the log says"


def prefixes(world: World, files: dict[str, bytes]) -> None:
    """Every version that a reader ever saw is a prefix of the log."""
    for v, digest in world.seen:
        rest = files[f"log/{v:020d}.json"].partition(b"\n")[2]
        assert rest == digest.encode() + b"\n", f"a reader saw version {v} as {digest[:12]}…, it is {rest[:12]!r}…"


# ---- items ----------------------------------------------------------------------------------------------------------


def exactly_once(world: World, files: dict[str, bytes], entries: list[dict[str, Any]]) -> None:
    """Every item of the broker is in data, quarantine or a declared gap, and no record of it twice."""
    found = _found(world, files, entries, "quay")
    gone = _gaps(world, entries)
    for split in world.broker.splits.values():
        there: Counter[str] = Counter()
        torn: set[str] = set()  # the retention may have taken an item of which some records were committed
        for position, (payload, _) in enumerate(split.items, 1):
            if position in gone[split.name]:
                torn.add(payload)
            else:
                there[payload] += 1
        for payload in dict.fromkeys(payload for payload, _ in split.items):
            times = there[payload] if not world.quay_dedup else min(1, there[payload])
            _check_item(found, payload, times, f"{split.name} of the broker", torn=payload in torn)
    assert not +found, f"nobody sent {list(found)}"


def pushed(world: World, files: dict[str, bytes], entries: list[dict[str, Any]]) -> None:
    """Every message that was acknowledged is there, once where the window reaches; and none that was not, twice."""
    found = _found(world, files, entries, "push")
    for entry in entries:
        gaps = [gap for gap in entry.get("gaps", []) if gap["source"] == "push"]
        assert not gaps, f"entry {entry['v']}: the spool lost something: {gaps}"
    for key, payload in world.sender.payloads.items():
        kind, _, name = payload.partition(":")
        counts = {found.pop((name, number, fate), 0) for number, fate in FATES[kind]}
        assert len(counts) == 1, f"{key}: its records are there {counts} times"
        times = counts.pop()
        assert times >= (key in world.sender.acknowledged), f"{key} was acknowledged, and is not there"
        assert times <= 1 or world.small_window, f"{key} is there {times} times"
    assert not +found, f"nobody sent {list(found)}"


def windowed(world: World, files: dict[str, bytes], entries: list[dict[str, Any]]) -> None:
    """Every reading is in exactly one window, closed or still open in the carry file, or in a declared gap."""
    found: Counter[int] = Counter()
    for table in _tables(files, entries, "add", "quay"):
        for t in table.column("t").to_pylist():
            found.update(round(stamp.timestamp()) - 1_700_000_000 for stamp in t)
    carry: dict[int, str] = {}
    for entry in entries:
        for file in entry.get("carry", []):
            carry[file["lane"]] = file["path"]
    for path in carry.values():
        with pa.ipc.open_stream(files[path]) as stream:
            for t in stream.read_all().column("t").to_pylist():
                found.update(stamp // 1_000_000_000 - 1_700_000_000 for stamp in t)
    gone = _gaps(world, entries)
    for split in world.broker.splits.values():
        for position, (payload, _) in enumerate(split.items, 1):
            number = int(payload.rpartition("-")[2])
            times = found.pop(number, 0)
            due = int(position not in gone[split.name])
            assert times == due, f"{split.name}: reading {number} is there {times} times, not {due}"
    assert not +found, f"nobody sent the readings {sorted(found)}"


def _check_item(found: Seen, payload: str, times: int, where: str, *, torn: bool) -> None:
    """Each record of an item is there so many times; of a torn one, at least the first, and none more often."""
    kind, _, name = payload.partition(":")
    least = times
    for number, fate in FATES[kind]:
        have = found.pop((name, number, fate), 0)
        most = max(times, 1) if torn else times
        assert least <= have <= most, f"{payload} in {where}: record {number} is there {have} times, not {times}"
        if torn:
            least = 0


def _gaps(world: World, entries: list[dict[str, Any]]) -> dict[str, set[int]]:
    """Split → positions that were declared lost."""
    names = {hashlib.sha256(name.encode()).hexdigest()[:32]: name for name in world.broker.splits}
    gone: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        for gap in entry.get("gaps", []):
            if gap["source"] == "quay":
                gone[names[gap["split"]]].update(range(gap["position"] - gap["lost"] + 1, gap["position"] + 1))
    for name, positions in gone.items():
        kept = positions - world.broker.splits[name].lost
        assert not kept, f"{name}: a gap is declared over {sorted(kept)}, which were acknowledged"
    return gone


def _found(world: World, files: dict[str, bytes], entries: list[dict[str, Any]], stream: str) -> Seen:
    """What of each item is in shards and quarantine."""
    found: Seen = Counter()
    if world.full:
        for table in _tables(files, entries, "add", stream):
            for text in table.column("text").to_pylist():
                found[text.partition(":")[2], 0, "data"] += 1
        assert not list(_tables(files, entries, "quarantine", stream)), "good items are in quarantine"
        return found
    for entry in entries:
        for shard in entry.get("add", []):
            if shard["stream"] == stream:
                for _, _, text in orjson.loads(files[shard["path"]]):
                    name, _, number = text.partition("#")
                    found[name, int(number), "data"] += 1
        for file in entry.get("quarantine", []):
            if file["stream"] == stream:
                for _, _, _, whole, raw, locator in orjson.loads(files[file["path"]]):
                    if whole:
                        found[raw.partition(":")[2], None, "bad"] += 1
                    else:
                        name, _, number = orjson.loads(locator)["row"].partition("#")
                        found[name, int(number), "bad"] += 1
    return found


def _tables(files: dict[str, bytes], entries: list[dict[str, Any]], part: str, stream: str) -> list[pa.Table]:
    paths = [f["path"] for entry in entries for f in entry.get(part, []) if f["stream"] == stream]
    return [pa.ipc.open_file(files[path]).read_all() for path in paths]


def _unfolded(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of paper as one of the log: without what is null, tables as rows."""
    for move in entry["places"]:
        if move["expect"] is None:
            del move["expect"]
    entry["books"]["splits"] = [list(line.values()) for line in entry["books"]["splits"]]
    for shard in entry["add"]:
        shard["ranges"] = [list(row.values()) for row in shard["ranges"]]
    return entry


def _added(entry: dict[str, Any]) -> list[str]:
    return [f["path"] for part in ("add", "quarantine", "carry", "dedup") for f in entry.get(part, []) if f.get("path")]


def _place(value: dict[str, Any]) -> Place:
    return json.dumps(value.get("position")), value.get("k", 0)


def _pair(row: list[Any], at: int) -> Place:
    return json.dumps(row[at]), row[at + 1]
