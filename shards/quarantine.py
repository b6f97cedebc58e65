"""Quarantine files: what could not become a sample, with its place, its reason and its bytes.

An Arrow IPC file with a row per bad record or item, written as they come so that raw bytes do not pile up in memory.
Bytes are kept up to a cap per row; their length and sha256 are always there, and the locator with the split says where
the rest can be read again. Works without the log, as `ShardWriter` does.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import REASONS, ShardError, StorageError
from headrace.shards.entry import QuarantineInfo
from headrace.shards.ipc import BlockEncoder, head, tail
from headrace.shards.names import quarantine_name
from headrace.shards.store import Store

if TYPE_CHECKING:
    import pyarrow.compute as pc  # takes long to import, and every decoding process writes quarantine

#: Raw bytes kept per row.
KEEP_BYTES = 16 << 20
#: The message of a row whose bytes were removed.
REMOVED = "(removed)"
_FLUSH_BYTES = 4 << 20
_FLUSH_ROWS = 1024

SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),  # a code of schemas.errors.REASONS, maybe with a detail
        pa.field("message", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # "read", "normalize", "filter", "tokenize", "probe" …
        pa.field("whole", pa.bool_(), nullable=False),  # the whole item, not one record of it
        pa.field("source", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),  # the object, relative to the source's root
        pa.field("split", pa.string(), nullable=False),
        pa.field("position", pa.string(), nullable=False),  # canonical JSON of the item's position
        pa.field("locator", pa.string()),  # where in the object; null: all of it
        pa.field("license", pa.string()),
        pa.field("raw_bytes", pa.int64()),  # length of the raw bytes; null where they were never at hand
        pa.field("raw_sha256", pa.binary(32)),
        pa.field("raw", pa.large_binary()),  # the first KEEP_BYTES of them; null where expired or never at hand
    ],
    metadata={"headrace.kind": "quarantine", "headrace.schema": "1"},
)


class QuarantineWriter:
    """Writes one quarantine file; as `ShardWriter`, it publishes on `close` and leaves nothing on `abort`.

    The bytes of the file are a function of the rows alone.
    """

    def __init__(
        self, store: Store, stream: str, epoch: int, *, number: int = 0, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self.stream = stream
        self.path = quarantine_name(stream, epoch, number)
        self.rows = 0
        self.items = 0
        self.reasons: dict[str, int] = {}
        self._keep = keep_bytes
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        self._encoder = BlockEncoder(SCHEMA)
        self._footer: list[tuple[int, int, int]] = []
        self._sha256 = hashlib.sha256()
        self._file = store.writer(self.path)
        self._write(head(SCHEMA))

    def add(
        self,
        *,
        reason: str,
        message: str,
        stage: str,
        source: str,
        uri: str,
        split: str,
        position: Any,
        whole: bool = False,
        locator: str | None = None,
        license: str | None = None,
        raw: bytes | memoryview | None = None,
        raw_bytes: int | None = None,
        raw_sha256: bytes | None = None,
    ) -> None:
        """Add one row.

        `position` is the item's position (a JSON value). Where `raw` is only the beginning of something large, give the
        length and digest of the whole. Raises: ValueError for an unknown reason.
        """
        if reason.split(":", 1)[0] not in REASONS:
            raise ValueError(f"unknown reason code {reason!r}: declare it in headrace.schemas.errors.REASONS")
        row = {
            "reason": reason,
            "message": _clean(message),
            "stage": stage,
            "whole": whole,
            "source": source,
            "uri": _clean(uri),
            "split": _clean(split),
            "position": canonical_json(position).decode(),
            "locator": None if locator is None else _clean(locator),
            "license": license,
            "raw_bytes": len(raw) if raw is not None and raw_bytes is None else raw_bytes,
            "raw_sha256": hashlib.sha256(raw).digest() if raw is not None and raw_sha256 is None else raw_sha256,
            "raw": None if raw is None else bytes(raw[: self._keep]),
        }
        self._add_row(row)

    def _add_row(self, row: dict[str, Any]) -> None:
        self._pending.append(row)
        self._pending_bytes += len(row["raw"] or b"")
        self.rows += 1
        self.items += row["whole"]
        self.reasons[row["reason"]] = self.reasons.get(row["reason"], 0) + 1
        if self._pending_bytes >= _FLUSH_BYTES or len(self._pending) >= _FLUSH_ROWS:
            self._flush()

    def close(self) -> QuarantineInfo:
        """Publish the file. Raises: ValueError if it has no rows; StorageError."""
        if not self.rows:
            self.abort()
            raise ValueError(f"{self.path}: a quarantine file without rows")
        self._flush()
        self._write(tail(SCHEMA, self._footer))
        size = self._file.tell()
        if not self._file.close():
            raise StorageError(f"{self.path} exists already, though its name was made for this attempt")
        return QuarantineInfo(
            stream=self.stream,
            path=self.path,
            sha256=self._sha256.hexdigest(),
            bytes=size,
            rows=self.rows,
            items=self.items,
            reasons=dict(sorted(self.reasons.items())),
        )

    def abort(self) -> None:
        """Leave nothing behind. Harmless after `close`."""
        self._file.abort()

    def __enter__(self) -> QuarantineWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    def _flush(self) -> None:
        rows, self._pending, self._pending_bytes = self._pending, [], 0
        if not rows:
            return
        batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
        metadata_bytes, parts = self._encoder.encode(batch.columns)
        offset = self._file.tell()
        for part in parts:
            self._write(part)
        self._footer.append((offset, metadata_bytes, self._file.tell() - offset - metadata_bytes))

    def _write(self, part: bytes | memoryview) -> None:
        self._sha256.update(part)
        self._file.write(part)


def read_quarantine(store: Store, info: QuarantineInfo) -> Iterator[pa.RecordBatch]:
    """The rows of a quarantine file, checked against the log before any is parsed.

    Raises: ShardError if the file differs from what the log says; StorageError.
    """
    path = store.local_path(info.path)
    if path is None or not store.size(info.path):
        data = pa.py_buffer(store.get(info.path))
    else:
        with open(path, "rb") as f:
            data = pa.py_buffer(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
    found = hashlib.sha256(data).hexdigest()
    if found != info.sha256:
        raise ShardError(f"{info.path}: its bytes hash to {found[:12]}…, the log says {info.sha256[:12]}…")
    try:
        reader = pa.ipc.open_file(data)
        rows = 0
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate()
            rows += batch.num_rows
            yield batch
    except pa.ArrowException as exc:
        raise ShardError(f"{info.path}: not a quarantine file: {exc}") from exc
    if rows != info.rows:
        raise ShardError(f"{info.path}: {rows} rows, the log says {info.rows}")


def redacted(
    store: Store, info: QuarantineInfo, epoch: int, condition: pc.Expression
) -> tuple[int, QuarantineInfo | None]:
    """A new file of the same rows in which those that meet the condition have lost their raw bytes and message.

    Digest, length, reason and place stay, so the books stay true. Gives back how many rows lost something, and the
    file, None if there were none. Raises: ShardError, StorageError.
    """
    lost = 0
    with QuarantineWriter(store, info.stream, epoch) as writer:
        for batch in read_quarantine(store, info):
            chosen = pa.Table.from_batches([batch.append_column("row", pa.array(range(batch.num_rows)))])
            doomed = set(chosen.filter(condition).column("row").to_pylist())
            for number, row in enumerate(batch.to_pylist()):
                if number in doomed and (row["raw"] is not None or row["message"] != REMOVED):
                    row.update(raw=None, message=REMOVED)
                    lost += 1
                writer._add_row(row)
        return lost, writer.close() if lost else None


def _clean(text: str) -> str:
    """Text that Arrow can hold: lone surrogates (file names that are not UTF-8) become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
