"""Energon's index of a set of tar shards: where every sample and every part of it lies, in SQLite.

    samples(tar_file_id, sample_key unique, sample_index, byte_offset, byte_size)
    sample_parts(tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size)

Made by walking the headers of the shards, in their order, so a run that was cut off simply makes it again. The file
says which SQLite wrote it; that number is fixed, so that two machines write the same bytes.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from headrace.schemas.errors import StorageError
from headrace.shards.exports.contract import FileLine
from headrace.shards.exports.outfile import digests, give_name
from headrace.shards.exports.tar_file import BLOCK, members

_TABLES = (
    """CREATE TABLE samples (
    tar_file_id INTEGER NOT NULL,
    sample_key TEXT NOT NULL UNIQUE,
    sample_index INTEGER NOT NULL,
    byte_offset INTEGER,
    byte_size INTEGER
)""",
    """CREATE TABLE sample_parts (
    tar_file_id INTEGER,
    sample_index INTEGER,
    part_name TEXT,
    content_byte_offset INTEGER,
    content_byte_size INTEGER
)""",
)
_INDEXES = (
    "CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index)",
    "CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset)",
    "CREATE INDEX idx_sample_parts_full ON"
    " sample_parts(tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size)",
)
_BATCH = 4096
#: SQLite's database header: at byte 96 the version of the library that wrote it last.
_VERSION_AT, _VERSION = 96, 3_040_000


@dataclass
class TarSample:
    """One sample of a shard: its key, where its first header begins and its last part ends, and its parts."""

    key: str
    start: int
    end: int
    parts: list[tuple[str, int, int]]  #: (name without the key, where its content begins, bytes)


def samples_of(tar: Path) -> Iterator[TarSample]:
    """The samples of a shard in order: neighbours with one key. Raises: StorageError."""
    now: TarSample | None = None
    for name, offset, size in members(tar):
        key, _, part = name.partition(".")
        if now is None or key != now.key:
            if now is not None:
                yield now
            now = TarSample(key, offset - BLOCK, 0, [])
        now.parts.append((part, offset, size))
        now.end = offset + size + -size % BLOCK
    if now is not None:
        yield now


def sample_starts(tar: Path) -> list[int]:
    """Where each sample of a shard begins, and where the last one ends."""
    starts, end = [], 0
    for sample in samples_of(tar):
        starts.append(sample.start)
        end = sample.end
    return [*starts, end]


def write_sqlite(out: Path, path: str, work: Path, tars: Sequence[Path]) -> FileLine:
    """The index of `tars`, whose number is their place in the list. Raises: StorageError."""
    working = work / "sqlite"
    for leaving in (working, Path(f"{working}-journal")):
        with suppress(FileNotFoundError):
            leaving.unlink()
    try:
        with closing(sqlite3.connect(working, isolation_level=None)) as db:
            # The file is not there until it is complete, so nothing of it needs to survive a crash.
            for pragma in ("page_size = 4096", "journal_mode = OFF", "synchronous = OFF"):
                db.execute(f"PRAGMA {pragma}")
            for statement in ("BEGIN", *_TABLES):
                db.execute(statement)
            for number, tar in enumerate(tars):
                _insert(db, number, tar)
            for statement in (*_INDEXES, "COMMIT"):
                db.execute(statement)
    except sqlite3.Error as exc:
        raise StorageError(f"cannot write {working}: {exc}") from exc
    with open(working, "r+b") as f:
        f.seek(_VERSION_AT)
        f.write(struct.pack(">I", _VERSION))
        f.flush()
        os.fsync(f.fileno())
        size = f.seek(0, 2)
    sha256 = digests(working)[1]
    give_name(working, out / path)
    return FileLine(path, size, sha256)


def _insert(db: sqlite3.Connection, number: int, tar: Path) -> None:
    samples: list[tuple[int, str, int, int, int]] = []
    parts: list[tuple[int, int, str, int, int]] = []

    def send() -> None:
        db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", samples)
        db.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", parts)
        samples.clear()
        parts.clear()

    for index, sample in enumerate(samples_of(tar)):
        samples.append((number, sample.key, index, sample.start, sample.end - sample.start))
        parts += [(number, index, *one) for one in sample.parts]
        if len(samples) >= _BATCH:
            send()
    send()
