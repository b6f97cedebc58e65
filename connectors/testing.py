"""The conformance kit: what every connector must do, as tests that a connector's own tests inherit.

    from headrace.connectors.testing import ConnectorKit

    class TestTideGauge(ConnectorKit):
        def make(self):
            return TideGauge(TideGauge.Config(host="127.0.0.1"))

`make` gives a fresh connector on a source that does not change while the tests run and holds some hundred items at
most. pytest finds the tests by inheritance. Files and memory are counted where /proc tells them. What the kit cannot
reach (a server that is restarted, retention) is for the connector's own tests; `observed_guarantee` helps there.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import pyarrow as pa

from headrace.connectors.contract import Blob, Broken, Connector, Gap, Idle, Item, Position, Read, Split
from headrace.connectors.registry import connector_class, guarantee_of
from headrace.schemas.canonical import canonical_json, digest_of, position_json

Guarantee = Literal["exactly once", "at least once", "at most once", "none"]
#: From weak to strong. At least once and at most once do not compare: declaring one and showing the other fails.
_RANK = {"none": 0, "at most once": 1, "at least once": 1, "exactly once": 2}

_CHILD = """
import json, sys
task = json.load(sys.stdin)
sys.path[:0] = [p for p in task["path"] if p not in sys.path]
from headrace.connectors.testing import child_reads
child_reads(task)
"""


class ConnectorKit(ABC):
    """Tests that each connector passes. Subclass it under a name that begins with Test, and write `make`."""

    #: Positions after which reading on is tried, per split; of more than this many, so many are taken evenly.
    resume_points: ClassVar[int] = 64
    #: Reads taken of a split; for unbounded sources, which have no end.
    max_reads: ClassVar[int] = 2000
    #: How much the resident memory may grow while a consumer is slow.
    max_growth_bytes: ClassVar[int] = 192 << 20
    #: How the class is found in a fresh process: a type as in a pipeline file; None: by its module and name.
    type_name: ClassVar[str | None] = None

    @abstractmethod
    def make(self) -> Connector:
        """A new connector on the test's source."""

    # -- splits and settings ------------------------------------------------------------------------------------------

    def test_split_ids_are_unique_relative_and_stable(self) -> None:
        """Two listings and two instances name the same splits, by ids that hold no absolute path."""
        with _closing(self.make()) as one, _closing(self.make()) as other:
            first, second, third = list(one.splits()), list(one.splits()), list(other.splits())
        ids = [split.id for split in first]
        assert ids, "the source has no splits: nothing can be tested"
        assert len(set(ids)) == len(ids), f"split ids repeat: {[i for i, n in Counter(ids).items() if n > 1][:5]}"
        assert first == second, "a second listing differs from the first"
        assert first == third, "another instance lists other splits"
        assert not any(i.startswith("/") or i.encode() == b"" for i in ids), "split ids are relative to the source"

    def test_unknown_settings_are_refused(self) -> None:
        """A misspelt setting is an error, not a default."""
        with _closing(self.make()) as connector:
            config = connector.config
            settings = {**config.model_dump(mode="json"), "no_such_setting": 1}
        try:
            type(config).model_validate(settings)
        except ValueError:
            return
        raise AssertionError("an unknown setting was accepted: settings forbid extra fields")

    # -- positions ----------------------------------------------------------------------------------------------------

    def test_positions_are_small_json_and_unique_in_a_split(self) -> None:
        """Each position is a JSON value without floats, at most 4 KiB, and names one place."""
        for _, reads in self._all():
            keys = [position_json(read.position) for read in reads]
            repeated = [key for key, count in Counter(keys).items() if count > 1]
            assert not repeated, f"two reads share a position: {repeated[:3]}"
            assert b"null" not in keys, "null is the start and cannot be a position"

    def test_reading_twice_gives_the_same(self) -> None:
        """What can be replayed is the same each time."""
        if self._replays():
            assert self._digests() == self._digests()

    def test_reading_on_after_each_position_gives_the_rest(self) -> None:
        """The off-by-one test: after the k-th position comes exactly what came behind it."""
        if not self._replays():
            return
        for split, reads in self._all():
            digests = [read_digest(read) for read in reads]
            for k in self._points(len(reads)):
                with _closing(self.make()) as connector:
                    rest = [read_digest(read) for read in self._take(connector, split, reads[k].position)]
                where = f"{split.id}, after read {k} at {reads[k].position!r}"
                assert rest == digests[k + 1 :], f"{where}: {len(rest)} reads, {len(digests) - k - 1} were expected"

    def test_reading_on_in_a_fresh_process_gives_the_rest(self) -> None:
        """Nothing but the settings, the split and the position is needed to go on."""
        if not self._replays():
            return
        asked, expected = [], []
        for split, reads in self._all():
            digests = [read_digest(read) for read in reads]
            points = self._points(len(reads))
            asked.append((split, [reads[k].position for k in points]))
            expected.append([digests[k + 1 :] for k in points])
        for (split, positions), answers, wanted in zip(asked, self._in_fresh_process(asked), expected):
            for position, rest, right in zip(positions, answers, wanted):
                assert rest == right, f"{split.id}, after {position!r}, in a fresh process: other reads come"

    # -- resources ----------------------------------------------------------------------------------------------------

    def test_close_frees_threads_and_files(self) -> None:
        """Opening, reading a little and closing again and again leaves nothing behind."""
        counts = []
        for _ in range(6):
            connector = self.make()
            for split in list(connector.splits())[:3]:
                reads = iter(connector.read(split, None))
                next(reads, None)
                reads.close()  # type: ignore[attr-defined]
            connector.close()
            del connector, reads
            gc.collect()
            counts.append((threading.active_count(), open_files()))
        # The first rounds may start what a library keeps for good (a connection pool, an event loop).
        threads, opened = (max(count[i] for count in counts[:3]) for i in (0, 1))
        for _ in range(20):
            if threading.active_count() <= threads and open_files() <= opened:
                return
            time.sleep(0.1)  # what was told to end may take a moment
        raise AssertionError(f"(threads, files) after each round: {counts}")

    def test_memory_is_bounded_under_a_slow_consumer(self) -> None:
        """A consumer that waits must not make the connector read ahead without limit."""
        with _closing(self.make()) as connector:
            splits = list(connector.splits())
            before = highest = _resident_bytes()
            for split in splits:
                for number, read in enumerate(self._take(connector, split, None)):
                    if number in (0, 5):
                        time.sleep(0.2)
                    highest = max(highest, _resident_bytes())
                    del read
        growth = highest - before
        assert growth <= self.max_growth_bytes, f"memory grew by {growth >> 20} MiB while the consumer was slow"

    def test_read_never_acknowledges(self) -> None:
        """`ack` is the engine's to call, after a commit; a connector that does it itself loses data on a crash."""
        with _closing(self.make()) as connector:
            calls: list[Any] = []
            connector.ack = lambda split, upto: calls.append((split.id, upto))  # type: ignore[method-assign]
            for split in list(connector.splits())[:3]:
                for _ in self._take(connector, split, None):
                    assert not calls, f"read acknowledged {calls[0]}"
            assert not calls, f"read acknowledged {calls[0]}"

    # -- the guarantee ------------------------------------------------------------------------------------------------

    def test_the_declared_guarantee_is_not_more_than_what_is_observed(self) -> None:
        """Crashes are played through; the strongest guarantee that survives them must be what the class declares."""
        if not self._replays():
            return  # what a receiver promises shows with its spool and its sender: see testing_receivers.ReceiverKit
        declared = self._declared()
        observed = self.observed_guarantee()
        weaker = _RANK[observed] < _RANK[declared] or (_RANK[observed] == _RANK[declared] and observed != declared)
        assert not weaker, f"declares `{declared}`, but only `{observed}` was observed"

    def observed_guarantee(self) -> Guarantee:
        """The strongest guarantee that no crash of the schedule violates.

        A consumer takes t reads, has committed the first c of them, and crashes; a new one goes on from the position of
        the last committed read. The dataset is what was committed plus what came then.
        """
        missing = repeated = False
        for split, reads in self._all():
            whole = Counter(read_digest(read) for read in reads)
            for taken, committed in _crashes(len(reads)):
                with _closing(self.make()) as connector:
                    begun = self._take(connector, split, None)
                    kept = [read for _, read in zip(range(taken), begun)][:committed]
                    begun.close()
                after = kept[-1].position if kept else None
                with _closing(self.make()) as connector:
                    rest = list(self._take(connector, split, after))
                dataset = Counter(read_digest(read) for read in [*kept, *rest])
                missing = missing or bool(whole - dataset)
                repeated = repeated or bool(dataset - whole)
        if missing:
            return "none" if repeated else "at most once"
        return "at least once" if repeated else "exactly once"

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _replays(self) -> bool:
        """Whether anything can be read a second time."""
        with _closing(self.make()) as connector:
            return connector.replay != "none"

    def _declared(self) -> Guarantee:
        with _closing(self.make()) as connector:
            said = guarantee_of(type(connector))
        known: tuple[Guarantee, ...] = ("exactly once", "at least once", "at most once")
        return next((guarantee for guarantee in known if said.startswith(guarantee)), "none")

    def _all(self) -> Iterator[tuple[Split, list[Any]]]:
        with _closing(self.make()) as connector:
            for split in connector.splits():
                yield split, list(self._take(connector, split, None))

    def _digests(self) -> list[tuple[str, list[str]]]:
        return [(split.id, [read_digest(read) for read in reads]) for split, reads in self._all()]

    def _take(self, connector: Connector, split: Split, after: Position) -> Any:
        return take(connector, split, after, self.max_reads)

    def _points(self, count: int) -> list[int]:
        if count <= self.resume_points:
            return list(range(count))
        return sorted({round(i * (count - 1) / (self.resume_points - 1)) for i in range(self.resume_points)})

    def _in_fresh_process(self, asked: list[tuple[Split, list[Position]]]) -> list[list[list[str]]]:
        with _closing(self.make()) as connector:
            cls, settings = type(connector), connector.config.model_dump(mode="json")
        task = {
            "path": [os.path.abspath(p) for p in sys.path],
            "type": self.type_name or type_of(cls),
            "settings": settings,
            "asked": [[[split.id, split.pin, split.weight, split.bounded], positions] for split, positions in asked],
            "max_reads": self.max_reads,
        }
        command = [sys.executable, "-c", _CHILD]
        child = subprocess.run(
            command, input=json.dumps(task), capture_output=True, text=True, timeout=300, check=False
        )
        assert child.returncode == 0, f"the fresh process failed:\n{child.stderr[-2000:]}"
        answer: list[list[list[str]]] = json.loads(child.stdout.strip().splitlines()[-1])
        return answer


def take(connector: Connector, split: Split, after: Position, most: int) -> Iterator[Item | Gap | Broken]:
    """What a split gives, without idle ticks; an unbounded one ends at its first idle tick, or after `most` reads."""
    bounded = connector.bounded if split.bounded is None else split.bounded
    reads = connector.read(split, after)
    try:
        count = 0
        for read in reads:
            if isinstance(read, Idle):
                if bounded:
                    continue
                return
            yield read
            count += 1
            if count == most and not bounded:
                return
    finally:
        close = getattr(reads, "close", None)
        if close is not None:
            close()


def read_digest(read: Read) -> str:
    """A hex digest of all that a read says: kind, position, key, time, headers and bytes."""
    said: dict[str, Any] = {"kind": type(read).__name__}
    if isinstance(read, Item):
        data = [_data_digest(part) for part in (read.data if isinstance(read.data, list) else [read.data])]
        said.update(key=read.key, time=read.event_time, headers=dict(read.headers), data=data)
    elif isinstance(read, Broken):
        said.update(
            reason=read.reason, message=read.message, locator=read.locator, data=_bytes_digest(read.data or b"")
        )
    elif isinstance(read, Gap):
        said.update(reason=read.reason, lost=read.lost)
    if not isinstance(read, Idle):
        said["position"] = position_json(read.position).decode()
    return digest_of(said)


def _data_digest(data: Any) -> list[Any]:
    if isinstance(data, Blob):
        state = hashlib.sha256()
        with data.open() as stream:
            while chunk := stream.read(1 << 20):
                state.update(chunk)
        return ["blob", data.id, data.size, state.hexdigest()]
    if isinstance(data, pa.RecordBatch):
        state = hashlib.sha256(data.schema.to_string().encode())
        for value in (value for column in data.columns for value in column.to_pylist()):
            plain = value if isinstance(value, bytes) else repr(value).encode()
            state.update(b"%d:" % len(plain))
            state.update(plain)
        return ["table", data.num_rows, state.hexdigest()]
    return ["bytes", _bytes_digest(data)]


def _bytes_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def child_reads(task: dict[str, Any]) -> None:
    """The fresh process of the kit: prints, for each split and position, the digests of what comes after it."""
    cls = connector_class(task["type"])
    answers: list[list[list[str]]] = []
    for split, positions in task["asked"]:
        answers.append([])
        for position in positions:
            with _closing(cls(cls.Config.model_validate(task["settings"]))) as connector:
                reads = take(connector, Split(*split), position, task["max_reads"])
                answers[-1].append([read_digest(read) for read in reads])
    print(canonical_json(answers).decode())


def type_of(cls: type[Connector]) -> str:
    """A type name by which another process finds a class: its module, or the file that the module came from."""
    module = sys.modules[cls.__module__]
    path = getattr(module, "__file__", None)
    # A test module is often not importable by name elsewhere, its file is.
    importable = cls.__module__.startswith("headrace.") or ("." not in cls.__module__ and not path)
    return f"{cls.__module__}:{cls.__qualname__}" if importable or path is None else f"{path}:{cls.__qualname__}"


def _crashes(reads: int) -> list[tuple[int, int]]:
    """(taken, committed) pairs: early, in the middle and late, with a commit that lags by none, one or some reads."""
    takens = sorted({min(reads, t) for t in (1, 2, 3, reads // 2, reads - 1, reads) if t > 0})
    return sorted({(taken, max(0, taken - lag)) for taken in takens for lag in (0, 1, 3)})


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def _resident_bytes() -> int:
    if not os.path.isfile("/proc/self/statm"):
        return 0
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _closing:
    """`with _closing(connector) as c:` closes it, whatever happened."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    def __enter__(self) -> Connector:
        return self._connector

    def __exit__(self, *_: object) -> None:
        self._connector.close()
