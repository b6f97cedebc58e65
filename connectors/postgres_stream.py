"""The replication connection: messages of a slot in, and word of what is durable out.

The server is told a place only by `confirm`. A thread of its own tells it, at once and again and again, because a
consumer that waits must neither lose the connection (`wal_sender_timeout`) nor hold its thanks back.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from typing import Any

from headrace.connectors.postgres_client import Wire, psycopg
from headrace.connectors.postgres_config import SlotConfig
from headrace.connectors.postgres_output import EPOCH_US, show_lsn
from headrace.schemas.errors import HeadraceError, SourceError

#: Messages taken at once: no more of either.
_BATCH, _BATCH_BYTES = 1000, 1 << 20
_LEAVE_S = 2.0
#: So many questions for a reply within a second mean that the server waits for us, to shut down.
_PINGS = 50


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


log = logging.getLogger(__name__)


class Stream:
    """`with Stream(…) as stream:` is the slot in use; nobody else can use it meanwhile."""

    def __init__(self, config: SlotConfig, begin: int, confirmed: int, sender_timeout_s: float) -> None:
        self._config = config
        self._begin = begin
        self._beat_s = min(10.0, max(sender_timeout_s / 3, 0.2)) if sender_timeout_s else 10.0
        self._lock = threading.Lock()
        self._told = threading.Condition(self._lock)
        self._received = begin
        self._durable = confirmed  # never less: a server before version 17 would take it, and move back
        self._news = self._closed = False
        self._failure: HeadraceError | None = None
        self._pings: list[float] = []
        self.heard = time.monotonic()  #: when the server said something last
        self.server_end = begin  #: how far the server has sent everything

    def __enter__(self) -> Stream:
        self._wire = Wire(self._config, replication="database")
        try:
            names = ",".join(_identifier(name) for name in self._config.publications).replace("'", "''")
            self._wire.command(
                f"START_REPLICATION SLOT {_identifier(self._config.slot)} LOGICAL {show_lsn(self._begin)} "
                f"(proto_version '1', publication_names '{names}', messages 'true')"
            )
        except BaseException:
            self._wire.close()
            raise
        self._beats = threading.Thread(target=self._beat, name="headrace-postgres-feedback", daemon=True)
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._told:
            self._closed = True
            self._told.notify_all()
        self._beats.join(10)
        self._leave()
        self._wire.close()

    def _leave(self) -> None:
        """End in order, so that the slot is free when this returns; a server that is busy or gone is not waited for."""
        deadline = time.monotonic() + _LEAVE_S
        try:
            self._wire.pg.put_copy_end()
            self._wire.pg.flush()
            while time.monotonic() < deadline:
                count, _ = self._wire.pg.get_copy_data(1)
                if count < 0:
                    # Behind the copy come the results of the command; after the last one it is over for the server too.
                    while self._wire.answered(deadline) and self._wire.pg.get_result() is not None:
                        pass
                    return
                if count == 0 and self._wire.readable(deadline - time.monotonic()):
                    self._wire.pg.consume_input()
        except psycopg().Error as exc:
            log.debug("leaving slot %s: %s", self._config.slot, exc)

    def confirm(self, lsn: int) -> None:
        """Everything before `lsn` is durable: the server need keep it no more."""
        with self._told:
            if lsn > self._durable:
                self._durable, self._news = lsn, True
                self._told.notify_all()

    @property
    def confirmed(self) -> int:
        """Everything before this place is durable, as far as anybody said."""
        return self._durable

    def receive(self, timeout_s: float, end: int) -> list[bytes]:
        """Output messages, in order; empty if none came in time, or if the server has sent all up to `end` and says so.

        Raises: SourceError, ConfigError.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock, self._wire.translated("reading the slot"):
                if self._failure is not None:
                    raise self._failure
                messages, any_came = self._take()
            now = time.monotonic()
            if any_came:
                self.heard = now
            if messages or now >= deadline or (any_came and self.server_end >= end):
                return messages
            if not any_came:
                self._wait(deadline - now)

    def _wait(self, timeout_s: float) -> None:
        # Outside the lock, for this is where the time goes. Taking in is under it.
        if self._wire.readable(timeout_s):
            with self._lock, self._wire.translated("reading the slot"):
                self._wire.pg.consume_input()

    def _take(self) -> tuple[list[bytes], bool]:
        messages: list[bytes] = []
        size, any_came = 0, False
        while len(messages) < _BATCH and size < _BATCH_BYTES:
            count, data = self._next()
            if count == 0:
                break
            if count < 0:
                self._wire.checked(self._wire.pg.get_result(), "reading the slot")
                raise SourceError(f"{self._config.source}: the server ended the replication")
            any_came = True
            kind = bytes(data[:1])
            if kind == b"w":
                messages.append(bytes(data[25:]))
                size += count
                self._received = max(self._received, struct.unpack_from(">Q", data, 1)[0])
            elif kind == b"k":
                end, _, wanted = struct.unpack_from(">QqB", data, 1)
                self.server_end = max(self.server_end, end)
                self._received = max(self._received, end)
                if wanted:
                    self._answer()
        return messages, any_came

    def _next(self) -> tuple[int, Any]:
        try:
            return self._wire.pg.get_copy_data(1)
        except psycopg().Error:
            # libpq gives the text; the server's code lies in the result behind it.
            self._wire.checked(self._wire.pg.get_result(), "reading the slot")
            raise

    def _answer(self) -> None:
        now = time.monotonic()
        self._pings = [at for at in self._pings if now - at < 1] + [now]
        if len(self._pings) > _PINGS:
            # A server that shuts down waits until all is confirmed, and what is not committed here never will be.
            raise SourceError(f"{self._config.source}: the server waits for us: it is probably shutting down")
        self._send()

    def ask_back(self) -> None:
        """Ask the server for a sign of life."""
        with self._lock, self._wire.translated("asking the server"):
            self._send(reply=True)

    def _send(self, reply: bool = False) -> None:
        # The clock is for the server's monitoring views only.
        clock = time.time_ns() // 1000 - EPOCH_US
        places = (max(self._received, self._durable), self._durable, self._durable)  # written, flushed, applied
        sent = self._wire.pg.put_copy_data(struct.pack(">cQQQqB", b"r", *places, clock, reply))
        self._wire.pg.flush()
        if sent > 0:
            self._news = False

    def _beat(self) -> None:
        """Sends what is durable, again and again; at the end once more if it was not sent yet."""
        with self._told:
            while self._failure is None:
                if not self._news and not self._closed:
                    self._told.wait(self._beat_s)
                if self._closed and not self._news:
                    return
                try:
                    with self._wire.translated("telling the server what is durable"):
                        self._send()
                except HeadraceError as exc:
                    self._failure = exc  # the reader finds it
                if self._news:
                    if self._closed:
                        return
                    self._told.wait(0.1)  # the way out is full
