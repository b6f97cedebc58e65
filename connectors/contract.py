"""The Connector contract: where bytes come from.

A connector names its splits and reads one of them from a position on. It knows nothing of modalities, tokens or
storage. This is all that a third party implements:

    class Lines(Connector):
        class Config(ConnectorConfig):
            root: str
        def splits(self):
            for path in sorted(Path(self.config.root).glob("*.log")):
                yield Split(path.name)
        def read(self, split, after):
            with open(Path(self.config.root) / split.id, "rb") as f:
                f.seek(after or 0)
                while line := f.readline():
                    yield Item(line.rstrip(), position=f.tell())
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

Position = Any  #: a JSON value without floats, compared as canonical bytes; None is the start


class Blob(ABC):
    """A large object that is opened on demand, and may be opened more than once."""

    #: Path relative to the source's root; for a member of an archive `archive.tar/member.jpg`.
    id: str

    @abstractmethod
    def open(self) -> BinaryIO:
        """A new seekable binary stream at byte 0. Raises: SourceChanged if the object is not the one planned."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes."""

    @property
    def name(self) -> str:
        """The last component of `id`."""
        return self.id.rsplit("/", 1)[-1]

    def local_path(self) -> str | None:
        """A path of the local file system that holds exactly these bytes, or None."""
        return None

    def read(self, limit: int | None = None) -> bytes:
        """All bytes, or the first `limit`."""
        with self.open() as stream:
            return stream.read() if limit is None else stream.read(limit)


class BytesBlob(Blob):
    """A blob held in memory."""

    def __init__(self, id: str, data: bytes) -> None:
        self.id = id
        self._data = data

    def open(self) -> BinaryIO:
        return io.BytesIO(self._data)

    @property
    def size(self) -> int:
        return len(self._data)


class PathBlob(Blob):
    """A blob that is a local file."""

    def __init__(self, id: str, path: str | os.PathLike[str]) -> None:
        self.id = id
        self._path = os.fspath(path)

    def open(self) -> BinaryIO:
        return open(self._path, "rb")

    @property
    def size(self) -> int:
        return os.stat(self._path).st_size

    def local_path(self) -> str | None:
        return self._path


@dataclass(frozen=True, slots=True)
class Split:
    """One independently readable, stably named part of a source."""

    id: str  #: relative to the source's root, never an absolute path or host
    pin: str | None = None  #: what identifies the content now (etag, size+mtime); compared on every open
    weight: int = 1  #: expected work, in bytes where known; balances lanes
    bounded: bool | None = None  #: None: as the connector says


@dataclass(frozen=True, slots=True)
class Item:
    """What a connector read, with the position to resume strictly after it.

    `data`: bytes; a RecordBatch (many rows, one position); a Blob; or a list of Blobs that make one product.
    `headers` that the engine knows: `format` (sniffed name, see connectors/sniff.py), `object` (id of the undivided
    object when the split is a part of it), `part` ("3/8": the part of a divided object), `media_type`.
    """

    data: bytes | pa.RecordBatch | Blob | list[Blob]
    position: Position
    key: str | None = None
    event_time: int | None = None  #: microseconds since 1970 UTC
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to read now: the engine may flush or stop."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Data known to be lost upstream; `lost` is its count, or None when unknown."""

    reason: str
    position: Position
    lost: int | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """A part of the split that cannot be read as an item (a torn archive member, a bad gzip tail).

    It is quarantined with its range; `data` holds the raw bytes where they could be had.
    """

    reason: str
    message: str
    position: Position
    locator: str
    data: bytes | None = None


Read = Item | Idle | Gap | Broken


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a reader is behind its source; None where the source cannot tell."""

    records: int | None = None
    bytes: int | None = None
    seconds: float | None = None


class ConnectorConfig(BaseModel):
    """Base of connector settings: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Connector(ABC):
    """Where bytes come from. Created once per process with validated settings.

    In a running service one instance may be asked to `read` several splits at once, each from a thread of its own,
    while `ack` and `lag` come from another: what they share is the connector's to guard.

    An unbounded `read` never ends by itself: it yields `Idle()` whenever nothing came for about half a second, and goes
    on. It does not try again after an error: it raises SourceError (or RateLimited) and is called anew, after a pause,
    with the last position it had given. ConfigError and SourceChanged park the split until somebody acts.

    A source that cannot be read again (`replay = "none"`) is read by a receiver that writes its items to a spool. Then
    positions only tell its items apart; `ack(split, position)` says that the item of that position, and all that this
    `read` yielded before it, are on disk: now its sender may be told so (`acknowledges = True`). An item that is never
    acknowledged is the sender's to send again. Such a source should give each item the sender's message id as `key`.
    """

    Config: ClassVar[type[ConnectorConfig]] = ConnectorConfig
    bounded: ClassVar[bool] = True
    #: What can be read again after a crash: everything, a retention window, or nothing (then it needs a spool).
    replay: ClassVar[Literal["exact", "window", "none"]] = "exact"
    ordering: ClassVar[Literal["split", "none"]] = "split"
    #: For `replay = "none"`: a sender learns of `ack`, and sends again what was not acknowledged.
    acknowledges: ClassVar[bool] = False
    #: After a new start a read may give again what came before, under the keys it had: the stream drops them by key.
    repeats: ClassVar[bool] = False

    def __init__(self, config: ConnectorConfig) -> None:
        self.config: Any = config

    @abstractmethod
    def splits(self) -> Iterable[Split]:
        """All splits now, with stable ids; cheap and repeatable. May raise SourceError."""

    @abstractmethod
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        """What comes strictly after `after` (None: from the start). Raises: SourceError, SourceChanged."""

    def describe(self) -> str:
        """The source in one line, for provenance: no credentials, no host paths."""
        return type(self).__name__.lower()

    def ack(self, split: Split, upto: Position) -> None:  # noqa: B027 - a default, not a duty
        """Called only after the commit that covers `upto` is durable."""

    def probe(self) -> None:  # noqa: B027
        """Check that the source can be reached. Raises: SourceError, ConfigError."""

    def watch(self) -> None:  # noqa: B027
        """A service will call `splits` of this instance again and again: list only what is whole from now on."""

    def wait_for_change(self, timeout_s: float) -> bool | None:
        """Wait until `splits` may give more: True then, False after the time; None if it cannot tell (at once)."""
        return None

    def object_of(self, split: Split) -> str:
        """The undivided object that a bounded split is, or is a part of: planned once, however it is divided later."""
        return split.id

    def start_of(self, split: Split) -> Position:
        """Where a split begins that was never read, as a position that `read` takes; None: at its first item.

        Asked once, and the answer is logged before the first record: `latest` must not move with each restart.
        """
        return None

    def lag(self, split: Split, after: Position) -> Lag | None:
        """How much lies behind `after` in the source; None if it cannot tell. Raises: SourceError."""
        return None

    def end_of(self, split: Split) -> Position:
        """The position of the last item there is now, to read up to it and stop; None if there is none."""
        raise TypeError(f"{type(self).__name__} is bounded: it has no end to freeze")

    def close(self) -> None:  # noqa: B027
        """Free sockets, threads and files."""
