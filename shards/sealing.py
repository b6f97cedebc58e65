"""A file that holds its own sha256: for derived files, which the log does not list.

The writer leaves room for the digest somewhere in the file (in metadata that the format stores as plain bytes):

    headrace-sha256:0000…0000      16 characters and 64 zeros

`seal_bytes` replaces the zeros, wherever they stand, by the sha256 of the file with the zeros in place; `check_sealed`
undoes that and compares. So every bit of the file is covered, footers and padding included.
"""

from __future__ import annotations

import hashlib
import re

_LABEL = b"headrace-sha256:"
_SEAL = re.compile(re.escape(_LABEL) + rb"([0-9a-f]{64})")

#: What a writer puts into the file's metadata.
ROOM = (_LABEL + b"0" * 64).decode()


def seal_bytes(data: bytes) -> bytes:
    """The file with its digest filled in. Raises: ValueError if it has no room for one."""
    room = ROOM.encode()
    if room not in data:
        raise ValueError("the file has no room for its digest")
    return data.replace(room, _LABEL + hashlib.sha256(data).hexdigest().encode())


def check_sealed(data: bytes) -> str:
    """The file's digest. Raises: ValueError that says what differs, if any bit was changed."""
    found = {match.group(1) for match in _SEAL.finditer(data)}
    if len(found) != 1:
        raise ValueError(f"it holds {len(found)} different digests of itself, one was expected")
    told = found.pop()
    digest = hashlib.sha256(data.replace(_LABEL + told, ROOM.encode())).hexdigest()
    if digest.encode() != told:
        raise ValueError(f"its bytes hash to {digest[:12]}…, it says {told[:12].decode()}…")
    return digest
