"""The connector `postgres`: changes of tables, by logical replication (pgoutput), each row exactly once.

The one split is the slot. Its positions are described in postgres_output.py. The server keeps its log until it is told
that changes are durable, and it is told only what `ack` was told; a reader that comes back begins where its dataset
ends. A slot that was moved on by anybody else, or was made anew, is noticed: its confirmed place then lies behind ours
without a mark of ours there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

from headrace.connectors.contract import Broken, Connector, Gap, Idle, Item, Lag, Position, Read, Split
from headrace.connectors.postgres_client import Questions, Wire
from headrace.connectors.postgres_config import SlotConfig
from headrace.connectors.postgres_output import Decoder, Mark, parse_lsn, parse_position, show_lsn
from headrace.connectors.postgres_slot import Slot, check_server, create_slot, find_slot, pin_of, sender_timeout_s
from headrace.connectors.postgres_stream import Stream
from headrace.schemas.canonical import canonical_json, position_json
from headrace.schemas.errors import ConfigError, HeadraceError, SourceChanged, SourceError

log = logging.getLogger(__name__)

_IDLE_S = 0.5
#: How long a new read waits until the server has sent what there was before it says that nothing comes.
_FIRST_S = 3.0
_PREFIX = "headrace"


class Postgres(Connector):
    """Changes of PostgreSQL tables, from a logical replication slot."""

    Config = SlotConfig
    bounded = False
    replay = "window"
    example = "{type: postgres, host: db.example.org, database: tides, username: headrace, slot: hr, publications: hr}"

    def __init__(self, config: SlotConfig) -> None:
        super().__init__(config)
        self._questions = Questions(config)
        self._stream: Stream | None = None
        self._closed = False
        self._given: bytes | None = None  # the last position that was given out
        self._durable: bytes | None = None  # the last one that was acknowledged

    def describe(self) -> str:
        return f"postgres {self.config.database}, slot {self.config.slot}"

    def close(self) -> None:
        self._closed = True
        self._questions.close()

    # -- listing ------------------------------------------------------------------------------------------------------

    def splits(self) -> list[Split]:
        return [Split(self.config.slot, pin_of(self._questions, self.config.slot))]

    def probe(self) -> None:
        check_server(self._questions, self.config)
        self._check_publications()
        if find_slot(self._questions, self.config) is None and not self.config.create_slot:
            raise ConfigError(self._absent())
        Wire(self.config, replication="database").close()

    def _absent(self) -> str:
        name = self.config.slot
        return (
            f"{self.config.source}: there is no slot {name}: set create_slot, or run "
            f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"
        )

    def _check_publications(self) -> None:
        wanted = list(self.config.publications)
        there = {name for (name,) in self._questions.ask("SELECT pubname FROM pg_publication")}
        absent = [name for name in wanted if name not in there]
        if absent:
            said = f"{self.config.source}: there is no publication {', '.join(absent)}"
            raise ConfigError(f"{said}: run CREATE PUBLICATION {absent[0]} FOR TABLE …, before the slot is made")

    def _slot(self, new: bool) -> Slot:
        """The slot; made if it may be. Raises: ConfigError, SourceChanged if it was there and is gone."""
        slot = find_slot(self._questions, self.config)
        if slot is None and not new:
            raise SourceChanged(
                f"{self.config.source}: the slot {self.config.slot} was read before and is gone, and with it the "
                "changes since: read what is in the tables anew, under another stream name"
            )
        if slot is None:
            if not self.config.create_slot:
                raise ConfigError(self._absent())
            slot = create_slot(self._questions, self.config)
        if slot.lost:
            raise SourceChanged(
                f"{self.config.source}: the server gave up the slot {self.config.slot} ({slot.lost}): changes are "
                "lost; make max_slot_wal_keep_size larger, drop the slot, and read the tables anew under another "
                "stream name"
            )
        return slot

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        config = self.config
        self._check_publications()
        pin = pin_of(self._questions, config.slot)
        if split.pin is not None and split.pin != pin:
            raise SourceChanged(f"{config.source}: the slot is of {pin} (system:timeline:slot), and was of {split.pin}")
        slot = self._slot(new=after is None)
        begin, done = (slot.confirmed, 0) if after is None else parse_position(after)
        end = self._log_end()
        if begin > end:
            # The server would wait until its log is so long, and then leave out what came before.
            raise SourceChanged(
                f"{config.source}: the log ends before {show_lsn(begin)}, up to where it was read: was the server "
                "restored from a backup?"
            )
        unproven = slot.confirmed > begin
        if unproven:
            begin, done = slot.confirmed, 0
        decoder = Decoder(config.operations, begin, done)
        with Stream(config, begin, slot.confirmed, sender_timeout_s(self._questions)) as stream:
            if self._slot(new=False) != slot:
                raise SourceError(f"{config.source}: the slot {config.slot} was moved while it was being opened")
            self._stream = stream
            try:
                if self._durable is not None:
                    stream.confirm(parse_position(json.loads(self._durable))[0])
                for read in self._follow(stream, decoder, end):
                    if unproven and not isinstance(read, Idle):
                        unproven = False
                        place = self._place_of(read) if isinstance(read, Mark) else None
                        if place is None or place[0] != position_json(after):
                            # Everything between is no longer in the slot, and nobody can say how much it was.
                            yield self._noted(Gap("slot_moved", show_lsn(begin)))
                    if not isinstance(read, Mark):
                        yield read if isinstance(read, Idle) else self._noted(read)
            finally:
                self._stream = None

    def _noted(self, read: Item | Broken | Gap) -> Item | Broken | Gap:
        self._given = position_json(read.position)
        return read

    def _follow(self, stream: Stream, decoder: Decoder, end: int) -> Iterator[Item | Broken | Idle | Mark]:
        """Items, marks and idle ticks, for ever. `end`: of the log as it was before. Raises: SourceError, ConfigError.

        An empty mark says that all up to `end` came.
        """
        began = time.monotonic()
        marked = 0  # where the server stood when the last mark was written
        asked = reached = False
        while not self._closed:
            messages = stream.receive(_IDLE_S, end)
            for message in messages:
                for read in decoder.feed(message):
                    if isinstance(read, Mark):
                        self._let_go(read, stream)
                    yield read
            if messages:
                asked = False
                if reached or stream.server_end < end:
                    continue
            if not reached and stream.server_end >= end and not decoder.inside:
                reached = True
                yield Mark(end, "", b"")
            quiet_s = time.monotonic() - stream.heard
            if reached or time.monotonic() - began > _FIRST_S:
                yield Idle()
            if quiet_s > 2 * self.config.timeout_s:
                raise SourceError(f"{self.config.source}: the server has said nothing for {quiet_s:.0f} s")
            if reached and quiet_s <= self.config.timeout_s:
                asked = False
            elif not asked:
                stream.ask_back()
                asked = True
            grown = stream.server_end - max(stream.confirmed, marked)
            limit = self.config.heartbeat_mib << 20
            if limit and not decoder.inside and grown > limit and self._write_mark():
                marked = stream.server_end
        raise SourceError(f"{self.config.source}: the connector was closed")

    # -- what is durable ----------------------------------------------------------------------------------------------

    def ack(self, split: Split, upto: Position) -> None:
        self._durable = position_json(upto)
        stream = self._stream
        if stream is not None:
            stream.confirm(parse_position(upto)[0])

    def _all_durable(self) -> bool:
        return self._durable is not None and self._given in (None, self._durable)

    def _write_mark(self) -> bool:
        """Write a mark behind the log of other tables, so that the server may forget that log; whether it was written.

        Nothing of ours lies in it; but a slot that is moved on without one of our rows looks like one that was moved on
        by somebody else. When the mark comes back, with no row before it, the slot is moved to just before it, so that
        it is the first thing in the slot until there is another.
        """
        durable = self._durable
        if durable is None or not self._all_durable():
            return False
        try:
            ((at,),) = self._questions.ask("SELECT pg_current_wal_insert_lsn()::text")
            content = canonical_json({"after": json.loads(durable), "at": at, "slot": self.config.slot})
            sql = "SELECT pg_logical_emit_message(false, %s, %s::bytea)"
            self._questions.ask(sql, (_PREFIX, content), what="writing a mark into the log")
        except HeadraceError as exc:
            log.warning("the log that %s keeps for slot %s grows: %s", self.config.source, self.config.slot, exc)
        return True

    def _let_go(self, mark: Mark, stream: Stream) -> None:
        durable, before = self._durable, self._place_of(mark)
        if before is not None and durable is not None and self._all_durable() and durable == before[0]:
            stream.confirm(before[1])

    def _place_of(self, mark: Mark) -> tuple[bytes, int] | None:
        """(our position when a mark was written, a place in the log just before the mark) if it is ours."""
        if mark.prefix != _PREFIX:
            return None
        try:
            said = json.loads(mark.content)
            if said["slot"] != self.config.slot:
                return None
            return position_json(said["after"]), parse_lsn(said["at"])
        except (ValueError, TypeError, KeyError):
            return None  # somebody else's, under our prefix

    # -- ends ---------------------------------------------------------------------------------------------------------

    def start_of(self, split: Split) -> Position:
        """Where the slot stands: it cannot give what came before, and what comes after is all there is to read."""
        return show_lsn(self._slot(new=True).confirmed)

    def lag(self, split: Split, after: Position) -> Lag:
        """Bytes of log, of all tables, that the server has written since."""
        slot = self._slot(new=after is None)
        done = slot.confirmed if after is None else max(parse_position(after)[0], slot.confirmed)
        return Lag(bytes=max(self._log_end() - done, 0))

    def _log_end(self) -> int:
        ((end,),) = self._questions.ask("SELECT pg_current_wal_flush_lsn()::text")
        return parse_lsn(end)

    def end_of(self, split: Split) -> Position:
        """The position of the last row there is now, found by looking through the slot without moving it."""
        self._slot(new=True)
        last: Position = None
        decoder = Decoder(self.config.operations)
        sql = (
            "SELECT data FROM pg_logical_slot_peek_binary_changes($1, pg_current_wal_flush_lsn(), NULL, "
            "'proto_version', '1', 'publication_names', $2)"
        )
        names = ",".join('"' + name.replace('"', '""') + '"' for name in self.config.publications)
        wire = Wire(self.config, patience_s=60 * self.config.timeout_s)  # it answers when it has seen everything
        try:
            for row in wire.rows(sql.encode(), [self.config.slot.encode(), names.encode()]):
                # As text: \\x and hex digits.
                for read in decoder.feed(bytes.fromhex(row.get_value(0, 0)[2:].decode("ascii"))):
                    if not isinstance(read, Mark):
                        last = read.position
        finally:
            wire.close()
        return last

