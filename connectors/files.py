"""The connector `files`: a folder, a bucket or a list of URLs, one split per file or part of a file.

What a split yields depends on what its first bytes say it is:

    JSON Lines, also compressed   record batches of lines, about 1 MiB each; position: byte offset after the last line
    zip, tar                      one item a member, or a WebDataset key; position: number of members done
    WARC, ARC                     one item a response, resource or conversion; position: [file offset, bytes into it]
    everything else               one blob, decompressed if need be; position: "end"

Large JSON Lines files are divided into byte ranges (`x.jsonl#bytes=0-268435456`), large rasters and videos into
numbered parts of one object (`x.tif#part=1/4`), which their normalizers divide by blocks and key frames.

A build lists what is there, once. A service calls `watch` first and then lists again and again: `splits` then gives
only files that are whole by the rule of the settings (see connectors/watch_config.py).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from headrace.connectors.blobs import FileBlob, spool
from headrace.connectors.containers import (
    Bounds,
    Part,
    group_headers,
    grouped_reads,
    in_turn,
    line_reads,
    part_reads,
    primary,
)
from headrace.connectors.contract import Blob, Broken, Connector, Item, Position, Read, Split
from headrace.connectors.expand import Budget
from headrace.connectors.file_groups import Group, group_files, stac_assets
from headrace.connectors.file_store import Entry, FsspecStore, LocalStore, Store, changed
from headrace.connectors.files_config import FilesConfig
from headrace.connectors.http_store import HttpStore
from headrace.connectors.lines import skip_to_line
from headrace.connectors.opened_file import Contents, OpenedFile
from headrace.connectors.path_glob import PathGlob
from headrace.connectors.sniff import UNKNOWN
from headrace.connectors.watch import Closing, NameRules
from headrace.connectors.watch_config import WatchConfig, seconds
from headrace.connectors.watch_store import Recheck, Watched, WatchedFolder, WatchedObjects, WatchedUrls
from headrace.connectors.watch_wakeup import Wakeup
from headrace.connectors.web_parts import web_reads
from headrace.schemas.errors import RecordError, SourceChanged
from headrace.schemas.record import Modality

END = "end"
_SUFFIX = re.compile(r"#(?:bytes=(\d+)-(\d+)|part=(\d+)/(\d+))$")
_REMEMBERED = 1 << 17  #: files whose contents a reading process keeps in mind
_SMALL_BYTES = 64 << 20  #: of item documents that are kept in mind
_DIVIDE_BYTES = 256 << 20
_LINE_PARTS, _LINE_LEAST, _LINE_MOST = 16, 4 << 20, 64 << 20


class Files(Connector):
    """Files of any kind: local, on S3 and other object stores, or on web servers."""

    Config = FilesConfig
    bounded = True
    replay = "exact"
    example = "{type: files, root: data/bulletins, glob: '**/*.jsonl.zst'}"

    def __init__(self, config: FilesConfig) -> None:
        super().__init__(config)
        self._glob = [PathGlob(pattern) for pattern in config.glob]
        self._exclude = [PathGlob(pattern) for pattern in config.exclude]
        self._bounds = Bounds(
            Budget(config.max_ratio), config.max_line_bytes, config.max_object_bytes, config.lines == "whole"
        )
        self._opened_store: Store | None = None
        self._groups: dict[str, Group] = {}
        #: What a listing need not find out again: (of the last one, of this one), so what is gone is forgotten.
        self._contents: list[dict[tuple[str, str], Contents]] = [{}, {}]
        self._verdicts: dict[str, bool] = {}
        self._small: dict[tuple[str, str], bytes] = {}
        self._small_bytes = 0
        self._torn: set[str] = set()  #: files that changed while a listing looked into them
        self._closing: Closing | None = None
        self._clock: Callable[[], float] = time.monotonic
        self._wakeup: Wakeup | None = None
        self._listing = threading.Lock()

    @property
    def _store(self) -> Store:
        if self._opened_store is None:
            self._opened_store = _open_store(self.config, self._clock if self._closing is not None else None)
        return self._opened_store

    def describe(self) -> str:
        return f"files {self._store.describe()}"

    def probe(self) -> None:
        next(iter(self._store.entries()), None)

    def close(self) -> None:
        if self._wakeup is not None:
            self._wakeup.close()
            self._wakeup = None
        if self._opened_store is not None:
            self._opened_store.close()
            self._opened_store = None

    # -- watching -----------------------------------------------------------------------------------------------------

    def watch(self, clock: Callable[[], float] = time.monotonic) -> None:
        """For a service, before its first listing: from now on `splits` gives only what is whole.

        clock: seconds of a monotonic clock.
        """
        self.close()
        self._clock = clock
        self._closing = Closing(self._watch_settings, self.config.root, clock)

    def wait_for_change(self, timeout_s: float) -> bool:
        """Wait until listing again may give more: True then, False after `timeout_s` seconds or `close`.

        It is a hint to list sooner. A service lists every few seconds, whatever this answers.
        """
        due = self._closing.next_due_s() if self._closing is not None else None
        if self._wakeup is None:
            store = self._store
            self._wakeup = Wakeup(store.folder if isinstance(store, WatchedFolder) else None)
        if due is None or due >= timeout_s:
            return self._wakeup.wait(timeout_s)
        return self._wakeup.wait(due) or self._wakeup is not None

    def object_of(self, split: Split) -> str:
        """The undivided file or group that a split is (a part of).

        A service that planned one division of an object must not plan another one: a file that grew over
        `divide_bytes` has new split ids, but it is a changed file and not new data.
        """
        return _SUFFIX.sub("", split.id)

    @property
    def _watch_settings(self) -> WatchConfig:
        return self.config.watch or WatchConfig()

    def _names(self) -> NameRules | None:
        """Rules for names that are never data: of a service, and of settings that state them."""
        if self._closing is not None:
            return self._closing.names
        return NameRules(self.config.watch) if self.config.watch is not None else None

    # -- listing ------------------------------------------------------------------------------------------------------

    def splits(self) -> Iterator[Split]:
        select = self.config.select
        wanted = None if select == "none" else select
        for unit in self._list(self._names()):
            try:
                if select is not None and wanted not in self._modalities_of(unit):
                    continue
                parts = [Split(unit.id, unit.pin, max(unit.size, 1))] if isinstance(unit, Group) else None
                parts = parts or list(self._divided(unit))  # type: ignore[arg-type]
            except SourceChanged:
                if self._closing is None:
                    raise
                continue  # it changed since it was listed: the next listing tells
            yield from parts

    def modalities(self) -> dict[str, tuple[int, int]]:
        """(files, bytes) by modality, `none` for what no format claims: the streams that a folder calls for."""
        out: dict[str, tuple[int, int]] = {}
        for unit in self._list(self._names()):
            for modality in self._modalities_of(unit):
                files, size = out.get(modality or "none", (0, 0))
                out[modality or "none"] = (files + 1, size + unit.size)
        return dict(sorted(out.items()))

    def _list(self, names: NameRules | None) -> list[Group | Entry]:
        """Groups and single files, sorted by id; groups are remembered for `read`."""
        with self._listing:
            return self._list_alone(names)

    def _list_alone(self, names: NameRules | None) -> list[Group | Entry]:
        entries, markers = [], []
        before, self._verdicts = self._verdicts, {}
        for entry in self._store.entries():
            verdict = before.get(entry.id)
            if verdict is None:
                verdict = self._wanted(entry.id) and (names is None or names.is_data(entry.id))
            self._verdicts[entry.id] = verdict
            if verdict:
                entries.append(entry)
            elif names is not None and names.is_marker(entry.id):
                markers.append(entry.id)
        entries.sort(key=lambda entry: entry.id)
        self._contents = [self._contents[1], {}]
        self._torn.clear()
        groups, alone = group_files(self.config.group, entries, self._read_small)
        if self._small:
            there = {(entry.id, entry.pin) for entry in entries}
            self._small = {key: data for key, data in self._small.items() if key in there}
            self._small_bytes = sum(map(len, self._small.values()))
        self._groups = {group.id: group for group in groups}
        units: list[Group | Entry] = [*groups, *alone]
        if self._closing is not None:
            open_ids = self._closing.look(entries, markers)
            store = self._store
            if isinstance(store, Watched):
                store.look_again(open_ids | self._torn)
            units = [unit for unit in units if self._closing.closed(unit) and not self._is_torn(unit)]
        return sorted(units, key=lambda unit: unit.id)

    def _wanted(self, id: str) -> bool:
        return any(g.matches(id) for g in self._glob) and not any(g.matches(id) for g in self._exclude)

    def _is_torn(self, unit: Group | Entry) -> bool:
        entries = unit.entries if isinstance(unit, Group) else (unit,)
        return bool(self._torn) and any(entry.id in self._torn for entry in entries)

    def _read_small(self, entry: Entry) -> bytes:
        key = (entry.id, entry.pin)
        if key in self._small:
            return self._small[key]
        try:
            with self._store.open(entry.id, entry.pin) as stream:
                data = stream.read()
        except SourceChanged:
            if self._closing is None:
                raise
            self._torn.add(entry.id)  # it changed since it was listed: the next listing tells
            return b""
        if self._closing is not None:
            # What names no assets need not be kept to say so again.
            kept = data if stac_assets(entry.id, data) else b""
            if self._small_bytes + len(kept) <= _SMALL_BYTES:
                self._small[key] = kept
                self._small_bytes += len(kept)
        return data

    def _divided(self, entry: Entry) -> Iterator[Split]:
        lines = self.config.divide_bytes or _line_step(entry.size)
        step = self.config.divide_bytes or _DIVIDE_BYTES
        found = UNKNOWN if entry.size <= min(lines, step) else self._look(entry).format
        if found.name == "jsonl" and not self._bounds.whole_lines:
            step = lines
            for begin in range(0, entry.size, step):
                end = min(begin + step, entry.size)
                yield Split(f"{entry.id}#bytes={begin}-{end}", entry.pin, end - begin)
        elif entry.size <= step:
            yield Split(entry.id, entry.pin, max(entry.size, 1))
        elif found.modality in ("raster", "video") and found.name not in ("vrt", "wcs-xml", "envi"):
            pieces = -(-entry.size // step)
            for number in range(1, pieces + 1):
                yield Split(f"{entry.id}#part={number}/{pieces}", entry.pin, -(-entry.size // pieces))
        else:
            yield Split(entry.id, entry.pin, max(entry.size, 1))

    def _modalities_of(self, unit: Group | Entry) -> frozenset[Modality | None]:
        if isinstance(unit, Group):
            return frozenset({primary([self._look(entry).format for entry in unit.entries]).modality})
        return self._look(unit).modalities

    def _look(self, entry: Entry) -> Contents:
        """What a file is and holds, remembered from listing to listing while it is unchanged."""
        key = (entry.id, entry.pin)
        older, newer = self._contents
        contents = newer.get(key) or older.get(key)
        if contents is None:
            if entry.refused or entry.size == 0:
                contents = Contents(UNKNOWN, [])
            else:
                with self._store.open(entry.id, entry.pin) as stream:
                    file = OpenedFile(self._blob(entry), stream, self._bounds)
                    # A compressed file cannot be divided, whatever it holds: its own format is the compression.
                    contents = Contents(file.outer, file.formats())
        if self._closing is None and len(newer) >= _REMEMBERED:
            self._contents = [newer, newer := {}]
        newer[key] = contents
        return contents

    def _blob(self, entry: Entry) -> Blob:
        store, id, pin = self._store, entry.id, entry.pin
        return FileBlob(id, entry.size, lambda: store.open(id, pin), store.local_path(id))

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        if after == END:
            return
        if (split.pin or "").startswith("group:"):
            yield from self._read_group(split)
            return
        suffix = _SUFFIX.search(split.id)
        id = split.id[: suffix.start()] if suffix else split.id
        entry = self._store.planned(id, split.pin)
        if entry.refused:
            yield Broken(entry.refused[0], f"{id}: {entry.refused[1]}", END, "{}")
        elif entry.size == 0:
            yield Broken("empty", f"{id} has no bytes", END, "{}")
        else:
            with self._store.open(id, entry.pin, entry) as stream:
                yield from self._read_file(OpenedFile(self._blob(entry), stream, self._bounds), entry, suffix, after)
            # A file that was rewritten in place while it was read gave a mixture.
            self._store.check_after(id, entry.pin)

    def _read_file(
        self, file: OpenedFile, entry: Entry, suffix: re.Match[str] | None, after: Position
    ) -> Iterator[Read]:
        headers = {**self._store.headers(entry.id), "format": file.format.name, "object": entry.id}
        if suffix and suffix[3]:
            yield Item(file.blob, END, headers={**headers, "part": f"{suffix[3]}/{suffix[4]}"})
        elif file.layout == "lines":
            begin, stop = (int(suffix[1]), int(suffix[2])) if suffix else (0, None)
            yield from self._read_lines(file, headers, begin, stop, after)
        elif file.layout in ("tar", "zip"):
            yield from self._told(entry, lambda contents: self._read_archive(file, contents, after), after)
        elif file.layout == "web":
            yield from self._told(entry, lambda contents: self._read_web(file, contents, after), after)
        elif file.layout == "nested":
            message = f"{entry.id} is a {file.format.name} inside {file.compression}; this nesting is not opened"
            yield Broken("unsupported", message, END, "{}")
        elif file.compression:
            yield from self._read_compressed(file, headers, after)
        else:
            yield Item(file.blob, END, headers=headers)

    def _read_lines(
        self, file: OpenedFile, headers: dict[str, str], begin: int, stop: int | None, after: Position
    ) -> Iterator[Read]:
        if after is None and begin > 0:
            source = file.source(begin - 1)
            skip_to_line(source)
        else:
            source = file.source(begin if after is None else after)
        yield from line_reads(source, headers, stop, self.config.max_line_bytes, file.blob.id, END)

    def _read_compressed(self, file: OpenedFile, headers: dict[str, str], after: Any) -> Iterator[Read]:
        """A decompressed object: what came before the damage, then the damage."""
        id = file.blob.id
        blob: Blob | None
        try:
            name = file.name.rpartition("/")[2]
            blob, damage = spool(file.source(), f"{id}/{name}", self.config.max_object_bytes)
        except RecordError as exc:
            blob, damage = None, exc
        out: list[Read] = []
        if blob is not None and blob.size and (damage is None or damage.reason in ("truncated", "corrupt")):
            out.append(Item(blob, END, headers={**headers, "truncated": "1"} if damage else headers))
        if damage is not None:
            out.append(Broken(damage.reason, f"{id}: {damage.message}", END, damage.locator or "{}"))
        if not out:
            out.append(Broken("empty", f"{id} decompresses to no bytes", END, "{}"))
        yield from in_turn(out, None, END, after)

    def _told(self, entry: Entry, reader: Any, after: Any) -> Iterator[Read]:
        """What a container gives; one that holds nothing says so."""
        select = self.config.select
        contents = Contents(UNKNOWN, []) if select is None else self._look(entry)
        nothing = after is None and (select is None or contents.nothing)
        for read in reader(contents):
            nothing = False
            yield read
        if nothing:
            yield Broken("empty", f"{entry.id} holds nothing that could become a record", END, "{}")

    def _read_archive(self, file: OpenedFile, contents: Contents, after: Any) -> Iterator[Read]:
        resume = after if isinstance(after, dict) else None
        grouped = file.layout == "tar" and (self.config.group == "webdataset" or file.is_webdataset())
        parts = file.parts((resume["after"] if resume else after) or 0)
        select = self.config.select
        if grouped:
            keep = lambda found: contents.keeps(select, found)  # noqa: E731 - one short predicate
            yield from grouped_reads(parts, resume, self._bounds, keep, contents.is_home(select))
        else:
            yield from self._one_by_one(parts, resume, contents)

    def _one_by_one(self, parts: Iterable[Part | Broken], resume: Any, contents: Contents) -> Iterator[Read]:
        for part in parts:
            if isinstance(part, Broken):
                if contents.is_home(self.config.select):
                    yield part
            elif contents.keeps(self.config.select, part.format):
                yield from part_reads(part, resume, self._bounds)
            resume = None

    def _read_web(self, file: OpenedFile, contents: Contents, after: Any) -> Iterator[Read]:
        gzipped, select = file.compression == "gzip", self.config.select
        keep = lambda found: contents.keeps(select, found)  # noqa: E731 - one short predicate
        return web_reads(file.stream, gzipped, file.blob.id, after, self._bounds, keep, contents.is_home(select))

    def _read_group(self, split: Split) -> Iterator[Read]:
        group = self._groups.get(split.id)
        # A process that only reads does not know whether a service or a build made the plan.
        for names in (self._names(), NameRules(self._watch_settings)):
            if group is None or group.pin != split.pin:
                self._verdicts = {}
                self._list(names)
                group = self._groups.get(split.id)
        if group is None or group.pin != split.pin:
            raise changed(split.id, split.pin or "", "missing" if group is None else group.pin)
        formats = [self._look(entry).format for entry in group.entries]
        headers = {**group_headers(self.config.group, formats), "object": group.id}
        yield Item([self._blob(entry) for entry in group.entries], END, key=group.id, headers=headers)


def _open_store(config: FilesConfig, clock: Callable[[], float] | None) -> Store:
    """The store of a root; with a clock, one that is made to be listed again and again."""
    root, options = config.root.removeprefix("file://"), config.storage_options
    watch = config.watch or WatchConfig()
    recheck = Recheck(seconds(watch.recheck), clock) if clock is not None else None
    if root.startswith(("http://", "https://")):
        if recheck is not None:
            return WatchedUrls(root, config.urls, config.timeout_s, recheck)
        return HttpStore(root, config.urls, config.timeout_s)
    if "://" in root:
        if recheck is not None:
            return WatchedObjects(root, config.endpoint_url, options, watch.ordered_names, recheck)
        return FsspecStore(root, config.endpoint_url, options)
    if recheck is not None:
        return WatchedFolder(root, config.follow_symlinks, recheck)
    return LocalStore(root, config.follow_symlinks)


def _line_step(size: int) -> int:
    """Bytes of each part of a line file: even parts, so that a few workers end together; from the size alone."""
    parts = min(_LINE_PARTS, size // _LINE_LEAST)
    if parts < 2:
        return max(size, _LINE_LEAST)
    parts -= parts % 2
    return min(_LINE_MOST, -(-size // parts))
