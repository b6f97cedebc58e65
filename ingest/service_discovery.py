"""Looks for new splits of one stream, again and again, in a thread of its own: a slow source delays no other."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from headrace.connectors.contract import Connector, Split
from headrace.ingest.plan import list_splits
from headrace.ingest.service_stream import ServiceStream
from headrace.schemas.errors import ConfigError, Fenced, HeadraceError
from headrace.shards import entry as log

if TYPE_CHECKING:
    from headrace.ingest.service import Service

_logger = logging.getLogger(__name__)

_LAG_EVERY_S = 5.0


class Discovery:
    """One stream's listing, kept up to date. Its connector lists only; readers have their own."""

    def __init__(self, service: Service, made: ServiceStream) -> None:
        self._service = service
        self._made = made
        self._over = threading.Event()
        self._wake = threading.Event()
        self._lag_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"discover {made.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; does not wait."""
        self._over.set()
        self._wake.set()

    def join(self, timeout: float = 5.0) -> None:
        """Wait for the thread."""
        self._thread.join(timeout)

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def _run(self) -> None:
        every = self._made.stream.spec.live.discover_every_s
        connector: Connector | None = None
        try:
            while not self._over.is_set():
                self._wake.clear()
                if self._made.runs:
                    try:
                        if connector is None:
                            connector = self._made.stream.make_connector()
                            connector.watch()
                        self._look(connector)
                        self._say("running", "")
                    except Fenced:
                        return
                    except ConfigError as exc:
                        self._say("parked", str(exc))
                    except HeadraceError as exc:
                        self._say("running", str(exc))
                    except Exception as exc:  # a bug of the connector must not end the service
                        _logger.warning("listing %s: %s", self._made.name, exc, exc_info=True)
                        self._say("running", f"{type(exc).__name__}: {exc}")
                self._wait(connector, every)
        finally:
            if connector is not None:
                connector.close()

    def _wait(self, connector: Connector | None, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._wake.is_set() and (left := end - time.monotonic()) > 0:
            changed = connector.wait_for_change(min(left, 0.5)) if connector and self._made.runs else None
            if changed is None:
                self._wake.wait(left)
            if changed:
                return

    def _say(self, state: str, message: str) -> None:
        with self._service.lock:
            if self._made.state in ("running", "parked"):
                self._made.state, self._made.message = state, message  # type: ignore[assignment]

    def _look(self, connector: Connector) -> None:
        name = self._made.name
        listing = list_splits(name, connector.splits())
        if self._made.stream.live:
            self._look_live(connector, listing)
        else:
            changed: list[str] = []
            with self._service.lock:
                listing = self._without_divided_anew(connector, listing, changed)
                self._service.ledger.plan({name: listing}, changed)
                self._service.batches.lay_out(self._made)
                self._made.parked = {
                    message: {"split": "", "message": message, "since": None, "parked": True, "next_try": None}
                    for message in changed
                }
        self._made.discovered = time.time()

    def _without_divided_anew(self, connector: Connector, listing: list[Split], changed: list[str]) -> list[Split]:
        """The listing without splits of objects that were planned in another division: they grew after all."""
        made = self._made
        rows = self._service.ledger.plans[made.name].rows
        for _, split, _ in rows[made.noted :]:
            made.planned.add(split.id)
            made.objects.add(connector.object_of(split))
        made.noted = len(rows)
        kept = []
        for split in listing:
            if split.id not in made.planned and connector.object_of(split) in made.objects:
                changed.append(f"{connector.object_of(split)} changed after it was planned; it is not read again")
            else:
                kept.append(split)
        return kept

    def _look_live(self, connector: Connector, listing: list[Split]) -> None:
        service, made = self._service, self._made
        with service.lock:  # the log grows in other threads
            pins = {d: p for (source, d), p in service.log.state.splits.items() if source == made.name}
        fresh: list[tuple[Split, object]] = []
        parked = {}
        for split in listing:
            pinned = pins.get(log.split_digest(split.id))
            if pinned is None:
                fresh.append((split, connector.start_of(split)))
            elif pinned.pin != split.pin:
                message = (
                    f"{split.id} is another one than was read so far (pin {pinned.pin}, now {split.pin}): it was"
                    " deleted and made anew; read it as a new stream"
                )
                parked[split.id] = {
                    "split": split.id,
                    "message": message,
                    "since": time.time(),
                    "parked": True,
                    "next_try": None,
                }
        with service.lock:
            if fresh:
                moves = [
                    log.PlaceMove(made.name, made.lane_of(s.id), log.Place(position=at), split=log.split_digest(s.id))
                    for s, at in fresh
                    if at is not None
                ]
                splits = [log.SplitPin(made.name, log.split_digest(s.id), made.lane_of(s.id), s.pin) for s, _ in fresh]
                service.append(log.Entry(kind="commit", splits=splits, places=moves))
            made.parked = {**{k: v for k, v in made.parked.items() if k in parked}, **parked}
            made.splits = {s.id: s for s in listing if s.id not in made.over}
            made.known = len(listing)
        self._lag(connector)

    def _lag(self, connector: Connector) -> None:
        """How far behind the readers are, asked now and then."""
        made, service = self._made, self._service
        now = time.monotonic()
        if now - self._lag_at < _LAG_EVERY_S:
            return
        self._lag_at = now
        records: int | None = 0
        size: int | None = 0
        seconds: float | None = None
        for split in list(made.splits.values()):
            with service.lock:
                position, _, _ = service.place_of(made.name, made.lane_of(split.id), split.id)
            lag = connector.lag(split, position)
            records = None if lag is None or lag.records is None or records is None else records + lag.records
            size = None if lag is None or lag.bytes is None or size is None else size + lag.bytes
            if lag is not None and lag.seconds is not None:
                seconds = lag.seconds if seconds is None else max(seconds, lag.seconds)
        made.lag = {"records": records, "bytes": size, "seconds": seconds}
