"""Names of files: each tells its epoch and has a random part made fresh for every attempt, so no name is used twice."""

from __future__ import annotations

import re
import secrets

from headrace.shards.entry import check_stream_name, lane_folder

_EPOCH = re.compile(r"(?:\.tmp-[0-9a-f]+-)?e(\d+)-")


def shard_name(stream: str, lane: int, epoch: int, number: int = 0) -> str:
    """`data/<stream>/L0007/e3-000042-<random>.arrow`; `number` only helps people to read a listing."""
    return f"{lane_folder(stream, lane)}/e{epoch}-{number:06d}-{secrets.token_hex(8)}.arrow"


def stream_folder(stream: str) -> str:
    """`data/<stream>/`: what all its shards' names begin with."""
    return f"data/{check_stream_name(stream)}/"


def quarantine_name(stream: str, epoch: int, number: int = 0) -> str:
    """`quarantine/<stream>/e3-000042-<random>.arrow`."""
    return f"quarantine/{check_stream_name(stream)}/e{epoch}-{number:06d}-{secrets.token_hex(8)}.arrow"


def plan_name(source: str, epoch: int, number: int) -> str:
    """`plan/<source>/e3-000042-<random>.parquet`."""
    return f"plan/{check_stream_name(source)}/e{epoch}-{number:06d}-{secrets.token_hex(8)}.parquet"


def lane_file_name(kind: str, source: str, lane: int, epoch: int) -> str:
    """`carry/<source>/L0007/e3-<random>.arrow`; `kind` is "carry" or "dedup"."""
    return f"{kind}/{check_stream_name(source)}/L{lane:04d}/e{epoch}-{secrets.token_hex(8)}.arrow"


def epoch_of(name: str) -> int | None:
    """The epoch that a file's name tells, temporary names included; None if it tells none."""
    match = _EPOCH.match(name.rpartition("/")[2])
    return int(match.group(1)) if match else None
