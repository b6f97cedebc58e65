"""Which files make one item: the rules `safe`, `stac` and `stem`.

Each rule is a pure function of the listing (and, for `stac`, of the item documents in it), so a group is the same on
any machine. A file belongs to one group at most, save that two STAC items may name one asset; what no rule takes
stands alone.

    safe  everything below a folder named *.SAFE
    stac  an item document and the assets it names by relative paths, where they lie in the listing
    stem  files of one folder whose names differ only behind the stem: clip.mp4, clip.srt, clip.en.vtt
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headrace.connectors.file_store import Entry
from headrace.schemas.canonical import digest_of

Rule = Literal["safe", "stac", "stem", "webdataset", "none"]
MAX_STAC_BYTES = 4 << 20


@dataclass(frozen=True)
class Group:
    """Files that make one item, in a fixed order."""

    id: str
    entries: tuple[Entry, ...]

    @property
    def pin(self) -> str:
        """A digest of the pins of all files: a file that joins, leaves or changes is another group."""
        return "group:" + digest_of([[entry.id, entry.pin] for entry in self.entries])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)


def group_files(
    rule: Rule, entries: Sequence[Entry], read: Callable[[Entry], bytes]
) -> tuple[list[Group], list[Entry]]:
    """(groups of two files or more, files that stand alone), both in the order of their ids.

    entries: sorted by id. read: the bytes of a small file, for `stac`.
    """
    if rule == "safe":
        return _collect(entries, _safe_folder)
    if rule == "stem":
        return _collect(entries, _stems(entries))
    if rule == "stac":
        return _stac(entries, read)
    return [], list(entries)


def _collect(entries: Iterable[Entry], name: Callable[[Entry], str | None]) -> tuple[list[Group], list[Entry]]:
    found: dict[str, list[Entry]] = {}
    alone: list[Entry] = []
    for entry in entries:
        key = None if entry.refused else name(entry)
        if key is None:
            alone.append(entry)
        else:
            found.setdefault(key, []).append(entry)
    groups = [Group(key, tuple(files)) for key, files in sorted(found.items()) if len(files) > 1]
    alone += [files[0] for files in found.values() if len(files) == 1]
    return groups, sorted(alone, key=lambda entry: entry.id)


def _safe_folder(entry: Entry) -> str | None:
    parts = entry.id.split("/")
    for depth, part in enumerate(parts[:-1], 1):
        if part.upper().endswith(".SAFE"):
            return "/".join(parts[:depth])
    return None


def _stems(entries: Iterable[Entry]) -> Callable[[Entry], str | None]:
    known = {posixpath.splitext(entry.id)[0] for entry in entries}

    def name(entry: Entry) -> str | None:
        # clip.en.vtt belongs to clip, if a file clip.* has just that stem: the shortest stem of a neighbour wins.
        folder, base = posixpath.split(entry.id)
        pieces = base.split(".")
        for count in range(1, len(pieces)):
            stem = posixpath.join(folder, ".".join(pieces[:count]))
            if stem in known and pieces[0]:
                return stem + ".*"
        return None

    return name


def _stac(entries: Sequence[Entry], read: Callable[[Entry], bytes]) -> tuple[list[Group], list[Entry]]:
    by_id = {entry.id: entry for entry in entries if not entry.refused}
    groups: list[Group] = []
    taken: set[str] = set()
    for entry in by_id.values():
        if not entry.id.lower().endswith((".json", ".geojson")) or not 0 < entry.size <= MAX_STAC_BYTES:
            continue
        assets = [by_id[path] for path in stac_assets(entry.id, read(entry)) if path in by_id and path != entry.id]
        if assets:
            groups.append(Group(entry.id, (entry, *assets)))
            taken.update([entry.id, *(asset.id for asset in assets)])
    return groups, [entry for entry in entries if entry.id not in taken]


def stac_assets(item_id: str, document: bytes) -> list[str]:
    """The paths that a STAC item's assets name inside the root, by asset key; none if it is no STAC item.

    URLs, absolute paths and paths that lead out of the root are not followed.
    """
    try:
        item: Any = json.loads(document)
    except (ValueError, RecursionError):
        return []
    if not isinstance(item, Mapping) or item.get("type") != "Feature" or "stac_version" not in item:
        return []
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        return []
    paths: list[str] = []
    for key in sorted(assets):
        href = assets[key].get("href") if isinstance(assets[key], Mapping) else None
        if not isinstance(href, str) or "://" in href or href.startswith(("/", "\\")) or ":" in href.split("/")[0]:
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(item_id), href))
        if not path.startswith("../") and path not in ("..", ".") and path not in paths:
            paths.append(path)
    return paths
