"""Files on web servers: ranges, ETags, redirects, and servers that misbehave."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import DEVNULL
from typing import Any
from urllib.parse import urlsplit

import pytest

from headrace.connectors.contract import Broken, Connector, Item
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


class Handler(http.server.SimpleHTTPRequestHandler):
    """A server of files with ETags and ranges, and with faults on demand."""

    faults: dict[str, Any] = {}

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        faults = self.faults
        faults.setdefault("log", []).append(
            (self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        if faults.get("busy", 0) > 0:
            faults["busy"] -= 1
            self.send_response(503)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        if faults.get("redirect") and self.path == "/a.bin":
            self.send_response(302)
            self.send_header("Location", faults["redirect"])
            self.end_headers()
            return
        if faults.get("no_head") and not body:
            self.send_error(405)
            return
        try:
            data = Path(self.translate_path(self.path)).read_bytes()
        except OSError:
            self.send_error(404)
            return
        etag = f'"{hash(data)}"'
        if self.headers.get("If-Match") not in (None, etag):
            self.send_error(412)
            return
        span, status = data, 200
        asked = self.headers.get("Range")
        if asked and not faults.get("no_ranges"):
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            span, status = data[int(begin) : int(end) + 1 if end else None], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(span)))
        self.send_header("TDM-Reservation", "0")
        if not faults.get("no_etag"):
            self.send_header("ETag", etag)
        if status == 206:
            begin = int(begin) + faults.get("shifted", 0)
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(span) - 1}/{len(data)}")
        self.end_headers()
        if body:
            drop = faults.get("drop")
            self.wfile.write(span if drop is None else span[:drop])
            if drop is not None and drop < len(span):
                self.close_connection = True
                with contextlib.suppress(OSError):  # the client may have gone first
                    self.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(folder: Path, handler: type[Handler] = Handler) -> Iterator[str]:
    """A server of the folder; gives its root URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """(root URL, folder, faults) of a running server."""
    Handler.faults = {}
    with serving(tmp_path) as root:
        yield root, tmp_path, Handler.faults


def web_files(root: str, *urls: str, **settings: Any) -> Files:
    return Files(Files.Config(root=root, urls=urls, **settings))


@pytest.mark.server
class TestHttp(ConnectorKit):
    """Against the server of the standard library, as it is: no ETags, no ranges."""

    root: str

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        folder = tmp_path_factory.mktemp("web")
        (folder / "a.jsonl").write_bytes(LINES)
        (folder / "b.bin").write_bytes(b"\0\1\2")
        command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "-d", str(folder), "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=DEVNULL, text=True)
        assert server.stdout is not None
        said = server.stdout.readline()
        cls.root = f"http://127.0.0.1:{said.split(' port ')[1].split()[0]}/"
        yield
        server.terminate()
        server.wait(20)
        server.stdout.close()

    def make(self) -> Connector:
        return web_files(self.root, "a.jsonl", "b.bin", divide_bytes=1 << 20)


@pytest.mark.server
@pytest.mark.parametrize(
    "faults",
    [
        {}, {"drop": 200_000}, {"busy": 3}, {"no_ranges": True}, {"no_etag": True}, {"no_head": True},
        {"no_etag": True, "drop": 300_000},
    ],
)  # fmt: skip
def test_a_file_arrives_whole_whatever_the_server_does(
    web: tuple[str, Path, dict[str, Any]], faults: dict[str, Any]
) -> None:
    root, folder, active = web
    (folder / "d").mkdir()
    (folder / "d" / "a b.jsonl").write_bytes(LINES)
    active.update(faults)
    connector = web_files(root, "d/a b.jsonl")
    assert lines_of(connector) == LINES
    (split,) = connector.splits()
    assert split.id == "d/a b.jsonl"


@pytest.mark.server
def test_a_server_that_always_breaks_off_is_a_source_error(
    web: tuple[str, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.connectors import http_store

    monkeypatch.setattr(http_store, "_WAITS_S", (0, 0, 0, 0))
    root, folder, faults = web
    (folder / "a.jsonl").write_bytes(LINES)
    connector = web_files(root, "a.jsonl")
    splits = list(connector.splits())
    for fault in ({"drop": 0}, {"busy": 99}):
        faults.update(fault)
        with pytest.raises(SourceError) as raised:
            list(connector.read(splits[0], None))
        assert not isinstance(raised.value, SourceChanged)


@pytest.mark.server
def test_a_server_that_sends_another_range_than_was_asked_is_not_believed(
    web: tuple[str, Path, dict[str, Any]],
) -> None:
    root, folder, faults = web
    (folder / "a.jsonl").write_bytes(LINES)
    connector = web_files(root, "a.jsonl")
    (split,) = connector.splits()
    faults.update(drop=300_000, shifted=7)
    with pytest.raises(SourceError, match="the server sent from"):
        list(connector.read(split, None))


@pytest.mark.server
def test_a_file_replaced_between_two_pieces_is_not_joined(web: tuple[str, Path, dict[str, Any]]) -> None:
    root, folder, faults = web
    (folder / "a.jsonl").write_bytes(LINES)
    connector = web_files(root, "a.jsonl")
    (split,) = connector.splits()
    faults["drop"] = 1_200_000
    reads = connector.read(split, None)
    next(reads)
    (folder / "a.jsonl").write_bytes(LINES.replace(b"1", b"2"))
    with pytest.raises(SourceChanged):
        list(reads)
    with pytest.raises(SourceChanged):
        list(connector.read(split, None))


@pytest.mark.server
def test_a_missing_file_is_told_and_the_others_arrive(web: tuple[str, Path, dict[str, Any]]) -> None:
    root, folder, _ = web
    (folder / "a.bin").write_bytes(b"\0here")
    connector = web_files(root, "absent.bin", "a.bin")
    reads = {split.id: next(iter(connector.read(split, None))) for split in connector.splits()}
    assert isinstance(reads["absent.bin"], Broken) and "404" in reads["absent.bin"].message
    item = reads["a.bin"]
    assert isinstance(item, Item) and item.data.read() == b"\0here"
    assert item.headers["uri"] == root + "a.bin" and '"tdm-reservation":"0"' in item.headers["rights"]


@pytest.mark.server
def test_archives_are_read_from_servers_with_and_without_ranges(web: tuple[str, Path, dict[str, Any]]) -> None:
    import zipfile

    root, folder, faults = web
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(20):
            archive.writestr(f"{n}.bin", os.urandom(100_000))
    for no_ranges in (False, True):
        faults.update(no_ranges=no_ranges, log=[])
        connector = web_files(root, "a.zip")
        (split,) = connector.splits()
        sizes = [read.data.size for read in connector.read(split, None)]
        assert sizes == [100_000] * 20
        if no_ranges:
            whole = [entry for entry in faults["log"] if entry[0] == "GET"]
            assert len(whole) <= 4, "a server without ranges is asked for the file once, then it is kept"


@pytest.mark.server
def test_a_redirect_to_a_private_host_is_refused(web: tuple[str, Path, dict[str, Any]]) -> None:
    root, folder, faults = web
    (folder / "a.bin").write_bytes(b"\0")
    (folder / "secret.bin").write_bytes(b"\0secret")
    port = urlsplit(root).port
    # The pipeline names 127.0.0.1, so that host is trusted; the same machine under another name is not.
    for target in (f"http://localhost:{port}/secret.bin", "file:///etc/passwd", "ftp://127.0.0.1/x"):
        faults.clear()
        connector = web_files(root, "a.bin")
        (planned,) = connector.splits()
        faults["redirect"] = target
        (split,) = connector.splits()
        (told,) = connector.read(split, None)
        assert isinstance(told, Broken) and told.reason == "external_reference" and told.data is None
        with pytest.raises(SourceError):
            list(connector.read(planned, None))
    # The same redirect within the trusted host is followed.
    faults["redirect"] = root + "secret.bin"
    (split,) = web_files(root, "a.bin").splits()
    (item,) = web_files(root, "a.bin").read(split, None)
    assert isinstance(item, Item) and item.data.read() == b"\0secret"


@pytest.mark.server
def test_a_password_stays_with_its_server(web: tuple[str, Path, dict[str, Any]]) -> None:
    root, folder, faults = web
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(b"\0" + name.encode())

    class Other(Handler):
        faults: dict[str, Any] = {}

    with serving(folder, Other) as elsewhere:
        for target in (root, elsewhere):
            faults.clear()
            faults["redirect"] = target + "b.bin"
            list(web_files(root.replace("//", "//me:secret@"), "a.bin").splits())
            told = [entry[3] for entry in faults["log"]]
            assert told and all(login.startswith("Basic ") for login in told)
        assert Other.faults["log"]
        assert not any(e[3] for e in Other.faults["log"]), "another server was told the password"


@pytest.mark.parametrize("url", ["../a", "/etc/passwd", "https://other/x", "//other/x", "a/../../b", "file:///x", ""])
def test_urls_outside_the_root_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        list(web_files("http://127.0.0.1:1/data/", url).splits())


@pytest.mark.server
def test_signatures_and_passwords_stand_in_no_id_and_are_used(web: tuple[str, Path, dict[str, Any]]) -> None:
    root, folder, faults = web
    (folder / "a.bin").write_bytes(b"\0x")
    connector = web_files(root.replace("http://", "http://user:pass%21@"), "a.bin?signature=canary")
    (split,) = connector.splits()
    (item,) = connector.read(split, None)
    assert isinstance(item, Item)
    said = f"{split} {item} {connector.describe()} {item.headers} {connector.config!r}"
    assert "canary" not in said and split.id == "a.bin"
    assert all("signature=canary" in path for _, path, *_ in faults["log"])
