"""The settings of `postgres` and `postgres_table`: how a server is reached, and what is read of it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.schemas.pipeline import bytes_field, run_field

Operation = Literal["insert", "update", "delete"]
_SLOT = re.compile(r"[a-z0-9_]{1,63}")
_LOCAL = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|/.*")

#: How values are written as text; the same for every server, so that equal rows are equal bytes.
_TEXT_FORM = {
    "datestyle": "ISO",
    "timezone": "UTC",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}


def _slot(name: str) -> str:
    if not _SLOT.fullmatch(name):
        raise ValueError("lower-case letters, digits and underscores are expected, at most 63")
    return name


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _start(text: str) -> str:
    if text not in ("earliest", "latest"):
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            time = None
        if time is None or time.tzinfo is None:
            raise ValueError("earliest, latest or a time with its offset, such as 2026-01-31T12:00:00Z, is expected")
    return text


class ServerConfig(ConnectorConfig):
    """A PostgreSQL server and who we are to it."""

    host: str = run_field("localhost", description="name or address of the primary, or the folder of its Unix socket")
    port: int = run_field(5432, ge=1, le=65535, description="its port")
    database: str = run_field(description="the database to read", min_length=1)
    username: str = run_field(description="the role to log in as", min_length=1)
    password: SecretStr | None = run_field(None, description="its password; default: as libpq finds one (~/.pgpass)")
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = run_field(
        None, description="as libpq has it; default: prefer on this machine, require elsewhere"
    )
    tls_ca: str | None = run_field(None, description="file of the certificates to trust, for verify-ca and verify-full")
    tls_certificate: str | None = run_field(None, description="file of our own certificate")
    tls_key: str | None = run_field(None, description="file of its key")
    timeout_s: float = run_field(10, gt=0, le=300, description="how long the server may take to answer")

    @model_validator(mode="after")
    def _certificate(self) -> ServerConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self

    @property
    def source(self) -> str:
        """The server in messages."""
        return f"postgres {self.database}"

    def connection(self) -> dict[str, Any]:
        """Arguments of libpq; they hold the password."""
        local = _LOCAL.fullmatch(self.host) is not None
        timeout_ms = max(round(self.timeout_s * 1000), 1000)
        told: dict[str, Any] = {
            "host": self.host, "port": self.port, "dbname": self.database, "user": self.username,
            "sslmode": self.sslmode or ("prefer" if local else "require"), "sslrootcert": self.tls_ca,
            "sslcert": self.tls_certificate, "sslkey": self.tls_key, "application_name": "headrace",
            # libpq rounds up below 2 s.
            "connect_timeout": max(2, -(-timeout_ms // 1000)), "client_encoding": "UTF8",
            "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
            "options": " ".join(f"-c {name}={value}" for name, value in _TEXT_FORM.items()),
        }  # fmt: skip
        if self.password is not None:
            told["password"] = self.password.get_secret_value()
        return {name: value for name, value in told.items() if value is not None}


class SlotConfig(ServerConfig):
    """Changes of tables, through a logical replication slot."""

    slot: Annotated[str, AfterValidator(_slot)] = bytes_field(description="name of the replication slot, ours alone")
    publications: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = bytes_field(
        description="publications that say which tables and columns are sent", min_length=1
    )
    operations: Annotated[tuple[Operation, ...], BeforeValidator(_one_or_many)] = bytes_field(
        ("insert", "update"), description="changes that become items: insert, update, delete", min_length=1
    )
    create_slot: bool = run_field(False, description="make the slot if it is absent and nothing was read yet")
    heartbeat_mib: int = run_field(
        16, ge=0, description="log of other tables after which a mark is written, to let go of it; 0: never"
    )


class TableConfig(ServerConfig):
    """Rows of a table, in the order of columns that only grow."""

    table: str = bytes_field(description="name of a table, as in schema.table", min_length=1)
    cursor: str = bytes_field(description="column that only grows: an id, or a time of the last change", min_length=1)
    id: str | None = bytes_field(None, description="column that tells rows of one cursor value apart")
    columns: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = bytes_field(
        (), description="columns that are read; default: all"
    )
    start: Annotated[str, AfterValidator(_start)] = run_field(
        "earliest", description="earliest, latest, or an ISO 8601 time where the cursor is a time"
    )
    settle_s: float = run_field(
        5, ge=0, le=86400, description="how long a transaction may take from choosing a cursor value to its first write"
    )
    poll_s: float = run_field(1, gt=0, le=3600, description="how often new rows are asked for")
    batch_rows: int = run_field(1000, ge=1, le=100_000, description="rows asked for at once")
