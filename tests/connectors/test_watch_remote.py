"""Watched URLs and object-store prefixes, on a real web server and a real S3-compatible server on loopback."""

from __future__ import annotations

import functools
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest

from headrace.schemas.errors import SourceError

from .watching import Clock, listed, watched

# -- URLs -------------------------------------------------------------------------------------------------------------


def test_a_url_that_is_not_there_yet_is_no_bad_record(tmp_path: Path) -> None:
    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    clock = Clock()
    connector = watched(f"http://127.0.0.1:{server.server_port}/", clock, urls=["a.txt", "b.txt"])
    try:
        (tmp_path / "a.txt").write_text("x")
        assert listed(connector) == []
        clock.now += 6
        assert listed(connector) == ["a.txt"]
        (tmp_path / "b.txt").write_text("x")
        assert listed(connector) == ["a.txt"]
        clock.now += 6
        assert listed(connector) == ["a.txt", "b.txt"]
        heads = Quiet.asked
        assert listed(connector) == ["a.txt", "b.txt"] and Quiet.asked == heads
    finally:
        connector.close()
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked = 0

    def log_message(self, *args: Any) -> None:
        Quiet.asked += 1


# -- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Settings of a running S3-compatible server with one bucket."""
    boto3 = pytest.importorskip("boto3", reason="the package moto[server] is the S3 server of the tests")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    server = subprocess.Popen([*command, "-H", "127.0.0.1", "-p", str(port)], stdout=DEVNULL, stderr=DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        endpoint = f"http://127.0.0.1:{port}"
        session = boto3.session.Session("test", "test", region_name="us-east-1")
        client = session.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="drop")
        options = {"key": "test", "secret": "test", "client_kwargs": {"region_name": "us-east-1"}}
        yield {"client": client, "settings": {"endpoint_url": endpoint, "storage_options": options}}
        client.close()
    finally:
        server.terminate()
        server.wait(20)


def put(s3: dict[str, Any], key: str, body: bytes = b"text") -> None:
    s3["client"].put_object(Bucket="drop", Key=key, Body=body)


@pytest.mark.server
def test_a_prefix_may_begin_empty_and_objects_are_whole_when_they_appear(s3: dict[str, Any]) -> None:
    connector = watched("s3://drop/first", **s3["settings"])
    assert listed(connector) == []
    put(s3, "first/a.txt")
    assert listed(connector) == ["a.txt"]
    upload = s3["client"].create_multipart_upload(Bucket="drop", Key="first/big")["UploadId"]
    part = s3["client"].upload_part(Bucket="drop", Key="first/big", UploadId=upload, PartNumber=1, Body=b"x" * 100)
    assert listed(connector) == ["a.txt"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3["client"].complete_multipart_upload(Bucket="drop", Key="first/big", UploadId=upload, MultipartUpload=parts)
    assert listed(connector) == ["a.txt", "big"]
    connector.close()


@pytest.mark.server
def test_a_bucket_that_is_not_there_is_not_an_empty_prefix(s3: dict[str, Any]) -> None:
    with pytest.raises(SourceError):
        listed(watched("s3://no-such-bucket/x", **s3["settings"]))


@pytest.mark.server
def test_a_long_prefix_is_listed_to_its_end(s3: dict[str, Any]) -> None:
    for number in range(1005):  # a page holds a thousand
        put(s3, f"long/{number:05}.txt")
    connector = watched("s3://drop/long", **s3["settings"])
    assert len(listed(connector)) == 1005
    put(s3, "long/00000a.txt")
    assert len(listed(connector)) == 1006
    connector.close()


@pytest.mark.server
def test_ordered_names_are_listed_from_the_last_on_and_strays_at_the_next_full_pass(s3: dict[str, Any]) -> None:
    clock = Clock()
    watch = {"ordered_names": True, "recheck": "10m"}
    connector = watched("s3://drop/ordered", clock, watch=watch, **s3["settings"])
    plain = watched("s3://drop/ordered", clock, **s3["settings"])
    assert listed(connector) == []
    for number in (1, 2, 3):
        put(s3, f"ordered/{number}.txt")
    assert listed(connector) == ["1.txt", "2.txt", "3.txt"]
    asked: list[Any] = []
    fs = connector._store._fs  # type: ignore[attr-defined]
    original = fs.call_s3
    fs.call_s3 = lambda *args, **kwargs: asked.append(kwargs) or original(*args, **kwargs)
    put(s3, "ordered/4.txt")
    put(s3, "ordered/0-stray.txt")
    assert listed(connector) == ["1.txt", "2.txt", "3.txt", "4.txt"]
    assert asked[-1]["StartAfter"] == "ordered/3.txt"
    clock.now += 601
    assert list(connector.splits()) == list(plain.splits())
    assert "0-stray.txt" in listed(connector)
    connector.close()
    plain.close()
