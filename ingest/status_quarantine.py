"""Quarantined rows for the status page: newest first, a page at a time, and a bounded look at the bytes of one.

A row is named `stream/file/row`: unlike its running number, that name does not move when other rows are redacted.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pyarrow as pa

from headrace.ingest.status_shapes import BytesLook, QuarantineList, QuarantineLook, QuarantineRow
from headrace.schemas.errors import REASONS, ConfigError
from headrace.shards.dataset import Dataset
from headrace.shards.entry import QuarantineInfo
from headrace.shards.quarantine import read_quarantine

#: The most rows in one answer, and the most bytes in one look.
MAX_ROWS = 200
MAX_LOOK = 64 << 10


def list_quarantine(
    dataset: Dataset,
    *,
    stream: str | None = None,
    reason: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> QuarantineList:
    """Rows older than `before`, newest first; `reason` is a code, or a whole reason such as `unsupported:heif`.

    Files without a fitting row are not opened. Raises: ConfigError for a wrong `before`; ShardError, StorageError.
    """
    limit = max(1, min(limit, MAX_ROWS))
    files = [
        (info, start, sum(n for found, n in info.reasons.items() if _fits(found, reason)))
        for info, start in _numbered(dataset)
        if stream in (None, info.stream)
    ]
    files = [file for file in files if file[2]]
    total = sum(n for _, _, n in files)
    stop_path, stop_row = _parse(before) if before else (None, 0)
    if stop_path is not None:
        _info(dataset, stop_path)
        order = {path: i for i, path in enumerate(dataset.state.quarantine)}
        files = [f for f in files if order[f[0].path] <= order[stop_path]]
    rows: list[QuarantineRow] = []
    for info, start, _ in reversed(files):
        upto = stop_row if info.path == stop_path else info.rows
        wanted = limit + 1 - len(rows)
        rows += _last_rows(dataset, info, start, reason, upto, wanted)
        if len(rows) > limit:
            break
    more = len(rows) > limit
    rows = rows[:limit]
    return {"version": dataset.version, "total": total, "rows": rows, "next": rows[-1]["id"] if more else None}


def look_at(dataset: Dataset, name: str, *, offset: int = 0, length: int = 4096) -> QuarantineLook:
    """One row and up to 64 KiB of its bytes. Raises: ConfigError if there is none; ShardError, StorageError."""
    path, number = _parse(name)
    info = _info(dataset, path)
    start = next(start for other, start in _numbered(dataset) if other.path == path)
    at = 0
    for batch in read_quarantine(dataset.store, info):
        if number < at + batch.num_rows:
            one = batch.slice(number - at, 1)
            raw = one.column("raw")[0]
            data = raw.as_buffer() if raw.is_valid else None
            return {
                "row": _row(one, 0, info, number, start),
                "bytes": None if data is None else bytes_look(memoryview(data), offset, length),
            }
        at += batch.num_rows
    raise ConfigError(f"{name}: the file holds {at} rows, counted from 0", value=name)


def bytes_look(data: memoryview, offset: int, length: int) -> BytesLook:
    """Bytes [offset, offset + length) as hex and as text in which whatever is not printable ASCII is a dot."""
    offset = max(0, min(offset, len(data)))
    part = bytes(data[offset : offset + max(0, min(length, MAX_LOOK))])
    shown = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
    return {"offset": offset, "length": len(part), "kept": len(data), "hex": part.hex(), "text": shown}


def hex_lines(look: BytesLook) -> list[tuple[str, str, str]]:
    """(offset, hex in two groups of eight, text) for every 16 bytes."""
    lines = []
    for at in range(0, look["length"], 16):
        pairs = look["hex"][2 * at : 2 * at + 32]
        groups = [
            " ".join(part[i : i + 2] for i in range(0, len(part), 2)) for part in (pairs[:16], pairs[16:]) if part
        ]
        lines.append((f"{look['offset'] + at:08x}", "  ".join(groups), look["text"][at : at + 16]))
    return lines


def _numbered(dataset: Dataset) -> list[tuple[QuarantineInfo, int]]:
    """Every file with the running number of its first row."""
    out, at = [], 0
    for info in dataset.state.quarantine.values():
        out.append((info, at))
        at += info.rows
    return out


def _last_rows(
    dataset: Dataset, info: QuarantineInfo, start: int, reason: str | None, upto: int, wanted: int
) -> list[QuarantineRow]:
    """The last `wanted` fitting rows before row `upto`, newest first."""
    kept: deque[QuarantineRow] = deque(maxlen=wanted)
    at = 0
    for batch in read_quarantine(dataset.store, info):
        for i, found in enumerate(batch.column("reason").to_pylist()):
            if at + i < upto and _fits(found, reason):
                kept.append(_row(batch, i, info, at + i, start))
        at += batch.num_rows
    return list(reversed(kept))


def _row(batch: pa.RecordBatch, i: int, info: QuarantineInfo, number: int, start: int) -> QuarantineRow:
    row: dict[str, Any] = {name: batch.column(name)[i].as_py() for name in batch.schema.names if name != "raw"}
    stem = info.path.rpartition("/")[2].removesuffix(".arrow")
    digest = row.pop("raw_sha256")
    return {
        "id": f"{info.stream}/{stem}/{number}",
        "number": start + number,
        "stream": info.stream,
        "reason": row["reason"],
        "meaning": REASONS.get(row["reason"].partition(":")[0], ""),
        "message": row["message"],
        "stage": row["stage"],
        "whole": row["whole"],
        "source": row["source"],
        "uri": row["uri"],
        "split": row["split"],
        "position": row["position"],
        "locator": row["locator"],
        "license": row["license"],
        "raw_bytes": row["raw_bytes"],
        "raw_sha256": None if digest is None else digest.hex(),
    }


def _fits(found: str, wanted: str | None) -> bool:
    return wanted is None or found == wanted or found.partition(":")[0] == wanted


def _parse(name: str) -> tuple[str, int]:
    stream, _, rest = name.partition("/")
    stem, _, number = rest.partition("/")
    if not (stream and stem and number.isascii() and number.isdigit() and len(number) < 12):
        raise ConfigError(f"`{name}` does not name a quarantined row: STREAM/FILE/ROW is expected", value=name)
    return f"quarantine/{stream}/{stem}.arrow", int(number)


def _info(dataset: Dataset, path: str) -> QuarantineInfo:
    info = dataset.state.quarantine.get(path)
    if info is None:
        raise ConfigError(
            f"there is no quarantine file {path} in version {dataset.version}: list them anew", value=path
        )
    return info
