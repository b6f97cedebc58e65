"""One spelling for one value: canonical JSON and the digests built on it.

Positions, split ids, settings and log entries are compared as bytes, so each value needs exactly one byte form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

MAX_POSITION_BYTES = 4096


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces, no NaN or infinity.

    Raises: ValueError for NaN, infinity or a type JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def position_json(position: Any) -> bytes:
    """The byte form of a position: canonical JSON without floats, at most 4 KiB.

    Floats are refused because two languages may print one number in two ways, and a position is compared as bytes.
    Raises: ValueError that says what was wrong.
    """
    _refuse_floats(position)
    encoded = canonical_json(position)
    if len(encoded) > MAX_POSITION_BYTES:
        raise ValueError(f"a position may take {MAX_POSITION_BYTES} bytes as JSON, this one takes {len(encoded)}")
    return encoded


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise ValueError(f"a position may not hold a float ({value!r}): use an integer or a string")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"keys of a position are strings, not {key!r}")
            _refuse_floats(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_floats(inner)
    elif value is not None and not isinstance(value, (str, int, bool)):
        raise ValueError(f"a position is a JSON value, not {type(value).__name__}")


def sha256_hex(data: bytes | memoryview) -> str:
    """Lower-case hex sha256."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON."""
    return sha256_hex(canonical_json(value))


def hash_parts(parts: Iterable[bytes]) -> bytes:
    """sha256 of length-prefixed parts: [u64 LE length][bytes] for each, so no two lists share a digest input."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()
