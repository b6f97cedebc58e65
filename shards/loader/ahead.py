"""Runs an iterator one item ahead, in a thread of its own: what it makes next is made while the last is used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """The items of an iterator, in order. Whatever the iterator raises is raised where its item would have come."""

    def __init__(self, items: Iterator[T], closed: threading.Event) -> None:
        """The thread starts with the first item that is asked for. `close` sets `closed`, for what waits in `items`."""
        self._items = items
        self._closed = closed
        self._pool: ThreadPoolExecutor | None = None
        self._coming: Future[tuple[T] | None] | None = None

    def __iter__(self) -> Iterator[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="headrace-ahead")
            self._coming = self._pool.submit(self._next)
        while self._coming is not None:
            found = self._coming.result()
            if found is None:
                break
            self._coming = self._pool.submit(self._next)
            yield found[0]

    def close(self) -> None:
        """End the thread; what was made ahead is lost."""
        self._closed.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> tuple[T] | None:
        for item in self._items:
            return (item,)
        return None
