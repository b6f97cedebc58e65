"""What a stream lost between our position and what it shows now: the arithmetic of trimming and deletion, without I/O.

Redis drops old entries from the front (XADD MAXLEN, XTRIM) and any entry by XDEL. It tells of it only by counters:
`added` (ever), `length` (now), the `first` id that is left, and the highest id that XDEL ever took (`deleted`). We
count along: `seen` is how many of the entries ever added are accounted for up to our position. Then

    lost = added - seen - (entries behind our position that are left)

is exact whenever that last number is known: a read reached the end, or nothing at or before our position is left, so
that all `length` entries are behind us. Where `seen` is unknown (after a restart, until a read reaches the end):

    first <= position                  nothing behind us was trimmed, since trimming takes the front first
    first >  position, added = length  nothing was ever removed; if our entry was in it, this is another stream
    first >  position, added > length  something was removed, perhaps behind us: a gap of unknown size
    deleted > position                 at least one entry that we had not read was deleted: a gap of unknown size

A gap stands where its evidence ends: just before `first`, or at `deleted`. So a reader that dies before it has passed
the gap finds the evidence again. Servers before Redis 7 tell neither `added` nor `deleted`: there gaps have no size,
and an entry deleted between others is not noticed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.connectors.contract import Gap
from headrace.connectors.redis_entry import FIRST, Entry, Id, before, parse_position, position_of, show_id
from headrace.schemas.errors import SourceChanged


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stream's counters and the entries after a place, taken in one transaction."""

    length: int
    last: Id  #: the highest id ever given
    first: Id | None  #: the first entry that is left
    added: int | None = None
    deleted: Id | None = None
    entries: Sequence[Entry] = ()
    complete: bool = True  #: `entries` are all there are after that place


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader stands."""

    id: Id | None = None  #: None: before whatever is the first entry
    was_entry: bool = False  #: `id` was in the stream once
    seen: int | None = None


def step(place: Place, shown: Snapshot, key: str) -> tuple[list[tuple[int, Gap]], Place]:
    """The gaps, each with the index of the entry that it stands before, and the place after all entries and gaps.

    Raises: SourceChanged if this is not the stream that `place` was taken in.
    """
    here, entries = place.id, shown.entries
    emptied = here is None or shown.first is None or shown.first > here  # nothing at or before our place is left
    _check_same(place, shown, emptied, key)
    lost = _lost(place, shown, emptied)
    edge = before(shown.first) if shown.first else shown.last  # no entry is left up to here
    gaps: list[tuple[int, Gap]] = []
    mixed = shown.deleted is not None and shown.first is not None and shown.deleted > shown.first
    if emptied and here is not None and edge > here and lost != 0 and shown.added != shown.length:
        gaps.append((0, Gap("trimmed", position_of(edge, False), None if mixed else lost)))
    floor = here if here is not None else FIRST
    gone = _highest_deleted(shown, floor)
    if gone is not None and gone > (max(floor, edge) if emptied else floor):
        index = bisect_right(entries, gone, key=lambda entry: entry.id)
        if shown.complete or index < len(entries):
            gaps.append((index, Gap("deleted", position_of(gone, False), None if emptied else lost)))
    return gaps, _next(place, shown, gaps, emptied, mixed)


def _check_same(place: Place, shown: Snapshot, emptied: bool, key: str) -> None:
    if place.id is None or not place.was_entry:
        return
    said = None
    if shown.last < place.id:
        said = f"its last id is {show_id(shown.last)}"
    elif place.seen is not None and shown.added is not None and shown.added < place.seen:
        said = f"it counts {shown.added} entries ever added, where it had counted {place.seen}"
    elif emptied and shown.added == shown.length:
        said = "it says that no entry was ever removed"
    if said:
        raise SourceChanged(
            f"redis stream {key} is not the one that was read: we had read its entry {show_id(place.id)}, "
            f"and now {said}. It was deleted and made anew, or the server lost its newest writes (appendfsync always "
            "prevents that); read it as a new source, or bring the old data back"
        )


def _lost(place: Place, shown: Snapshot, emptied: bool) -> int | None:
    """How many entries behind `place` are gone; None if that cannot be told."""
    if shown.added is None or place.seen is None or not (shown.complete or emptied):
        return None
    left = len(shown.entries) if shown.complete else shown.length
    lost = shown.added - place.seen - left
    return lost if lost >= 0 else None  # somebody set the counters (XSETID)


def _highest_deleted(shown: Snapshot, floor: Id) -> Id | None:
    if shown.deleted is not None:
        return shown.deleted
    end = shown.entries[-1].id if shown.entries else floor
    return shown.last if shown.complete and shown.last > end else None


def _next(place: Place, shown: Snapshot, gaps: list[tuple[int, Gap]], emptied: bool, mixed: bool) -> Place:
    count = len(shown.entries)
    if shown.complete:
        seen = shown.added
    elif emptied:
        seen = None if mixed or shown.added is None else shown.added - shown.length + count
    else:
        seen = None if gaps or place.seen is None else place.seen + count
    if gaps and gaps[-1][0] == count:
        return Place(parse_position(gaps[-1][1].position)[0], False, seen)
    if count:
        return Place(shown.entries[-1].id, True, seen)
    if place.id is None and shown.complete:
        return Place(shown.last, False, seen)  # from here on nothing may be missed
    return Place(place.id, place.was_entry, seen)
