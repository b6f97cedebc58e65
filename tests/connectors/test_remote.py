"""Files on S3 (a real S3-compatible server on loopback) and in memory."""

from __future__ import annotations

import gzip
import io
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from subprocess import DEVNULL
from typing import Any

import pytest

from headrace.connectors.contract import Connector, Item
from headrace.connectors.files import Files
from headrace.connectors.testing import ConnectorKit
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

LINES = b"".join(b'{"n":%d,"text":"%s"}\n' % (n, b"word " * 20) for n in range(16_000))


def lines_of(connector: Connector) -> bytes:
    out = b""
    for split in connector.splits():
        for read in connector.read(split, None):
            assert isinstance(read, Item)
            out += b"".join(line + b"\n" for line in read.data.column("line").to_pylist())
    return out


# -- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Settings of a running server with one bucket."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # In a process of its own, so that its threads and sockets are not counted as the client's.
    command = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    server = subprocess.Popen([*command, "-H", "127.0.0.1", "-p", str(port)], stdout=DEVNULL, stderr=DEVNULL)
    try:
        _wait_for(port)
        endpoint = f"http://127.0.0.1:{port}"
        options = {"key": "test", "secret": "test", "client_kwargs": {"region_name": "us-east-1"}}
        session = boto3.session.Session("test", "test", region_name="us-east-1")
        client = session.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="corpus")
        yield {"client": client, "settings": {"endpoint_url": endpoint, "storage_options": options}}
        client.close()
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"no server at port {port} after 30 s")


def s3_files(s3: dict[str, Any], prefix: str, **settings: Any) -> Files:
    return Files(Files.Config(root=f"s3://corpus/{prefix}", **s3["settings"], **settings))


@pytest.mark.server
class TestS3(ConnectorKit):
    s3: dict[str, Any]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def bucket(cls, s3: dict[str, Any]) -> None:
        cls.s3 = s3
        for key, data in (
            ("kit/a.jsonl", LINES), ("kit/d/b.jsonl.gz", gzip.compress(LINES, mtime=0)), ("kit/d/c.bin", b"\0\1\2"),
            ("kit/d/", b""),
        ):  # fmt: skip
            s3["client"].put_object(Bucket="corpus", Key=key, Body=data)

    def make(self) -> Connector:
        return s3_files(self.s3, "kit", divide_bytes=1 << 20)


@pytest.mark.server
def test_objects_are_listed_pinned_by_etag_and_read(s3: dict[str, Any]) -> None:
    s3["client"].put_object(Bucket="corpus", Key="plain/x/a.jsonl", Body=LINES)
    connector = s3_files(s3, "plain", divide_bytes=400_000)
    splits = list(connector.splits())
    assert splits[0].id == "x/a.jsonl#bytes=0-400000"
    assert all(split.pin and split.pin.startswith("etag:") for split in splits)
    assert lines_of(connector) == LINES
    assert connector.describe() == "files s3://corpus/plain"


@pytest.mark.server
def test_an_object_replaced_since_planning_is_refused(s3: dict[str, Any]) -> None:
    s3["client"].put_object(Bucket="corpus", Key="changed/a.bin", Body=b"\0one")
    connector = s3_files(s3, "changed")
    (split,) = connector.splits()
    (item,) = connector.read(split, None)
    assert isinstance(item, Item)
    s3["client"].put_object(Bucket="corpus", Key="changed/a.bin", Body=b"\0two")
    with pytest.raises(SourceChanged):
        list(connector.read(split, None))
    with pytest.raises(SourceChanged):
        item.data.read()
    s3["client"].delete_object(Bucket="corpus", Key="changed/a.bin")
    with pytest.raises(SourceChanged, match="missing"):
        list(connector.read(split, None))


@pytest.mark.server
def test_an_object_replaced_while_it_is_read_is_refused(s3: dict[str, Any]) -> None:
    body = LINES * 12
    s3["client"].put_object(Bucket="corpus", Key="during/a.jsonl", Body=body)
    connector = s3_files(s3, "during")
    split, *_ = connector.splits()
    reads = connector.read(split, None)
    next(reads)
    s3["client"].put_object(Bucket="corpus", Key="during/a.jsonl", Body=body.replace(b'"n":1', b'"n":2'))
    with pytest.raises(SourceChanged):
        list(reads)


@pytest.mark.server
def test_archives_in_a_bucket_are_opened(s3: dict[str, Any]) -> None:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.txt", "hello")
        archive.writestr("b.jsonl", '{"a":1}\n')
    s3["client"].put_object(Bucket="corpus", Key="zip/a.zip", Body=buffer.getvalue())
    connector = s3_files(s3, "zip")
    (split,) = connector.splits()
    first, second = connector.read(split, None)
    assert first.data.read() == b"hello"
    assert second.data.num_rows == 1


@pytest.mark.server
def test_an_empty_prefix_is_a_configuration_error(s3: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        list(s3_files(s3, "nothing-here").splits())


def test_an_unreachable_server_is_a_source_error() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    options = {"key": "k", "secret": "s", "config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}}}
    config = Files.Config(root="s3://b/p", endpoint_url=endpoint, storage_options={**options, "max_concurrency": 1})
    started = time.monotonic()
    with pytest.raises(SourceError):
        list(Files(config).splits())
    assert time.monotonic() - started < 30


# -- memory -----------------------------------------------------------------------------------------------------------


def test_memory_files_are_read_and_pinned() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/headrace-test/a.jsonl", b'{"a":1}\n')
    connector = Files(Files.Config(root="memory://headrace-test"))
    (split,) = connector.splits()
    assert len(list(connector.read(split, None))) == 1
    time.sleep(0.01)
    fs.pipe("/headrace-test/a.jsonl", b'{"a":2}\n')
    with pytest.raises(SourceChanged):
        list(connector.read(split, None))
    fs.rm("/headrace-test", recursive=True)


def test_an_unknown_kind_of_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError):
        list(Files(Files.Config(root="nosuch://x/y")).splits())


# -- http -------------------------------------------------------------------------------------------------------------
