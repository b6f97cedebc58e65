"""The connection to a Redis server: the few commands that reading streams needs, and what their errors mean.

Replies are taken raw (RESP2): redis-py's own parsing of entries makes a dict of the fields and so loses repeated ones.
Every call takes a connection from a pool of its own, so that many threads may read at once; nothing is tried twice.

    snapshot   MULTI · XINFO STREAM key FULL COUNT 1 · XRANGE key id + COUNT n · EXEC
    wait       XREAD BLOCK ms COUNT 1 STREAMS key id
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from headrace.connectors.redis_entry import Entry, Id, behind, parse_id, show_id
from headrace.connectors.redis_gaps import Snapshot
from headrace.schemas.errors import ConfigError, HeadraceError, MissingExtra, SourceError

_RAW = ("XRANGE", "XREVRANGE", "XREAD", "XINFO STREAM")
T = TypeVar("T")


class RedisLink:
    """Commands on one server; safe for threads. `config` is a RedisStreamsConfig."""

    def __init__(self, config: Any) -> None:
        self._url = config.url
        self._config = config
        self._lock = threading.Lock()
        self._client: Any = None
        self._closed = False

    def keys(self, pattern: str) -> list[bytes]:
        """The keys of streams that match a Redis glob."""
        return self._do(lambda c: list(c.scan_iter(match=pattern, count=1000, _type="stream")))

    def type(self, key: bytes) -> str:
        """`stream`, `none`, `string` …"""
        return self._do(lambda c: c.type(key)).decode("ascii")

    def snapshot(self, key: bytes, after: Id | None, count: int) -> Snapshot | None:
        """The counters and the next `count` entries as of one moment; None: there is no such key."""

        def ask(client: Any) -> Any:
            pipe = client.pipeline(transaction=True)
            pipe.execute_command("XINFO STREAM", key, "FULL", "COUNT", 1)
            pipe.execute_command("XRANGE", key, "-" if after is None else show_id(behind(after)), "+", "COUNT", count)
            return pipe.execute(raise_on_error=False)

        info, entries = self._do(ask)
        if isinstance(info, Exception):
            if "no such key" in str(info):
                return None
            raise self._meaning(info) from info
        if isinstance(entries, Exception):
            raise self._meaning(entries) from entries
        return _snapshot(info, [Entry(parse_id(id), fields) for id, fields in entries], len(entries) < count)

    def counters(self, key: bytes) -> Snapshot | None:
        """The counters alone; None: there is no such key."""
        return self.snapshot(key, (1 << 63, 0), 1)

    def last_entry(self, key: bytes) -> Id | None:
        """The id of the newest entry that is left."""
        found = self._do(lambda c: c.execute_command("XREVRANGE", key, "+", "-", "COUNT", 1))
        return parse_id(found[0][0]) if found else None

    def wait(self, key: bytes, after: Id) -> bool:
        """Whether something comes after an id within `idle_s`."""
        block_ms = max(1, round(self._config.idle_s * 1000))  # 0 would be for ever
        arguments = ("XREAD", "BLOCK", block_ms, "COUNT", 1, "STREAMS", key, show_id(after))
        return bool(self._do(lambda c: c.execute_command(*arguments)))

    def ping(self) -> None:
        """Raises: SourceError, ConfigError."""
        self._do(lambda c: c.ping())

    def close(self) -> None:
        """Close every connection, also those on which another thread waits."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.connection_pool.disconnect(inuse_connections=True)

    # -- below --------------------------------------------------------------------------------------------------------

    def _do(self, call: Callable[[Any], T]) -> T:
        client = self._connected()
        from redis.exceptions import RedisError

        try:
            return call(client)
        except (RedisError, OSError) as exc:
            if self._closed:
                client.connection_pool.disconnect(inuse_connections=True)
            raise self._meaning(exc) from exc
        except (AttributeError, ValueError) as exc:
            if not self._closed:
                raise
            # redis-py stumbles over a socket that `close` took from under it.
            raise SourceError(f"{self._url}: closed while it was read") from exc

    def _connected(self) -> Any:
        with self._lock:
            if self._closed:
                raise SourceError(f"{self._url}: this connector was closed")
            if self._client is None:
                self._client = self._make()
            return self._client

    def _make(self) -> Any:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ModuleNotFoundError as exc:
            raise MissingExtra("redis", "redis", need="the source `redis`") from exc
        config, parts = self._config, urlsplit(self._url)
        settings: dict[str, Any] = {
            "username": config.username,
            "password": config.password.get_secret_value() if config.password else None,
            "socket_timeout": config.timeout_s,
            "socket_connect_timeout": config.timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        if parts.scheme == "unix":
            settings["unix_socket_path"] = parts.path
        else:
            settings |= {"host": parts.hostname, "port": parts.port or 6379, "db": int(parts.path.strip("/") or 0)}
        if parts.scheme == "rediss":
            for path in (config.ca_file, config.cert_file, config.key_file):
                _check_readable(path)
            settings |= {"ssl": True, "ssl_ca_certs": config.ca_file, "ssl_cert_reqs": "required"}
            settings |= {"ssl_certfile": config.cert_file, "ssl_keyfile": config.key_file, "ssl_check_hostname": True}
        client = redis.Redis(**settings)
        for command in _RAW:
            client.set_response_callback(command, _raw)
        return client

    def _meaning(self, exc: Exception) -> HeadraceError:
        """A redis-py error as one of ours. Its texts come from the server and never hold the password."""
        from redis import exceptions as known

        said = f"{self._url}: {exc}"
        if isinstance(exc, known.NoPermissionError):
            return ConfigError(
                f"{said}. Reading streams needs the commands xinfo, xrange, xrevrange, xread, type, scan, multi, exec"
            )
        if isinstance(exc, known.AuthenticationError | known.AuthorizationError):
            return ConfigError(f"{said}. Set `password`, and `username` for a user other than `default`")
        if isinstance(exc, known.AskError | known.ClusterDownError):  # MovedError is an AskError
            return ConfigError(f"{said}. This server is part of a Redis Cluster, which this connector does not read")
        if isinstance(exc, known.ResponseError):
            text = str(exc)
            if text.startswith("WRONGTYPE"):
                return ConfigError(f"{said}. A stream is expected, as XADD makes it")
            if "unknown command" in text or "nknown subcommand" in text or "syntax error" in text:
                return ConfigError(f"{said}. Redis 6 or newer is needed, 7 for gaps with counts")
        if isinstance(exc, known.TimeoutError):
            return SourceError(f"{self._url} did not answer within {self._config.timeout_s:g} s ({exc})")
        return SourceError(said)


def _snapshot(info: list[Any], entries: list[Entry], complete: bool) -> Snapshot:
    said = dict(zip(info[::2], info[1::2]))
    left = said[b"entries"]
    deleted = said.get(b"max-deleted-entry-id")
    return Snapshot(
        length=said[b"length"],
        last=parse_id(said[b"last-generated-id"]),
        first=parse_id(left[0][0]) if left else None,
        added=said.get(b"entries-added"),
        deleted=parse_id(deleted) if deleted is not None else None,
        entries=entries,
        complete=complete,
    )


def _raw(reply: Any, **_: Any) -> Any:
    return reply


def _check_readable(path: str | None) -> None:
    if path is None:
        return
    try:
        with open(path, "rb"):
            pass
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc


