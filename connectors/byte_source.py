"""Bytes that are read once from front to back, with a look ahead, and the damage that ended them.

Lines, archives and web archives are all read through this: whether the bytes come from a file, from a decompressor or
from a member of an archive makes no difference to them. A source never raises for bad data: it gives every byte that
could be had and then says in `damage` why there are no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from headrace.schemas.errors import RecordError

CHUNK_BYTES = 1 << 18


class ByteSource:
    """Sequential reading over an iterator of chunks.

    restart: gives the chunks from an absolute position on, for sources that can seek; long skips use it.
    """

    def __init__(
        self, chunks: Iterator[bytes], *, start: int = 0, restart: Callable[[int], Iterator[bytes]] | None = None
    ) -> None:
        self.position = start  #: of the next byte that `read` gives
        self.damage: RecordError | None = None  #: known once the bytes before it have been read
        self._chunks = chunks
        self._restart = restart
        self._buffer = bytearray()
        self._ended = False

    @classmethod
    def of_stream(cls, stream: BinaryIO, start: int = 0, stop: int | None = None) -> ByteSource:
        """The bytes [start, stop) of a seekable stream, which stays open."""

        def restart(at: int) -> Iterator[bytes]:
            stream.seek(at)
            while stop is None or at < stop:
                chunk = stream.read(CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - at))
                if not chunk:
                    return
                at += len(chunk)
                yield chunk

        return cls(restart(start), start=start, restart=restart)

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end; they are read again later."""
        self._fill(size)
        return bytes(memoryview(self._buffer)[:size])

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        self._fill(size)
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self.position += len(data)
        return data

    def unread(self, data: bytes) -> None:
        """Put back what was read last."""
        self._buffer[:0] = data
        self.position -= len(data)

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; how many there were. A source that can seek does not check that they exist."""
        held = min(size, len(self._buffer))
        del self._buffer[:held]
        self.position += held
        left = size - held
        if left > CHUNK_BYTES and self._restart is not None and not self._ended:
            self.position += left
            self._chunks = self._restart(self.position)
            return size
        while left:
            got = len(self.read(min(left, CHUNK_BYTES)))
            if not got:
                break
            left -= got
        return size - left

    def tell(self) -> int:
        """`position`, by the name that streams have for it."""
        return self.position

    def at_end(self) -> bool:
        """Whether nothing is left; `damage` is known then."""
        return not self.peek(1)

    def chunks(self, limit: int | None = None) -> Iterator[bytes]:
        """The rest, or the next `limit` bytes, in pieces."""
        left = limit
        while left is None or left > 0:
            data = self.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not data:
                return
            if left is not None:
                left -= len(data)
            yield data

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size and not self._ended:
            try:
                chunk = next(self._chunks, None)
            except RecordError as exc:
                self.damage = exc
                chunk = None
            if chunk is None:
                self._ended = True
            else:
                self._buffer += chunk


def part_of(source: ByteSource, size: int, what: str) -> ByteSource:
    """The next `size` bytes as a source of its own, damaged by `truncated` when there are fewer.

    The parent moves along as the part is read; `what` names the part in messages.
    """

    def chunks() -> Iterator[bytes]:
        got = 0
        for chunk in source.chunks(size):
            got += len(chunk)
            yield chunk
        if got < size:
            cause = source.damage
            reason, why = (cause.reason, cause.message) if cause else ("truncated", "the file ends there")
            raise RecordError(reason, f"{what} has {got} of its {size} bytes: {why}")

    return ByteSource(chunks())
