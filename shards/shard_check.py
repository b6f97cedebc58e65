"""Whether a shard of a log entry agrees with itself, and which lane and epoch the name of a file tells."""

from __future__ import annotations

import re

from headrace.schemas.canonical import position_json
from headrace.schemas.errors import LogError, Unbalanced
from headrace.shards.entry import ShardInfo, StreamSettings, lane_folder

_LANE_FOLDER = re.compile(r"data/([^/]+)/L(\d{4,})/")

LaneKey = tuple[str, int]  #: (stream, lane), or (source, lane) for places and lane files


def check_shard(shard: ShardInfo, known: dict[str, StreamSettings], epoch: int) -> None:
    """Refuse a shard whose own numbers contradict each other. Raises: LogError, Unbalanced."""
    if shard.stream not in known:
        raise LogError(f"{shard.path}: no settings were claimed for the stream {shard.stream!r}")
    if not shard.path.startswith(lane_folder(shard.stream, shard.lane) + "/"):
        raise LogError(f"{shard.path} is not in {lane_folder(shard.stream, shard.lane)}")
    check_epoch(shard.path, epoch)
    rows, tokens, at = 0, 0, shard.head_bytes
    for i, block in enumerate(shard.blocks):
        if block.offset != at or block.rows < 1:
            raise LogError(f"{shard.path}: block {i} begins at byte {block.offset}, the one before ends at {at}")
        rows, tokens, at = rows + block.rows, tokens + block.tokens, at + block.length
    if (rows, tokens) != (shard.rows, shard.tokens) or at > shard.bytes:
        raise Unbalanced(
            f"{shard.path}: {shard.rows} rows and {shard.tokens} tokens, its blocks hold {rows} and {tokens}"
        )
    if sum(r.rows for r in shard.ranges) != shard.rows:
        raise Unbalanced(f"{shard.path}: {shard.rows} rows, its ranges hold {sum(r.rows for r in shard.ranges)}")
    for r in shard.ranges:
        position_json(r.after)
        position_json(r.upto)


def check_epoch(path: str, epoch: int) -> None:
    """Refuse a file that is not named after the epoch of the entry that adds it. Raises: LogError."""
    if not path.rpartition("/")[2].startswith(f"e{epoch}-"):
        raise LogError(f"{path}: an entry of epoch {epoch} adds files named e{epoch}-…, of its own epoch only")


def lane_of(path: str) -> LaneKey | None:
    """The lane whose folder a shard is in (`check_shard` sees to it that it is its own), None for no shard's path."""
    match = _LANE_FOLDER.match(path)
    return (match.group(1), int(match.group(2))) if match else None
