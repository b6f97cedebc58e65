"""USTAR archives as tar-reading loaders like them: a 512-byte header before each part, and nothing of this machine.

    [header: name, size, mode 0644, owner 0, time 0] [content] [zeros to 512] … [1,024 zeros] [zeros to 10,240]

Source: POSIX 1003.1-1988, "ustar Interchange Format". The bytes are those of Python's tarfile with USTAR_FORMAT; names
are at most 100 bytes and a part less than 8 GiB, so that a header never needs an extension.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headrace.schemas.errors import ConfigError, StorageError
from headrace.shards.exports.offset_file import mapped

BLOCK = 512
_RECORD = 10_240
_LARGEST = (1 << 33) - 1
_HEAD = b"0000644\0" + b"0000000\0" * 2
_TAIL = (b"\0" * 100 + b"ustar\x0000").ljust(355, b"\0")


def header(name: str, size: int) -> bytes:
    """The header of a part. Raises: ConfigError if USTAR cannot say it."""
    encoded = name.encode()
    if len(encoded) > 100 or size > _LARGEST:
        raise ConfigError(f"{name} of {size:,} bytes does not fit into a USTAR archive", field="--to")
    fields = encoded.ljust(100, b"\0") + _HEAD + b"%011o\0" % size + b"00000000000\0"
    checksum = sum(fields) + 8 * 32 + ord("0") + _TAIL_SUM
    return fields + b"%06o\0 0" % checksum + _TAIL


_TAIL_SUM = sum(_TAIL)


def part(name: str, data: bytes) -> bytes:
    """Header, content and padding."""
    return header(name, len(data)) + data + bytes(-len(data) % BLOCK)


def ending(size: int) -> bytes:
    """What ends an archive of `size` bytes."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % _RECORD)


def room(limit: int) -> int:
    """How many bytes of parts fit into an archive of at most `limit` bytes; may be negative."""
    return limit // _RECORD * _RECORD - 2 * BLOCK


def members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, where its content begins, bytes) of each part, checked. Raises: StorageError."""
    data = mapped(path)
    at = 0
    while at + BLOCK <= len(data):
        head = data[at : at + BLOCK].tobytes()
        if not any(head):
            return
        name = head[:100].rstrip(b"\0").decode()
        try:
            size, told = int(head[124:135], 8), int(head[148:154], 8)
        except ValueError as exc:
            raise StorageError(f"{path}: the header at byte {at} is damaged: {exc}") from exc
        if sum(head[:148]) + sum(head[156:]) + 8 * 32 != told or at + BLOCK + size > len(data):
            raise StorageError(f"{path}: the header at byte {at} is damaged")
        yield name, at + BLOCK, size
        at += BLOCK + size + -size % BLOCK


def content(path: Path, offset: int, size: int) -> bytes:
    """The bytes of a part."""
    return np.asarray(mapped(path)[offset : offset + size]).tobytes()
