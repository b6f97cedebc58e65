"""Which files of a listing are whole: names in progress, markers, and files that must settle first.

This file knows no file system: listings and a monotonic clock come in, verdicts go out. Nothing is believed of one
listing alone under `settled`: a file is whole when a listing at least that long after another shows it unchanged, so
neither the host's clock nor the time of change that a writer may set decides anything.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable

from headrace.connectors.file_groups import Group
from headrace.connectors.file_store import Entry
from headrace.connectors.path_glob import PathGlob
from headrace.connectors.watch_config import WatchConfig


class NameRules:
    """Names that are never data: those in progress, and markers."""

    def __init__(self, config: WatchConfig) -> None:
        self._progress = [PathGlob(pattern) for pattern in config.in_progress]
        self._template = config.marker
        self._marker: re.Pattern[str] | None = None
        if config.marker is not None:
            parts = re.split(r"\{(?:name|stem)\}", config.marker)
            self._marker = re.compile(".+".join(re.escape(part) for part in parts), re.DOTALL)

    def is_marker(self, id: str) -> bool:
        """Whether a file only says that another is whole."""
        return self._marker is not None and self._marker.fullmatch(id.rsplit("/", 1)[-1]) is not None

    def is_data(self, id: str) -> bool:
        """Whether a file may become data once it is whole: neither it nor a folder above it is in progress."""
        if self.is_marker(id):
            return False
        return not any(glob.matches(part) for part in id.removeprefix("%/").split("/") for glob in self._progress)

    def marker_of(self, id: str) -> str:
        """The id of the marker that says a file or group is whole."""
        assert self._template is not None
        folder, name = posixpath.split(id)
        name = name.removesuffix(".*")  # a group by stem
        stem = posixpath.splitext(name)[0]
        return posixpath.join(folder, self._template.replace("{name}", name).replace("{stem}", stem))


class Closing:
    """The close rule over listing after listing.

    clock: seconds of a monotonic clock; only differences are used.
    """

    def __init__(self, config: WatchConfig, root: str, clock: Callable[[], float]) -> None:
        self.rule = config.rule(root)
        self.names = NameRules(config)
        self._settled_s = config.settled_s
        self._clock = clock
        self._markers: frozenset[str] = frozenset()
        #: id → (pin, when that pin was first seen); of whole ones no time is kept.
        self._seen: dict[str, tuple[str, float | None]] = {}
        self._waiting: set[str] = set()

    def look(self, entries: Iterable[Entry], markers: Iterable[str]) -> set[str]:
        """Take in one listing. Returns: ids that are not settled, which the next listing must look at again."""
        now = self._clock()
        self._markers = frozenset(markers)
        if self.rule != "settled":
            return set()
        seen: dict[str, tuple[str, float | None]] = {}
        waiting: set[str] = set()
        for entry in entries:
            known = self._seen.get(entry.id)
            if known is not None and known[1] is None and known[0] == entry.pin:
                seen[entry.id] = known
                continue
            waiting.add(entry.id)
            if known is None or known[0] != entry.pin:
                known = (entry.pin, now)
            elif known[1] is not None and now - known[1] >= self._settled_s:
                known = (entry.pin, None)
                waiting.remove(entry.id)
            seen[entry.id] = known
        self._seen, self._waiting = seen, waiting
        return waiting

    def closed(self, unit: Group | Entry) -> bool:
        """Whether a file, or every file of a group, was whole in the last listing."""
        entries = unit.entries if isinstance(unit, Group) else (unit,)
        if self.rule == "settled":
            return not any(entry.id in self._waiting for entry in entries)
        if self.rule == "marker":
            by_itself = self.names.marker_of(unit.id) in self._markers
            return by_itself or all(self.names.marker_of(entry.id) in self._markers for entry in entries)
        return True

    def next_due_s(self) -> float | None:
        """In how many seconds the first file that is settling could be found whole; None if none is."""
        since = [when for id in self._waiting if (when := self._seen[id][1]) is not None]
        return max(0.0, min(since) + self._settled_s - self._clock()) if since else None
