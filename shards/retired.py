"""The names of shards that were replaced, until their files are gone: a few bytes each, with the version that did it.

gc must tell a file that was replaced, which readers of older versions may still hold, from one that was never
committed; and no name is committed twice. Both only ask whether a name is here, so a digest of it is enough. Of a
million names two share one with probability 0.002, and then a leaving waits for its deletion as a replaced file does.

    record     [digest of the name: 6 bytes][version: 6 bytes, big endian]
    bucket     the records whose digests begin with the same 12 bits, as they came
    in JSON    [[version, base64 of the digests that it replaced, ascending], …], versions ascending
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

_DIGEST = 6
_RECORD = 12


class Retired:
    """Replaced names and when they were replaced."""

    def __init__(self) -> None:
        self._buckets: dict[int, bytes] = {}

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values()) // _RECORD

    def __contains__(self, name: str) -> bool:
        return self.version_of(name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Retired) and sorted(self._records()) == sorted(other._records())

    __hash__ = None  # type: ignore[assignment]

    def add(self, name: str, v: int) -> None:
        """Note that version `v` replaced a name."""
        self._put(_digest(name), v)

    def version_of(self, name: str) -> int | None:
        """The version that replaced a name, None if none did or its file is known to be gone."""
        digest = _digest(name)
        bucket = self._buckets.get(_bucket_of(digest), b"")
        at = bucket.find(digest)
        while at >= 0 and at % _RECORD:
            at = bucket.find(digest, at + 1)
        return None if at < 0 else int.from_bytes(bucket[at + _DIGEST : at + _RECORD], "big")

    def covers(self, other: Retired) -> bool:
        """Whether all names of another one are here, whenever it was that they were replaced."""
        return {r[:_DIGEST] for r in other._records()} <= {r[:_DIGEST] for r in self._records()}

    def drop(self, upto: int) -> None:
        """Forget what version `upto` or an earlier one replaced."""
        for number, bucket in list(self._buckets.items()):
            records = (bucket[at : at + _RECORD] for at in range(0, len(bucket), _RECORD))
            kept = b"".join(r for r in records if int.from_bytes(r[_DIGEST:], "big") > upto)
            if kept:
                self._buckets[number] = kept
            else:
                del self._buckets[number]

    def to_json(self) -> list[list[Any]]:
        """A JSON form, the same for the same names whatever their order was."""
        by_version: dict[int, list[bytes]] = {}
        for record in self._records():
            by_version.setdefault(int.from_bytes(record[_DIGEST:], "big"), []).append(record[:_DIGEST])
        return [[v, base64.b64encode(b"".join(sorted(found))).decode()] for v, found in sorted(by_version.items())]

    @classmethod
    def from_json(cls, value: list[list[Any]]) -> Retired:
        """What `to_json` gave. Raises: ValueError."""
        made = cls()
        for v, text in value:
            digests = base64.b64decode(text, validate=True)
            if len(digests) % _DIGEST:
                raise ValueError(f"the names that version {v} replaced have {len(digests)} bytes, not a multiple of 6")
            for at in range(0, len(digests), _DIGEST):
                made._put(digests[at : at + _DIGEST], v)
        return made

    def _put(self, digest: bytes, v: int) -> None:
        number = _bucket_of(digest)
        self._buckets[number] = self._buckets.get(number, b"") + digest + v.to_bytes(_RECORD - _DIGEST, "big")

    def _records(self) -> Iterator[bytes]:
        for bucket in self._buckets.values():
            for at in range(0, len(bucket), _RECORD):
                yield bucket[at : at + _RECORD]


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:_DIGEST]


def _bucket_of(digest: bytes) -> int:
    return digest[0] << 4 | digest[1] >> 4
