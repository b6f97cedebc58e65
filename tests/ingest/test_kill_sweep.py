"""Real processes and real brokers, killed, stopped and cut off at random: what was confirmed is in the dataset once.

Ten kills in `make test`, two hundred and the harder ways to fail in `make chaos`. Kills at each single step of a commit
are elsewhere: tests/shards/test_kill.py (before every system call) and tests/simulation (every order of events).
The checker reads the log, the shards and the quarantine files, and what was confirmed to the senders; nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from headrace.schemas.canonical import canonical_json
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry
from headrace.shards.log import CommitLog
from headrace.shards.store import open_store
from headrace.shards.verify import verify

from ..servers.proxy import TcpProxy
from .sweep import STRIKES, Sender, World, payload
from .test_same_bytes import descendants

pytestmark = pytest.mark.server

Place = tuple[bytes, int]  #: (canonical position, k)
_START: Place = (b"null", 0)


@dataclass
class Counts:
    """One stream."""

    sent: int
    confirmed: int
    repeated: int  #: sends that failed or were not confirmed, and were done again
    data: int
    quarantined: int
    dropped: int  #: second comings that the dataset counts as duplicates
    gaps: int


@dataclass
class Found:
    """What the checker saw; it raised if something was wrong."""

    streams: dict[str, Counts] = field(default_factory=dict)
    entries: int = 0
    epochs: int = 0

    @property
    def confirmed(self) -> int:
        return sum(c.confirmed for c in self.streams.values())

    def __str__(self) -> str:
        names = list(Counts.__dataclass_fields__)
        rows = [f"{'stream':10}" + "".join(f"{name:>12}" for name in names)]
        for stream, counts in self.streams.items():
            rows.append(f"{stream:10}" + "".join(f"{getattr(counts, name):12,}" for name in names))
        return "\n".join([*rows, f"{self.entries:,} log entries, {self.epochs} epochs; verify: no problems"])


def check(url: str, senders: Sequence[Sender]) -> Found:
    """Raises: AssertionError that names what is lost, doubled, unbalanced or broken."""
    store = open_store(url)
    log = CommitLog(store)
    state = log.replay()
    entries = [entry for entry, _ in log.entries()]
    contiguous(entries)
    balanced(entries)
    dataset = Dataset.open(store)
    report = verify(dataset)
    assert report.problems == [], report.problems
    found = Found(entries=len(entries), epochs=state.epoch)
    for sender in senders:
        data, bad = in_data(dataset, sender.stream), in_quarantine(dataset, sender.stream)
        once(sender, data, bad)
        counts, name = state.streams.get(sender.stream), sender.stream
        found.streams[name] = Counts(
            len(sender.sent), len(sender.confirmed), sender.failures, data.total(), bad.total(),
            counts.duplicates if counts else 0, sum(gap.source == name for gap in state.gaps),
        )  # fmt: skip
    return found


def in_data(dataset: Dataset, stream: str) -> Counter[str]:
    """How often each id is a sample: the tokens are its bytes."""
    if stream not in dataset.streams() or not dataset.state.live_shards(stream):
        return Counter()
    return Counter(
        bytes(tokens).decode() for batch in dataset.batches(stream) for tokens in batch.column("tokens").to_pylist()
    )


def in_quarantine(dataset: Dataset, stream: str) -> Counter[str]:
    """How often each id lies in quarantine, by its raw bytes."""
    return Counter(
        json.loads(raw)["id"] for _, batch in dataset.quarantine(stream) for raw in batch.column("raw").to_pylist()
    )


def once(sender: Sender, data: Counter[str], bad: Counter[str]) -> None:
    """Whatever was confirmed is there; nothing is there twice, and nothing that was not sent."""
    every = data + bad
    lost = sorted(sender.confirmed - every.keys())
    assert not lost, f"{sender.stream}: {len(lost)} confirmed messages are lost: {lost[:20]}"
    doubled = sorted(id_ for id_, count in every.items() if count > 1)
    assert not doubled, f"{sender.stream}: {len(doubled)} messages came twice: {doubled[:20]}"
    strange = sorted(every.keys() - set(sender.sent))
    assert not strange, f"{sender.stream}: nobody sent {strange[:20]}"
    wrong = sorted(id_ for id_ in every if (id_ in bad) != (b"nobody" in payload(id_)))
    assert not wrong, f"{sender.stream}: data and quarantine are mixed up: {wrong[:20]}"


def contiguous(entries: Sequence[Entry]) -> None:
    """Each lane steps from where it stood; the books of each split, and its rows in shards, join without a hole."""
    stood: dict[tuple[str, int, str | None], Any] = {}
    at: dict[tuple[str, str], Place] = {}
    for entry in entries:
        for move in entry.places:
            key = (move.source, move.lane, move.split)
            assert stood.get(key) == move.expect, f"entry {entry.v}: {key} stood at {stood.get(key)}, not {move.expect}"
            stood[key] = move.place
        lines = {line.split: line for line in entry.books.splits}
        for line in entry.books.splits:
            begin, end = _place(line.after, line.after_k), _place(line.upto, line.upto_k)
            before = at.get((line.source, line.split), _START)
            assert begin == before, f"entry {entry.v}: {line.source} goes on at {begin}, the log had come to {before}"
            at[line.source, line.split] = end
        if not entry.books.splits:
            for move in entry.places:  # where a new split begins
                if move.split is not None:
                    at[move.source, move.split] = _place(move.place.position, move.place.k)
        for split, line in lines.items():
            ranges = [r for shard in entry.add if shard.stream == line.source for r in shard.ranges if r.split == split]
            steps = [(_place(r.after, r.after_k), _place(r.upto, r.upto_k)) for r in ranges]
            if steps:
                reached = [_place(line.after, line.after_k), *(step[1] for step in steps)]
                assert [step[0] for step in steps] == reached[:-1], f"entry {entry.v}: a hole in the rows of {split}"


def balanced(entries: Sequence[Entry]) -> None:
    """Sums over all entries: every item that was read is closed or in quarantine, every record has its fate."""
    read: Counter[str] = Counter()
    fate: Counter[str] = Counter()
    records: Counter[str] = Counter()
    fates: Counter[str] = Counter()
    for entry in entries:
        for line in entry.books.splits:
            read[line.source] += line.read
            fate[line.source] += line.closed + line.quarantined
        for stream, counts in entry.books.streams.items():
            records[stream] += counts.records
            fates[stream] += counts.samples + counts.quarantined + counts.duplicates + sum(counts.rejected.values())
    assert read == fate, f"items read {dict(read)}, closed or quarantined {dict(fate)}"
    assert records == fates, f"records {dict(records)}, fates {dict(fates)}"


def _place(position: Any, k: int) -> Place:
    return canonical_json(position), k


Judge = Callable[[World], "Found"]


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Judge:
    """Ends a sweep, checks its dataset, and prints the counts past pytest's capture."""

    def say(world: World) -> Found:
        world.finish()
        found = check(str(world.service.out), world.senders)
        with capsys.disabled():
            print(f"\n{request.node.name}\n{world.table()}\n\n{found}")
        return found

    return say


def test_ten_kills_lose_and_double_nothing(tmp_path: Path, judge: Judge) -> None:
    kills = ["live child", "receiver child", "batch child", "service", "redis", "nats", "mosquitto"]
    with World(tmp_path, seed=1) as world:
        world.rng.shuffle(kills)
        for kill in [*kills, "network reply lost", "live child", "service"]:
            world.strike(kill)
        found = judge(world)
    assert found.confirmed > 100
    assert all(counts.confirmed for counts in found.streams.values())


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(1, 4))
def test_fifty_kills_lose_and_double_nothing(tmp_path: Path, judge: Judge, seed: int) -> None:
    """Three of these, and fifty under Ray: two hundred."""
    kills = ["live child", "receiver child", "batch child", "service", "redis", "nats", "mosquitto"]
    with World(tmp_path, seed=seed, workers=seed) as world:
        for n in range(50):
            # Some strike while the one before is being recovered from.
            world.strike(world.rng.choice(kills), wait=n == 49 or world.rng.random() < 0.7)
        judge(world)


@pytest.mark.chaos
def test_a_bad_network_and_stopped_processes_lose_and_double_nothing(tmp_path: Path, judge: Judge) -> None:
    ways = sorted(name for name in STRIKES if name.startswith("network"))
    with World(tmp_path, seed=11) as world:
        for n in range(30):
            world.strike(ways[n % len(ways)], wait=world.rng.random() < 0.7)
        for way in ("child stopped 30 s", "broker stopped 30 s", "service stopped, newer") * 2:
            world.strike(way)
        judge(world)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 64 MB of its own; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    with tempfile.TemporaryDirectory(prefix="headrace-disk-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=False)


def fill(ballast: Path) -> None:
    """A file that takes what is left of a disk; more of it when it is there."""
    with open(ballast, "ab", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError as exc:
            assert exc.errno == errno.ENOSPC


@pytest.mark.chaos
def test_a_full_disk_costs_time_and_nothing_else(tmp_path: Path, small_disk: Path, judge: Judge) -> None:
    with World(tmp_path, seed=21, out=small_disk / "out", pace=0.5) as world:
        for meanwhile in (None, "live child", "receiver child", "service", None):
            ballast = small_disk / "ballast"
            fill(ballast)
            time.sleep(world.rng.uniform(2, 6))
            fill(ballast)  # whatever was freed meanwhile
            if meanwhile:
                STRIKES[meanwhile](world)
                time.sleep(4)
            refused = meanwhile == "service"
            if refused:  # a service cannot begin on a full disk and says so; whoever supervises it tries again
                assert world.service.process is not None and world.service.process.wait(60) == 3
                assert "no space left" in world.service.said()
            ballast.unlink()
            began = time.monotonic()
            if refused:
                world.service.start()
            world.go_on(world.read(), "a commit of each stream once there is room")
            world.seconds.setdefault("disk full", []).append(time.monotonic() - began)
        judge(world)


Pair = tuple[socket.socket, socket.socket]


class PutReplyLoser(TcpProxy):
    """`lose_reply_of("/log/")` arms it for the next PUT whose path holds these words; `lost` counts."""

    def __init__(self, target_port: int) -> None:
        self.lost = 0
        self._armed: str | None = None
        self._requests: dict[Pair, bytes] = {}
        self._here = threading.local()
        super().__init__(target_port)

    @property
    def environment(self) -> dict[str, str]:
        """How clients find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def lose_reply_of(self, words: str) -> None:
        """The next time."""
        self._armed = words

    def _pump(self, source: Any, sink: socket.socket, pair: Pair) -> None:
        self._here.pair = pair
        if source is pair[0]:
            source = _Overheard(source, lambda data: self._request(pair, data))
        super()._pump(source, sink, pair)

    def _request(self, pair: Pair, data: bytes) -> None:
        line = data.partition(b"\r\n")[0]
        if line.endswith(b"HTTP/1.1"):
            self._requests[pair] = line

    def _fate(self, data: bytes) -> tuple[bytes, bool]:
        line = self._requests.get(self._here.pair, b"")
        armed = self._armed
        done = data.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
        if armed is not None and done and line.startswith(b"PUT ") and armed.encode() in line:
            self._armed = None
            self.lost += 1
            return b"", True
        return super()._fate(data)


class _Overheard:
    """A socket whose received bytes are shown to somebody."""

    def __init__(self, inner: socket.socket, hear: Any) -> None:
        self._inner, self._hear = inner, hear

    def recv(self, size: int) -> bytes:
        data = self._inner.recv(size)
        self._hear(data)
        return data


@pytest.mark.chaos
def test_a_bucket_whose_replies_are_lost_holds_everything_once(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto = pytest.importorskip("moto.server")
    boto = pytest.importorskip("botocore.session")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        with PutReplyLoser(server.get_host_and_port()[1]) as proxy:
            for name, value in proxy.environment.items():
                monkeypatch.setenv(name, value)
            client: Any = boto.Session().create_client("s3", endpoint_url=proxy.environment["AWS_ENDPOINT_URL"])
            client.create_bucket(Bucket="corpus")
            with World(tmp_path, seed=31, out="s3://corpus/out", pace=0.5) as world:
                for n in range(24):
                    if n % 6 == 5:
                        world.strike("service")
                        continue
                    lost, began = proxy.lost, time.monotonic()
                    proxy.lose_reply_of("/log/" if n % 2 else "/data/")
                    world.service.wait(lambda lost=lost: proxy.lost > lost, 60, "a put whose reply is lost")
                    world.go_on(world.read(), "a commit of each stream after a lost reply")
                    world.seconds.setdefault("put reply lost", []).append(time.monotonic() - began)
                proxy.cut()
                judge(world)
            assert proxy.lost == 20
    finally:
        server.stop()


_STORE_BYTES = 96 << 20


class TwoNodes:
    """A head node with the control store, and a second raylet that is killed and replaced."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 2, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, connect=False, head_node_args=head)
        self._second: Any = self._add()

    @property
    def address(self) -> str:
        """For `--address`."""
        return str(self._cluster.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    def strikes(self, world: World) -> dict[str, Callable[[World], None]]:
        """Kinds of kill by name; they are added to those of the sweep."""
        found = {
            "ray: worker actor": _process("ray::_WorkerActor"),
            "ray: coordinator": _process("ray::_ServiceActor"),
            "ray: second raylet": self._raylet,
            "ray: command": _command,
            **{name: STRIKES[name] for name in ("live child", "receiver child", "batch child", "redis", "mosquitto")},
        }
        STRIKES.update(found)
        return found

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=2, object_store_memory=_STORE_BYTES, wait=True)

    def _raylet(self, world: World) -> None:
        """SIGKILL to the node's raylet; with it go its actors and their children. Another node joins."""
        self._second.kill_raylet(check_alive=False)
        self._cluster.remove_node(self._second, allow_graceful=False)
        time.sleep(world.rng.choice([0, 3]))
        self._second = self._add()


def _process(word: str) -> Callable[[World], None]:
    def strike(world: World) -> None:
        end = time.monotonic() + 60
        while not (found := descendants(os.getpid(), word)):
            assert time.monotonic() < end, f"no process is called {word}"
            time.sleep(0.1)
        os.kill(world.rng.choice(found), signal.SIGKILL)

    return strike


def _command(world: World) -> None:
    """The command goes; coordinator and workers are detached and go on until another command takes over."""
    world.service.kill()
    before, end = world.read()["words"], time.monotonic() + 60
    while world.read()["words"] <= before:
        assert time.monotonic() < end, "the detached service committed nothing after its command was killed"
        time.sleep(0.2)
    world.service.start(*world.options, "--take-over")


@pytest.mark.chaos
@pytest.mark.ray
def test_fifty_kills_of_a_ray_cluster_lose_and_double_nothing(tmp_path: Path, judge: Judge) -> None:
    pytest.importorskip("ray")
    with TwoNodes() as nodes:
        world = World(tmp_path, seed=41, engine="ray", workers=2, options=("--address", nodes.address))
        with world:
            kills = nodes.strikes(world)
            names = sorted(kills)
            for n in range(50):
                name = names[n] if n < len(names) else world.rng.choice(names)
                world.strike(name, wait=world.rng.random() < 0.8)
            judge(world)
