"""Reads the chosen tracks of one file in a single pass over its packets.

A track that fails costs that track: it becomes one `Bad`, the others go on. A file none of whose tracks gives a record
raises. A file that was cut gives one `Bad` for what is missing, after all its records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from headrace.ingest.normalizers.contract import Bad, Normalized
from headrace.ingest.normalizers.media import Media
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError


class Reading(Protocol):
    """What VideoTrack, AudioTrack and TextTrack have in common."""

    stream: Any
    emitted: int
    done: bool

    def feed(self, packet: Any) -> Iterator[Normalized]:
        """What one packet completes."""

    def finish(self) -> Iterator[Normalized]:
        """What the end completes."""

    def cut(self) -> str | None:
        """Why the track is known to end too early."""


def read_tracks(media: Media, makers: Sequence[Callable[[], Reading]], *, last: bool = True) -> Iterator[Normalized]:
    """The records of some tracks, in the order in which the file completes them, then what the end completes.

    makers: what sets each track up. last: whether this reading answers for the file's end (the last part of a divided
    file does).
    Raises: RecordError if no track gives a record.
    """
    tracks: list[Reading] = []
    failed: list[RecordError] = []
    for make in makers:
        try:
            tracks.append(make())
        except RecordError as exc:
            failed.append(exc)
    alive = {track.stream.index: track for track in tracks}
    for packet in media.packets([track.stream for track in tracks]):
        track = alive.get(packet.stream_index)
        if track is None:
            continue
        try:
            yield from track.feed(packet)
        except RecordError as exc:
            failed.append(_placed(exc, track))
            del alive[packet.stream_index]
        if all(other.done for other in alive.values()):  # none is left, or each is past its part
            break
    for track in list(alive.values()):
        try:
            yield from track.finish()
        except RecordError as exc:
            failed.append(_placed(exc, track))
            del alive[track.stream.index]
    if failed and not any(track.emitted for track in tracks):
        raise failed[0]
    for error in failed:
        yield Bad(error.reason, error.message, error.locator or "{}")
    if last and any(track.emitted for track in tracks):
        yield from _rest(media, tracks)


def _placed(error: RecordError, track: Reading) -> RecordError:
    place = error.locator or canonical_json({"stream": track.stream.index}).decode()
    return RecordError(error.reason, error.message, locator=place)


def _rest(media: Media, tracks: Sequence[Reading]) -> Iterator[Normalized]:
    """One Bad for all that is missing behind the last records."""
    found = {track.stream.index: why for track in tracks if (why := track.cut()) is not None}
    if not found:
        return
    declared = media.facts.declared_bytes
    rest = {"streams": sorted(found), "from_byte": media.size, "to_byte": declared if declared != media.size else None}
    reason = media.read_error.reason if media.read_error is not None else "truncated"
    message = f"the rest of streams {sorted(found)} is missing: {next(iter(found.values()))}"
    yield Bad(reason, message, canonical_json({"rest": rest}).decode())
