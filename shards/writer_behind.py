"""The bytes of a shard on their way to its file: hashed and written in a thread beside the one that makes them.

sha256, xxh3 and the write itself let go of Python's lock, so they cost the decoding thread nothing while there is a
free core, and waiting for the disk costs it nothing at all. Bytes go out in the order they came in. At most
`QUEUED_BYTES` wait; whoever brings more waits too. A failure is raised at the next call, and nothing is published
before everything was written: `finish` comes before the file is closed.

The thread begins with the first block that has others behind it; a file of one block never sees one.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Sequence

import xxhash

from headrace.shards.store import StoreWriter

QUEUED_BYTES = 12 << 20
_STACK_BYTES = 1 << 18  # the thread calls hashes and write, and its stack counts against a decoding process's limit

Part = bytes | memoryview


class WriteBehind:
    """Writes parts and blocks to a file; blocks get a checksum of their own."""

    def __init__(self, file: StoreWriter) -> None:
        self.size = 0  #: bytes taken so far
        self.seconds = 0.0  #: CPU of the thread; known after `finish`
        self._file = file
        self._sha256 = hashlib.sha256()
        self._checksums: list[str] = []
        self._queue: deque[bytes] = deque()
        self._queued = 0  #: bytes in the queue and at work
        self._change = threading.Condition()
        self._over = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def write(self, part: Part) -> None:
        """Write a part that is no block, after everything before it."""
        self._wait(0)
        self.size += len(part)
        self._sha256.update(part)
        self._file.write(part)

    def block(self, parts: Sequence[Part], *, more: bool) -> None:
        """Write a block; `more` says that others will follow, so that it pays not to wait for this one."""
        size = sum(len(part) for part in parts)
        if not more or size > QUEUED_BYTES // 2:
            self._wait(0)
            self.size += size
            self._put(parts)
            return
        self._wait(QUEUED_BYTES - size)
        self.size += size
        joined = b"".join(parts)
        if self._thread is None:
            self._begin()
        with self._change:
            self._queue.append(joined)
            self._queued += size
            self._change.notify_all()

    def finish(self) -> list[str]:
        """Everything is written; the hexadecimal xxh3 of each block. Raises: what writing raised."""
        try:
            self._wait(0)
        finally:
            self._end()
        return self._checksums

    def hexdigest(self) -> str:
        """sha256 of all that was written; call `finish` first."""
        return self._sha256.hexdigest()

    def abort(self) -> None:
        """Write nothing more; what is at work is let finish."""
        with self._change:
            self._queue.clear()
        self._end()

    def _wait(self, most: int) -> None:
        """Until at most so many bytes wait. Raises: what the thread met."""
        if self._thread is not None:
            with self._change:
                self._change.wait_for(lambda: self._failure is not None or self._queued <= most)
        if self._failure is not None:
            raise self._failure

    def _put(self, parts: Sequence[Part]) -> None:
        checksum = xxhash.xxh3_64()
        for part in parts:
            checksum.update(part)
            self._sha256.update(part)
            self._file.write(part)
        self._checksums.append(checksum.hexdigest())

    def _begin(self) -> None:
        before = threading.stack_size(_STACK_BYTES)
        try:
            self._thread = threading.Thread(target=self._run, name="write", daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(before)

    def _end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._change:
                self._over = True
                self._change.notify_all()
            thread.join()

    def _run(self) -> None:
        try:
            while True:
                with self._change:
                    self._change.wait_for(lambda: self._over or self._queue)
                    if not self._queue:
                        return
                    data = self._queue.popleft()
                self._put([data])
                with self._change:
                    self._queued -= len(data)
                    self._change.notify_all()
        except BaseException as exc:  # raised where the blocks come from
            with self._change:
                self._failure = exc
                self._change.notify_all()
        finally:
            self.seconds = time.thread_time()
