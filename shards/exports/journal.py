"""How far an export got: a line for each segment, so that a run that was cut off goes on and ends with equal bytes.

    OUT/.headrace-export/settings.json    what is exported, written first
    OUT/.headrace-export/journal          a line for each durable segment:  <first 16 hex digits of sha256> <JSON>
    OUT/.headrace-export/work/            files that are being written
    OUT/headrace-export.json              the manifest, written last; then the folder above is removed

A torn last line is a segment that was not noted: it is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, SettingsDiffer, StorageError
from headrace.shards.exports.contract import FileLine
from headrace.shards.exports.outfile import give_name, sync_folder
from headrace.shards.exports.totals import Totals
from headrace.shards.store_local import storage_error
from headrace.shards.wire import Wire, WireError

MANIFEST = "headrace-export.json"
_FOLDER = ".headrace-export"


@dataclass(frozen=True, slots=True)
class SegmentLine(Wire):
    """Samples up to the address `upto`, exclusive: [lane, seq], or None at the end of the stream."""

    stream: str
    upto: list[int] | None
    samples: int
    tokens: int
    sum: int
    empty: int = 0  #: samples without tokens that the format cannot hold
    mistakable: int = 0  #: ids inside bodies that equal the end of document
    files: list[FileLine] = field(default_factory=list)
    open: dict[str, int] = field(default_factory=dict)

    @property
    def totals(self) -> Totals:
        return Totals(self.samples, self.tokens, self.sum)


@dataclass(frozen=True, slots=True)
class IndexLine(Wire):
    """The index files of a stream whose segments are complete."""

    stream: str
    files: list[FileLine]


class Journal:
    """The working folder of one export in `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / _FOLDER
        self.work = self.folder / "work"
        self.segments: dict[str, list[SegmentLine]] = {}
        self.indexes: dict[str, IndexLine] = {}
        self._file: Any = None
        self._lock: Any = None

    # ---- what is there ----

    def settings(self) -> dict[str, Any] | None:
        """Of an export that was begun here, None if there is none. Raises: ConfigError if the folder holds others."""
        if not self.out.exists():
            return None
        said = _read(self.folder / "settings.json")
        if said is None and any(name != _FOLDER for name in os.listdir(self.out)):
            raise ConfigError(
                f"the folder {self.out} holds other files: name one that is empty or does not exist",
                field="--out",
                value=str(self.out),
            )
        return said

    def manifest(self) -> dict[str, Any] | None:
        """Of an export that is finished here. Raises: ConfigError if `out` is no folder; StorageError."""
        if self.out.exists() and not self.out.is_dir():
            message = f"{self.out} is a file: an export is written to a folder"
            raise ConfigError(message, field="--out", value=str(self.out))
        return _read(self.out / MANIFEST)

    # ---- writing ----

    def begin(self, settings: dict[str, Any]) -> bool:
        """Begin, or go on with, the export of these settings: True if it goes on.

        Raises: SettingsDiffer that names what differs; ConfigError if another process writes here; StorageError.
        """
        before = self.settings()
        if before is not None:
            refuse_other(before, settings, self.out)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if self.work.exists() and before is None:
                shutil.rmtree(self.work)
            self.work.mkdir(exist_ok=True)
            if before is None:
                self._put(self.folder / "settings.json", canonical_json(settings))
            self._load()
        except OSError as exc:
            raise storage_error("write", str(exc.filename or self.folder), exc) from exc
        return before is not None

    def note(self, line: SegmentLine | IndexLine) -> None:
        """Make a line durable. Raises: StorageError."""
        kind = "segment" if isinstance(line, SegmentLine) else "index"
        text = canonical_json({kind: line.to_json()})
        try:
            self._file.write(hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise storage_error("write", str(self.folder / "journal"), exc) from exc
        self._keep(line)

    def end(self, manifest: dict[str, Any]) -> None:
        """Write the manifest: from here on the export is finished. Raises: StorageError."""
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        try:
            self._put(self.out / MANIFEST, text.encode() + b"\n")
        except OSError as exc:
            raise storage_error("write", str(self.out / MANIFEST), exc) from exc
        self.remove()

    def remove(self) -> None:
        """Remove the working folder."""
        self.close()
        with suppress(OSError):  # the next run with the same settings removes it
            shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let go of the files; the export can be gone on with."""
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    def _take_lock(self) -> None:
        """So that two runs do not write here at once. A file system without locks goes without."""
        self._lock = open(self.folder / "lock", "wb")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another process is writing an export to {self.out}: wait for it, or name another folder"
            raise ConfigError(message, field="--out", value=str(self.out)) from None
        except OSError:
            return

    def _put(self, path: Path, data: bytes) -> None:
        working = self.folder / f"{path.name}.new"
        with open(working, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        give_name(working, path)

    def _load(self) -> None:
        """Read the lines that are whole, and cut off the rest, also lines whose files are gone."""
        path = self.folder / "journal"
        whole = 0
        self._file = open(path, "a+b")  # noqa: SIM115
        self._file.seek(0)
        for text in self._file:
            line = _parse(text)
            if line is None or not all(self._has(file) for file in line.files):
                break
            self._keep(line)
            whole += len(text)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)
        sync_folder(self.folder)

    def _has(self, file: FileLine) -> bool:
        path = self.out / file.path
        return path.is_file() and path.stat().st_size == file.bytes

    def _keep(self, line: SegmentLine | IndexLine) -> None:
        if isinstance(line, SegmentLine):
            self.segments.setdefault(line.stream, []).append(line)
        else:
            self.indexes[line.stream] = line


def refuse_other(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Raises: SettingsDiffer if `out` holds an export of other settings."""
    was, want = _flat(before), _flat(now)
    differ = sorted(k for k in was.keys() | want.keys() if was.get(k) != want.get(k))
    if differ:
        first = next((k for k in differ if k != "digest"), differ[0])
        what = "of another dataset" if differ == ["digest"] else f"with other settings ({', '.join(differ)})"
        raise SettingsDiffer(
            f"{out} holds an export {what}: {first} was {was.get(first)!r}, now {want.get(first)!r}."
            " Name another folder, or remove this one",
            field="--out",
            value=str(out),
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    rest = {k: v for k, v in settings.items() if k != "options"}
    return {**rest, **settings.get("options", {})}


def _parse(text: bytes) -> SegmentLine | IndexLine | None:
    mark, _, body = text.rstrip(b"\n").partition(b" ")
    if not text.endswith(b"\n") or hashlib.sha256(body).hexdigest()[:16].encode() != mark:
        return None
    said = json.loads(body)
    try:
        return SegmentLine.from_json(said["segment"]) if "segment" in said else IndexLine.from_json(said["index"])
    except WireError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise storage_error("read", str(path), exc) from exc
    try:
        said = json.loads(data)
    except ValueError as exc:
        raise StorageError(f"{path} is damaged: {exc}; remove the folder and export again") from exc
    if not isinstance(said, dict):
        raise StorageError(f"{path} is damaged: an object was expected; remove the folder and export again")
    return said
