"""The same promises on S3, against a real server process, with lost replies and a server that breaks its word."""

from __future__ import annotations

import http.client
import http.server
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from headrace.schemas.errors import ConfigError, Fenced, NotExclusive, StorageError
from headrace.shards import store_s3
from headrace.shards.catalogue import update_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.forget import Selection, forget
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog
from headrace.shards.names import shard_name
from headrace.shards.race import exclusive_race
from headrace.shards.store import Missing, open_store
from headrace.shards.store_s3 import S3Store
from headrace.shards.testing import LaneDouble, MemoryStore
from headrace.shards.verify import verify

pytestmark = pytest.mark.server

KEYS = {"key": "test", "secret": "test", "region": "us-east-1"}


class Proxy(http.server.ThreadingHTTPServer):
    """Stands before a server; `misbehave(method, path)` says what happens to a request."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.misbehave: Callable[[str, str], str] = lambda method, path: ""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = self.server.misbehave(self.command, self.path)
        headers = dict(self.headers)
        if what == "strip condition":
            headers.pop("If-None-Match", None)
        if what == "drop request":
            self.close_connection = True
            return
        if what.isdigit():
            self.send_response(int(what))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection(self.server.upstream.netloc, timeout=30)
        upstream.request(self.command, self.path, body, headers)
        reply = upstream.getresponse()
        content = reply.read()
        if what == "drop reply":
            self.close_connection = True
            upstream.close()
            return
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def log_message(self, *arguments: Any) -> None:
        return


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture
def bucket(server: str, request: pytest.FixtureRequest) -> str:
    """An empty bucket."""
    name = f"b{abs(hash(request.node.name)) % 10**12}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
    return name


@pytest.fixture
def s3(server: str, bucket: str) -> S3Store:
    """A store under a prefix of the bucket."""
    store = open_store(f"s3://{bucket}/corpora/harbour", {**KEYS, "endpoint_url": server})
    assert isinstance(store, S3Store)
    return store


@pytest.fixture
def proxied(server: str, bucket: str) -> Iterator[tuple[S3Store, Proxy]]:
    """A store behind a proxy that can be told to misbehave."""
    proxy = Proxy(server)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield S3Store(f"{bucket}/d", {**KEYS, "endpoint_url": proxy.url}), proxy
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def once(method: str, ending: str, what: str, times: int = 1) -> Callable[[str, str], str]:
    """Misbehave at the first requests that match."""
    left = [times]

    def decide(asked: str, path: str) -> str:
        if asked == method and ending in path and left[0]:
            left[0] -= 1
            return what
        return ""

    return decide


def test_a_name_is_created_once(s3: S3Store) -> None:
    assert s3.put_new("log/1.json", b"first")
    assert not s3.put_new("log/1.json", b"other")
    assert s3.get("log/1.json") == b"first" and s3.size("log/1.json") == 5
    assert s3.get_range("log/1.json", 1, 3) == b"irs" and s3.get_range("log/1.json", 2, 0) == b""
    assert list(s3.list("log/")) == ["log/1.json"] and s3.local_path("log/1.json") is None
    s3.delete("log/1.json")
    s3.delete("log/1.json")
    assert not s3.exists("log/1.json")


def test_racing_processes_find_the_server_exclusive(s3: S3Store) -> None:
    assert exclusive_race(s3, processes=3, names=8).names == 8
    assert list(s3.list()) == []


def test_a_server_that_ignores_the_condition_is_refused(proxied: tuple[S3Store, Proxy]) -> None:
    store, proxy = proxied
    proxy.misbehave = lambda method, path: "strip condition"
    with pytest.raises(NotExclusive, match=r"cannot hold a commit log|overwritten"):
        exclusive_race(store, processes=2, names=5)


@pytest.mark.parametrize("what", ["drop reply", "drop request", "503", "500", "409"])
def test_a_lost_or_failed_reply_is_resolved_by_reading_back(proxied: tuple[S3Store, Proxy], what: str) -> None:
    store, proxy = proxied
    proxy.misbehave = once("PUT", "log/1", what)
    assert store.put_new("log/1", b"mine")
    proxy.misbehave = once("PUT", "log/1", what)
    assert not store.put_new("log/1", b"theirs")
    assert store.get("log/1") == b"mine"


def test_an_outcome_that_cannot_be_known_is_an_error(proxied: tuple[S3Store, Proxy]) -> None:
    store, proxy = proxied
    proxy.misbehave = lambda method, path: "503" if method == "PUT" else ""
    with pytest.raises(StorageError, match=r"cannot write s3://.*/d/log/1"):
        store.put_new("log/1", b"mine")
    proxy.misbehave = lambda method, path: ""
    assert not store.exists("log/1")


def test_a_large_file_goes_in_parts_and_appears_at_the_end(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_s3, "PART_BYTES", 5 << 20)  # the least that S3 allows
    data = bytes(range(256)) * (1 << 16)
    name = shard_name("tide", 0, 1)
    writer = s3.writer(name)
    for start in range(0, len(data), 700_001):
        writer.write(data[start : start + 700_001])
    assert not s3.exists(name) and [n for n, _ in s3.leftovers()] == [name]
    assert writer.tell() == len(data) and writer.close()
    assert s3.get(name) == data and list(s3.leftovers()) == []
    with s3.writer(name) as late:
        late.write(data[::-1])
        assert not late.close()
    assert s3.get(name) == data and list(s3.leftovers()) == []
    with pytest.raises(RuntimeError), s3.writer("data/x") as writer:
        writer.write(data)
        raise RuntimeError("stop")
    assert list(s3.list("data/x")) == [] and list(s3.leftovers()) == []


def test_a_lost_reply_at_the_end_of_a_large_file_is_resolved(
    proxied: tuple[S3Store, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_s3, "PART_BYTES", 5 << 20)
    store, proxy = proxied
    writer = store.writer("data/large")
    writer.write(bytes(12 << 20))
    proxy.misbehave = once("POST", "uploadId", "drop reply")
    assert writer.close()
    assert store.size("data/large") == 12 << 20


def test_missing_buckets_objects_and_ranges_are_told_in_words(s3: S3Store, server: str) -> None:
    with pytest.raises(StorageError, match="the bucket does not exist"):
        open_store("s3://nowhere-at-all/x", {**KEYS, "endpoint_url": server})
    with pytest.raises(Missing, match=r"cannot read s3://.*/corpora/harbour/log/9: it does not exist"):
        s3.get("log/9")
    s3.put_new("a", b"12345")
    with pytest.raises(StorageError, match="ends 2 bytes before byte 7"):
        s3.get_range("a", 3, 4)
    with pytest.raises(StorageError, match="ends before the range"):
        s3.get_range("a", 30, 4)
    with pytest.raises(ConfigError, match=r"unknown storage options \['colour'\]"):
        open_store("s3://bucket/x", {"colour": "red"})
    with pytest.raises(StorageError, match="cannot open s3://bucket"):
        open_store("s3://bucket/x", {**KEYS, "endpoint_url": "http://127.0.0.1:9"})


def test_a_dataset_lives_on_s3_as_on_a_disk(s3: S3Store, filled: Callable[..., CommitLog]) -> None:
    memory = MemoryStore()
    filled(memory, 1)
    log = filled(s3, 1)
    report = verify(s3)
    assert report.ok and report.content_digest == verify(memory).content_digest and report.catalogue == 30
    data = Dataset.open(s3.url, options=s3.options)
    assert data.sample("tide", 2, 9).column("position").to_pylist() == ["10"]
    forget(log, Selection(where="stream = 'tide' and seq = 3"), erase=True)
    assert verify(s3).ok and verify(s3).samples == 28
    assert collect(s3, log.state, delete=True).garbage == []


def test_a_writer_on_s3_is_fenced_by_the_next_and_its_leavings_are_garbage(
    s3: S3Store, claimed: Callable[..., CommitLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_s3, "PART_BYTES", 5 << 20)
    old = claimed(s3)
    entry = LaneDouble(s3, old, "tide").cut(3)
    unfinished = s3.writer(shard_name("tide", 0, 1))
    unfinished.write(bytes(11 << 20))
    new = claimed(s3)
    with pytest.raises(Fenced):
        old.append(entry)
    assert sorted(g.reason for g in collect(s3, new.state, delete=True).garbage) == [
        "never committed",
        "never finished",
    ]
    assert collect(s3, new.state).garbage == [] and list(s3.leftovers()) == []


@pytest.mark.parametrize("kind", ["log/0", "data/", "catalogue/"])
@pytest.mark.parametrize("what", ["drop reply", "503"])
def test_a_commit_survives_any_single_fault_of_the_connection(
    proxied: tuple[S3Store, Proxy], claimed: Callable[..., CommitLog], kind: str, what: str
) -> None:
    store, proxy = proxied
    log = claimed(store)
    proxy.misbehave = once("PUT", f"/d/{kind}", what)
    log.append(LaneDouble(store, log, "tide").cut(4))
    update_catalogue(Dataset(store))
    report = verify(store)
    assert report.ok and report.samples == 4 and report.catalogue == 4
