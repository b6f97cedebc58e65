"""What lies inside containers: members of tar and zip archives, records of web archives, one after another.

Every object inside is a Part: its name, its sniffed format, its bytes (with one level of compression undone) and the
positions before and after it. Members are named but never extracted; a name is text for provenance, not a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from headrace.connectors import expand as expanding
from headrace.connectors.blobs import SliceBlob, spool
from headrace.connectors.byte_source import ByteSource, part_of
from headrace.connectors.contract import Blob, Broken, Item, Position, Read
from headrace.connectors.expand import Budget
from headrace.connectors.lines import Lines, LongLine, read_lines
from headrace.connectors.sniff import HEAD_BYTES, UNKNOWN, Format, sniff
from headrace.connectors.tar_reader import TarDamage, tar_members
from headrace.connectors.zip_reader import ZipDamage, zip_members
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

_KEPT_BYTES = 1 << 16  #: of raw bytes that go with a Broken
_LINKS = ("hard link", "symbolic link")
_SUFFIXES = {"gzip": (".gz", ".gzip", ".tgz"), "zstd": (".zst", ".zstd"), "xz": (".xz",), "bzip2": (".bz2",)}


@dataclass(frozen=True)
class Bounds:
    """Limits of one object, from the connector's settings."""

    budget: Budget
    max_line: int
    max_object: int
    whole_lines: bool = False  #: JSON Lines are objects like others, not batches of lines


@dataclass
class Part:
    """One object inside a container."""

    id: str  #: archive.tar/member.jpg
    name: str  #: without the suffix of a compression that was undone
    format: Format
    source: ByteSource
    before: Position
    after: Position
    stored: Blob | None = None  #: the same bytes where they lie in a local archive: they need no copy
    checked: bool = False  #: reading `source` to its end checks a checksum
    offset: int = 0  #: of its bytes in the archive, where known


def locator(**fields: Any) -> str:
    """A locator as canonical JSON."""
    return canonical_json(fields).decode()


def plain_name(name: str, kind: str) -> str:
    """`a.csv.gz` → `a.csv`, `a.tgz` → `a.tar`."""
    lower = name.lower()
    for suffix in _SUFFIXES[kind]:
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)] + (".tar" if suffix == ".tgz" else "")
    return name


def sniff_source(source: ByteSource, name: str, whole: Blob | None = None) -> Format:
    """The format of what a source is about to give; `whole` reaches what lies behind the head."""

    def read_at(offset: int, size: int) -> bytes:
        if offset + size <= HEAD_BYTES or whole is None:
            return source.peek(min(offset + size, HEAD_BYTES))[offset : offset + size]
        with whole.open() as stream:
            stream.seek(min(offset, whole.size))
            return stream.read(size)

    return sniff(source.peek(HEAD_BYTES), name, read_at)


def member_id(container: str, name: str) -> str:
    """The id of a member: its name without what could be taken for a way out, at most 1,024 characters."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    clean = "/".join("__" if part == ".." else re.sub(r"[\x00-\x1f\x7f]", "_", part) for part in parts)
    return f"{container}/{clean[:1024] or '_'}"


# -- archives ----------------------------------------------------------------------------------------------------------


def tar_parts(source: ByteSource, id: str, archive: Blob | None, after: int, bounds: Bounds) -> Iterator[Part | Broken]:
    """The members of a tar behind the first `after` entries. `archive`: the tar itself, when it is not compressed."""
    count = 0
    for entry in tar_members(source):
        before, count = count, count + 1
        if before < after:
            continue
        if isinstance(entry, TarDamage):
            where = locator(bytes=[entry.begin, entry.end])
            yield Broken(entry.reason, f"{id}: {entry.message} (bytes {entry.begin} to {entry.end})", count, where)
            continue
        if entry.kind == "folder":
            continue
        where = locator(member=entry.name)
        if entry.kind in _LINKS:
            yield Broken("external_reference", f"{entry.name} is a {entry.kind}; links are not followed", count, where)
            continue
        if entry.kind != "file":
            yield Broken("unsupported", f"{entry.name} is a {entry.kind}", count, where)
            continue
        if entry.size == 0:
            yield Broken("empty", f"{entry.name} has no bytes", count, where)
            continue
        stored = None
        # From a remote archive it is cheaper to keep the bytes that pass by than to fetch them again.
        if archive is not None and archive.local_path() and entry.offset + entry.size <= archive.size:
            stored = SliceBlob(member_id(id, entry.name), archive, entry.offset, entry.size)
        inner = part_of(source, entry.size, entry.name)
        yield _part(id, entry.name, inner, before, count, stored, bounds)


def zip_parts(stream: BinaryIO, id: str, archive: Blob, after: int, bounds: Bounds) -> Iterator[Part | Broken]:
    """The members of a zip behind the first `after` of its directory."""
    count = 0
    for member in zip_members(stream, archive.size, bounds.budget):
        before, count = count, count + 1
        if before < after:
            continue
        if isinstance(member, ZipDamage):
            yield Broken(member.reason, f"{id}/{member.name}: {member.message}", count, locator(member=member.name))
            continue
        stored = None
        if member.stored and archive.local_path() and sum(member.stored) <= archive.size:
            stored = SliceBlob(member_id(id, member.name), archive, *member.stored)
        if member.source.at_end() and member.source.damage is None:
            yield Broken("empty", f"{member.name} has no bytes", count, locator(member=member.name))
            continue
        part = _part(id, member.name, member.source, before, count, stored, bounds)
        part.checked = True
        yield part


def _part(id: str, name: str, source: ByteSource, before: int, after: int, stored: Blob | None, bounds: Bounds) -> Part:
    """A member as a part, with one level of compression undone."""
    found = sniff_source(source, name, stored)
    if found.name in expanding.KINDS:
        inner = ByteSource(_expanded(found.name, source, bounds.budget))
        base = plain_name(name, found.name)
        return Part(member_id(id, name), base, sniff_source(inner, base), inner, before, after)
    return Part(member_id(id, name), name, found, source, before, after, stored)


def _expanded(kind: str, source: ByteSource, budget: Budget) -> Iterator[bytes]:
    try:
        yield from expanding.expand(kind, source, budget)
    except RecordError as exc:
        raise source.damage or exc from exc
    if source.damage is not None:
        raise source.damage


# -- from a part to what is read ---------------------------------------------------------------------------------------


def part_reads(part: Part, resume: Any, bounds: Bounds) -> Iterator[Read]:
    """The item of a part, or its lines; its damage last.

    resume: the inner position (`{"after": …, "byte"|"part": …}`) of this part to go on from, or None.
    """
    headers = {"format": part.format.name, "object": part.id}
    where = locator(member=part.name)
    if part.format.container or part.format.name in ("warc", "arc"):
        message = f"{part.name} is a {part.format.name} inside another container; one level is opened"
        yield Broken("unsupported", message, part.after, where, part.source.peek(_KEPT_BYTES))
        return
    if part.format.name == "jsonl" and not bounds.whole_lines:
        yield from _line_reads(part, headers, resume, bounds)
        return
    blob, broken = _blob_of(part, bounds)
    out: list[Read] = []
    if blob is not None:
        out.append(Item(blob, None, headers={**headers, "truncated": "1"} if broken else headers))
    if broken is not None:
        out.append(broken)
    yield from in_turn(out, part.before, part.after, resume)


def in_turn(out: list[Read], before: Position, after: Position, resume: Any) -> Iterator[Read]:
    """Reads of one object: the last carries the position after it, the others name their number inside it."""
    done = -1 if resume is None else resume["part"]
    for number, read in enumerate(out):
        if number > done:
            inner = number + 1 < len(out)
            yield _with_position(read, {"after": before, "part": number} if inner else after)


def _blob_of(part: Part, bounds: Bounds) -> tuple[Blob | None, Broken | None]:
    """A part's bytes, and what is broken in them. Bytes that fail a checksum or a budget are not given."""
    blob: Blob | None
    try:
        if part.stored is None:
            blob, damage = spool(part.source, part.id, bounds.max_object)
        else:
            for _ in part.source.chunks() if part.checked else ():
                pass
            blob, damage = part.stored, part.source.damage if part.checked else None
    except RecordError as exc:
        blob, damage = None, exc
    if damage is None:
        return blob, None
    broken = Broken(damage.reason, f"{part.name}: {damage.message}", part.after, locator(member=part.name))
    believed = blob is not None and blob.size > 0 and damage.reason in ("truncated", "corrupt")
    return blob if believed else None, broken


def _line_reads(part: Part, headers: dict[str, str], resume: Any, bounds: Bounds) -> Iterator[Read]:
    if resume is not None:
        part.source.skip(resume["byte"])
    waiting: Read | None = None
    # The last read carries the position after the whole part.
    for got in line_reads(part.source, headers, None, bounds.max_line, part.name, part.after):
        if waiting is not None:
            yield waiting
        waiting = _with_position(got, {"after": part.before, "byte": got.position})
    if waiting is not None:
        yield _with_position(waiting, part.after)


def _with_position(read: Any, position: Position) -> Read:
    if isinstance(read, Item):
        return Item(read.data, position, read.key, read.event_time, read.headers)
    return Broken(read.reason, read.message, position, read.locator, read.data)


def line_reads(
    source: ByteSource, headers: dict[str, str], stop: int | None, max_line: int, name: str, end: Position
) -> Iterator[Item | Broken]:
    """Lines as items of about a mebibyte; the position is the byte offset after the last line.

    Damage of the source comes last, with the position `end`, the range it begins, and the piece of a line before it.
    """
    torn = None
    for got in read_lines(source, stop, max_line):
        if isinstance(got, Lines):
            yield Item(got.batch, got.end, headers=headers)
        elif isinstance(got, LongLine):
            message = f"a line of {got.end - got.begin} bytes; `max_line_bytes` allows {max_line}"
            yield Broken("too_large", message, got.end, locator(bytes=[got.begin, got.end]), got.head)
        else:
            torn = got
    damage = source.damage
    if damage is not None:
        begin = torn.begin if torn else source.position
        data = torn.data[:_KEPT_BYTES] if torn else None
        yield Broken(damage.reason, f"{name}: {damage.message}", end, locator(bytes=[begin, None]), data)


# -- WebDataset --------------------------------------------------------------------------------------------------------


def webdataset_key(name: str) -> tuple[str, str]:
    """(key, extension): the key ends at the first dot of the last component, as WebDataset has it."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def is_webdataset(source: ByteSource) -> bool:
    """Whether the first keys of a tar each have several members of different extensions, one beside the other."""
    keys: dict[str, list[str]] = {}
    last = None
    for entry in tar_members(source):
        if isinstance(entry, TarDamage):
            break
        if entry.kind != "file":
            continue
        key, extension = webdataset_key(entry.name)
        if key in keys and key != last:
            return False
        if key not in keys and len(keys) == 2:
            break  # the first two keys are complete
        keys.setdefault(key, []).append(extension)
        last = key
        if sum(len(found) for found in keys.values()) >= 64:
            break
    return bool(keys) and all(len(found) > 1 and len(set(found)) == len(found) for found in keys.values())


def grouped_reads(
    parts: Iterator[Part | Broken], resume: Any, bounds: Bounds, keep: Callable[[Format], bool], tell: bool
) -> Iterator[Read]:
    """Adjacent parts of one WebDataset key as one item of several blobs; what is broken in a group follows it.

    keep: whether the group of a primary format is wanted. tell: whether damage that belongs to no group is.
    """
    group = _Group(resume)
    for part in parts:
        if isinstance(part, Broken):
            group.broken.append(part)
            group.after = part.position
            continue
        key = webdataset_key(part.name)[0]
        if group.key != key:
            yield from group.close(keep, tell)
            group = _Group(resume if group.key is None and not group.broken else None, key, part.before)
        group.add(part, bounds)
    yield from group.close(keep, tell)


class _Group:
    """The parts of one key that have come so far."""

    def __init__(self, resume: Any, key: str | None = None, before: Position = None) -> None:
        self.key = key
        self.broken: list[Broken] = []
        self.after: Position = before
        self._before = before
        self._resume = resume
        self._blobs: list[Blob] = []
        self._formats: list[Format] = []

    def add(self, part: Part, bounds: Bounds) -> None:
        """Take one more part."""
        blob, broken = _blob_of(part, bounds)
        if broken is not None:
            self.broken.append(broken)
        if blob is not None:
            self._blobs.append(blob)
            self._formats.append(part.format)
        self.after = part.after

    def close(self, keep: Callable[[Format], bool], tell: bool) -> Iterator[Read]:
        """The group's item, then what was broken in it."""
        if not (keep(primary(self._formats)) if self._blobs else tell):
            return
        if self.key is None:
            yield from self.broken
            return
        out: list[Read] = []
        if self._blobs:
            headers = group_headers("webdataset", self._formats)
            folder = self._blobs[0].id.rpartition("/")[0]
            headers["object"] = f"{folder}/{self.key.rpartition('/')[2]}"
            if self.broken:
                headers["truncated"] = "1"
            out.append(Item(self._blobs, None, key=self.key, headers=headers))
        out += self.broken
        yield from in_turn(out, self._before, self.after, self._resume)


_ORDER = ("video", "raster", "image", "audio", "sensor", "text", None)


def primary(formats: list[Format]) -> Format:
    """The format that says what a group is: the first video, else raster, image, audio, sensor, text."""
    return min(formats, key=lambda found: _ORDER.index(found.modality)) if formats else UNKNOWN


def group_headers(rule: str, formats: list[Format]) -> dict[str, str]:
    """Headers of an item of several blobs: the primary format, the rule, and each blob's format in order."""
    names = canonical_json([found.name for found in formats]).decode()
    return {"format": primary(formats).name, "group": rule, "formats": names}
