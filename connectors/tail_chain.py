"""Which file comes when: finds the file that a place means, and the one that follows it.

    older, done        │ chain: rotated since the place's file was begun │ live
    app.log.3  (≤ past)│ app.log.2          app.log.1                   │ app.log

A file is the one of a place if it holds, up to the offset, what was read there. The inode is asked first, since a
renamed file keeps it; content decides, since an inode may be used again.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.connectors.contract import Read
from headrace.connectors.tail_files import Rotation, Sibling, TailFile, family, open_sibling
from headrace.connectors.tail_place import HEAD_BYTES, NEAR_BYTES, Place, Trail


@dataclass(frozen=True)
class Found:
    """The file to read on in, and where. `lost` says why what was between the place and this is gone."""

    file: TailFile
    trail: Trail
    generation: int
    past: int
    lost: str | None = None
    previous: Place | None = None  #: where the file before it ended, if that was read just now
    due: tuple[Read, ...] = ()  #: what is still to be given of the file before it


def find(folder: str, name: str, rotation: Rotation, place: Place, *, truncated: bool = False) -> Found | None:
    """Where to read on after a place; None while there is no file at all.

    truncated: the live file of the place was seen to lose bytes, so it is not what the place means any more.
    Raises: SourceError.
    """
    rotated, live = family(folder, name, rotation)
    chain = [sibling for sibling in rotated if sibling.mtime_ns > place.past]
    here = [live] if live is not None and not truncated else []
    renamed = [sibling for sibling in rotated if sibling.inode == place.inode]
    if place.at == 0:
        # Nothing was read, so nothing tells the file by its content: it is the oldest that is not done. (Not the one
        # with its inode, which may have been used again since the file was compressed.)
        begun = _not_held_by(chain, live) if here and here[0].inode == place.inode else chain
        wanted = [*begun, *renamed, *here][:1]
        lost = bool(wanted) and wanted[0].live and wanted[0].inode != place.inode
        found = _begin(wanted, place)
        if found is not None and not lost:
            return found
        if found is not None:
            found.file.close()
    else:
        still = [sibling for sibling in here if sibling.inode == place.inode]
        replaced = [sibling for sibling in here if sibling.inode != place.inode]
        for sibling in [*still, *renamed, *chain, *replaced]:
            file = open_sibling(sibling)
            if file is None:
                continue
            trail = file.trail(place)
            if trail is not None:
                return Found(file, trail, place.generation, place.past)
            file.close()
        if truncated and live is not None and live.inode == place.inode:
            # Cut off behind the last whole line, so nothing that was given is to be read again.
            file = open_sibling(live)
            trail = file.trail(place) if file is not None else None
            if file is not None and trail is not None:
                return Found(file, trail, place.generation + 1, place.past, "an unfinished line was cut off")
            if file is not None:
                file.close()
    return _after_loss(chain, live, place)


def _begin(siblings: list[Sibling], place: Place) -> Found | None:
    for sibling in siblings:
        file = open_sibling(sibling)
        if file is not None:
            return Found(file, Trail(0, b"", b""), place.generation, place.past)
    return None


def _after_loss(chain: list[Sibling], live: Sibling | None, place: Place) -> Found | None:
    """The next file there is, when that of the place is not to be had."""
    cut = live is not None and live.inode == place.inode
    lost: str | None = "the file was truncated" if cut else "the rotated file is gone, or was replaced"
    past = place.past
    for sibling in chain:
        file = open_sibling(sibling)
        if file is None:
            continue
        # copytruncate: a copy that ends before the place was taken before the last lines were read. Nothing is lost.
        if cut and file.kind is None and file.size < place.at and file.is_a_beginning(place):
            lost, past = None, sibling.mtime_ns
            file.close()
            continue
        return Found(file, Trail(0, b"", b""), place.generation + 1, past, lost)
    if live is None:
        return None
    file = open_sibling(live)
    return Found(file, Trail(0, b"", b""), place.generation + 1, past, lost) if file is not None else None


def overtaken(folder: str, name: str, rotation: Rotation, found: Found) -> Sibling | None:
    """The file that was rotated away since `found` was opened at its byte 0, when nothing tells it by its content.

    Its bytes come before those that its inode or name leads to now. Raises: SourceError.
    """
    rotated, live = family(folder, name, rotation)
    past, previous = found.past, found.previous
    if live is None or live.inode != found.file.inode:  # it was rotated itself: only what is older comes before it
        inodes = [sibling.inode for sibling in rotated]
        rotated = rotated[: inodes.index(found.file.inode)] if found.file.inode in inodes else []
    chain = [sibling for sibling in rotated if sibling.mtime_ns > past]
    if previous is not None:
        # The file before may have been written to after it was left, so that its time is later than `past`.
        chain = [one for one in chain if one.inode != previous.inode and not (previous.at and _holds(one, previous))]
    chain = _not_held_by(chain, live)
    return chain[0] if chain else None


def _not_held_by(chain: list[Sibling], live: Sibling | None) -> list[Sibling]:
    """Rotated files without copies of the live one: `copytruncate` has copied it, and not emptied it yet."""
    file = open_sibling(live) if live is not None and chain else None
    if file is None:
        return chain
    try:
        return [sibling for sibling in chain if not _is_copied_from(sibling, file)]
    finally:
        file.close()


def _is_copied_from(sibling: Sibling, live: TailFile) -> bool:
    copy = open_sibling(sibling)
    if copy is None:
        return False
    try:
        size = copy.size
        if copy.kind is not None or not 0 < size <= live.size:
            return False
        begin = max(0, size - NEAR_BYTES)
        trail = Trail(size, copy.read(0, min(size, HEAD_BYTES)), copy.read(begin, size - begin))
        return live.trail(trail.place(0, 0, 0)) is not None
    finally:
        copy.close()


def following(folder: str, name: str, rotation: Rotation, file: TailFile, end: Place) -> Sibling | None:
    """The file that was begun when `file`, read up to `end`, was rotated; None if there is none yet.

    Raises: SourceError.
    """
    rotated, live = family(folder, name, rotation)
    numbers = [number for number, sibling in enumerate(rotated) if sibling.inode == file.inode]
    if not numbers and end.at:  # deleted since it was opened, or compressed
        numbers = [number for number, sibling in enumerate(rotated) if _holds(sibling, end)]
    if numbers:
        later = rotated[numbers[0] + 1 :]
    else:
        later = [sibling for sibling in rotated if sibling.mtime_ns > file.mtime_ns]
    return later[0] if later else live


def _holds(sibling: Sibling, place: Place) -> bool:
    file = open_sibling(sibling)
    if file is None:
        return False
    try:
        return file.trail(place) is not None
    finally:
        file.close()
