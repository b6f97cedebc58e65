"""What a server says of itself and of a replication slot."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.connectors.postgres_client import Questions
from headrace.connectors.postgres_config import SlotConfig
from headrace.connectors.postgres_output import parse_lsn
from headrace.schemas.errors import ConfigError, SourceError


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as it stands."""

    confirmed: int  #: everything before this place was confirmed
    lost: str | None  #: why the server can give no more of it


def system_of(questions: Questions) -> tuple[str, str]:
    """(system identifier, timeline) of a primary. Raises: SourceError for a standby."""
    sql = "SELECT system_identifier::text, pg_is_in_recovery() FROM pg_control_system()"
    ((system, standby),) = questions.ask(sql, what="asking who it is")
    if standby:
        raise SourceError("postgres: the server is a standby: headrace reads the primary")
    ((file,),) = questions.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())", what="asking for the timeline")
    return system, str(int(file[:8], 16))


def check_server(questions: Questions, config: SlotConfig) -> None:
    """Raises: ConfigError for a server that has no logical replication as we read it."""
    ((version,),) = questions.ask("SHOW server_version_num")
    if int(version) < 140_000:
        raise ConfigError(f"{config.source}: PostgreSQL 14 or newer is needed, this is {int(version) // 10_000}")
    ((level,),) = questions.ask("SHOW wal_level")
    if level != "logical":
        raise ConfigError(f"{config.source}: wal_level is {level}: set it to logical and restart the server")


def pin_of(questions: Questions, name: str) -> str:
    """What makes a slot this one: system identifier, timeline and name."""
    system, timeline = system_of(questions)
    return f"{system}:{timeline}:{name}"


def sender_timeout_s(questions: Questions) -> float:
    """After how long a silent reader is cut off; 0: never."""
    ((setting,),) = questions.ask("SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'")
    return int(setting) / 1000


def find_slot(questions: Questions, config: SlotConfig) -> Slot | None:
    """The slot, None if there is none of the name. Raises: ConfigError if it is none that we can read."""
    # The whole row as JSON, for newer servers have columns that older ones lack.
    rows = questions.ask("SELECT to_jsonb(s) FROM pg_replication_slots s WHERE slot_name = %s", (config.slot,))
    if not rows:
        return None
    ((slot,),) = rows
    where = f"{config.source}: slot {config.slot}"
    if slot["plugin"] != "pgoutput":
        raise ConfigError(f"{where} is of the plugin {slot['plugin']}: pgoutput is expected")
    if slot["database"] != config.database:
        raise ConfigError(f"{where} is of database {slot['database']}: set database to it")
    if slot["temporary"]:
        raise ConfigError(f"{where} is temporary: it would not outlive a connection")
    lost = slot.get("invalidation_reason") or ("its log was removed" if slot["wal_status"] == "lost" else None)
    if slot["confirmed_flush_lsn"] is None and not lost:
        raise SourceError(f"{where} is still being made")
    return Slot(parse_lsn(slot["confirmed_flush_lsn"] or "0/0"), lost)


def create_slot(questions: Questions, config: SlotConfig) -> Slot:
    """Make the slot. Raises: ConfigError without the right to, or on a server without logical replication."""
    sql = "SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')"
    ((lsn,),) = questions.ask(sql, (config.slot,), what=f"making the slot {config.slot}")
    return Slot(parse_lsn(lsn), None)
