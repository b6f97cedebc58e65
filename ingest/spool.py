"""A spool: a folder that makes a source which cannot be replayed into one that can.

    SPOOL/
      r000012-5f0c…/        a run: one start of a receiver; one unbounded split of that name, for ever
        000000.seg          its segments, in order; numbers may be left out (see spool_writer.py)
        000001.seg
        mark                up to where the run is known to be on disk, for whoever reads while it is written
        sealed              there will be no more: created once, by whoever comes first (see spool_fence.py)
        committed           up to where a dataset holds the run; only a hint of what may be deleted
      gone-r000011-…/       an empty trace of a run that was deleted, so that its number is not given again

The bytes of a segment are drawn in spool_format.py, docs/spool.md tells the guarantees. One spool serves one stream.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Literal

from headrace.schemas.errors import StorageError
from headrace.schemas.pipeline import Settings, Spool, run_field

SEALED = "sealed"
COMMITTED = "committed"
MARK = "mark"
GONE = "gone-"

_RUN = re.compile(r"^r(\d{6,12})-([0-9a-f]+)$")
_SEGMENT = re.compile(r"^(\d{6,12})\.seg$")
_KEEP = re.compile(r"^(\d+)([dh])$")

Clock = Callable[[], int]  #: microseconds since 1970 UTC


def now_us() -> int:
    """The clock of this host."""
    return time.time_ns() // 1000


class SpoolFull(StorageError):
    """There is no room for these items: `max_bytes` is reached, or the disk is full. Nothing of them counts."""


class SpoolSettings(Settings):
    """How much a spool may hold, for how long, and how often it is synced."""

    max_bytes: int = run_field(
        8 << 30, ge=1 << 16, description="bytes the spool may take, all runs together; what then happens is `policy`"
    )
    policy: Literal["block", "shed"] = run_field(
        "block", description="when it is full: `block` takes nothing more until there is room, `shed` drops and counts"
    )
    keep: str = run_field(
        "committed",
        description="when bytes may go: once the dataset holds them (`committed`), and not before so many days or hours"
        " after they arrived (`7d`, `12h`), or never (`forever`)",
        pattern=r"^(committed|forever|\d+d|\d+h)$",
    )
    segment_bytes: int = run_field(
        64 << 20, ge=4096, description="a segment ends once it holds this much; bytes go in whole segments"
    )
    sync_ms: float = run_field(20, ge=0, description="how long items may wait for others to share one fsync with them")
    sync_items: int = run_field(1000, ge=1, description="this many items are synced without waiting for more")

    @classmethod
    def of(cls, spool: Spool) -> SpoolSettings:
        """From the section `spool` of a stream. Less than 64 KiB is taken as 64 KiB."""
        max_bytes = max(1 << 16, int(spool.max_mib * (1 << 20)))
        return cls(max_bytes=max_bytes, policy=spool.policy, keep=spool.keep)

    @property
    def segment_limit(self) -> int:
        """The size at which a segment ends. The last one of a run cannot go, so it must leave room for others."""
        return min(self.segment_bytes, self.max_bytes // 8)

    @property
    def item_limit(self) -> int:
        """The largest item taken; a larger one becomes a Broken that says so, since it might never find room."""
        return min(self.max_bytes // 4, 1 << 30)


def keep_us(keep: str) -> int | None:
    """How long after its arrival a committed byte is kept, in µs; None is for ever.

    Raises: ValueError for what is none of `committed`, `forever`, `7d`, `12h`.
    """
    if keep in ("committed", "forever"):
        return 0 if keep == "committed" else None
    match = _KEEP.match(keep)
    if match is None:
        raise ValueError(f"keep: {keep!r} is none of committed, forever, <N>d, <N>h")
    return int(match[1]) * {"d": 86_400, "h": 3_600}[match[2]] * 1_000_000


def run_name(number: int, token: str) -> str:
    """`r000012-<token>`. The token keeps the split ids of a spool apart from those of one that was wiped."""
    return f"r{number:06d}-{token}"


def run_key(name: str) -> tuple[int, str] | None:
    """What runs are ordered by; None if it is not the name of a run."""
    match = _RUN.match(name)
    return (int(match[1]), match[2]) if match else None


def segment_name(index: int) -> str:
    return f"{index:06d}.seg"


def segment_index(name: str) -> int | None:
    """None if it is not the name of a segment."""
    match = _SEGMENT.match(name)
    return int(match[1]) if match else None


def place_of(position: Any) -> tuple[int, int, int]:
    """(segment, byte offset behind the entry, number of the next entry); None is the start of a run.

    Raises: ValueError if it is not a position of a spool.
    """
    if position is None:
        return (0, 0, 0)
    if (
        isinstance(position, (list, tuple))
        and len(position) == 3
        and all(type(part) is int and part >= 0 for part in position)
    ):
        return (position[0], position[1], position[2])
    raise ValueError(f"{position!r} is no position of a spool: [segment, byte offset, entry number] is expected")
