"""ROS 2 recordings in SQLite (.db3), in the order of their rows.

Only the file's tables are asked, never its views, and with `trusted_schema` off no function of its own schema runs.
Message definitions come from the file where it has them (since Iron), else from the newest distribution.
Source: rosbag2_storage_sqlite3.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers import logs_ros
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.logs import Recording, Topic
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

Events = Iterator[Draft | Bad]


class RosBag2:
    """One SQLite file of a ROS 2 recording."""

    def __init__(self, blob: Blob, config: SensorConfig, limits: Limits) -> None:
        self._blob = blob
        self._recording = Recording(config, limits, "rosbag2")
        self._limits = limits

    def events(self) -> Events:
        """All records. Raises: RecordError."""
        with _as_file(self._blob) as path, closing(_connect(path)) as database:
            try:
                yield from self._rows(database)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as exc:  # the latter from SQLite's own messages
                yield from self._recording.finish(("truncated",))
                reason = "corrupt" if self._recording.messages == 0 else "truncated"
                raise RecordError(reason, f"the database of the recording cannot be read on: {exc}") from exc
            except (OverflowError, MemoryError) as exc:
                raise RecordError("too_large", f"a row of the recording's database: {exc}") from exc
        yield from self._recording.finish()

    def _rows(self, database: sqlite3.Connection) -> Events:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise RecordError(
                "unsupported:sqlite", f"a database with the tables {sorted(tables)[:20]}, not a ROS 2 recording"
            )
        definitions: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:
            for name, encoding, text in database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                definitions[str(name)] = (str(encoding), str(text))
        topics: dict[Any, Topic] = {}
        for key, name, kind, form in database.execute("SELECT id, name, type, serialization_format FROM topics"):
            topics[key] = _topic2(str(name), str(kind), str(form), *definitions.get(str(kind), ("ros2msg", "")))
        for key, stamp, data in database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY rowid"):
            topic = topics.get(key)
            if topic is None or not isinstance(data, bytes) or not isinstance(stamp, int):
                yield Bad(
                    "corrupt",
                    f"a message of topic {key!r} that is not declared, or whose row has other types",
                    canonical_json({"topic_id": str(key)}).decode(),
                )
                continue
            if self._recording.wants(topic.name):
                yield from self._recording.message(self._recording.topic(key, lambda found=topic: found), data, stamp)  # type: ignore[misc]


def _topic2(name: str, kind: str, form: str, encoding: str, definition: str) -> Topic:
    decode = None
    if form == "cdr":
        decode = logs_ros.decoder(kind, definition, "ros2idl" if "idl" in encoding else "ros2msg", cdr=True)
    note = "" if decode else f"no definition of {kind}" if form == "cdr" else f"serialised as {form}"
    return Topic(name, kind, form, decode, note, extra={"schema": kind})


def _connect(path: str) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        database.execute("PRAGMA mmap_size = 0")
    except sqlite3.DatabaseError as exc:
        raise RecordError("corrupt", f"not a SQLite database: {exc}") from exc
    return database


@contextmanager
def _as_file(blob: Blob) -> Iterator[str]:
    """A path with the blob's bytes: SQLite reads files only."""
    path = blob.local_path()
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        target = Path(folder) / "recording.db3"
        with blob.open() as source, open(target, "wb") as copy:
            while data := source.read(1 << 20):
                copy.write(data)
        yield str(target)
