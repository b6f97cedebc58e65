"""A real HTTP API on loopback, for tests: a process that can be killed, and started again on the same data and port.

    with HttpApi() as api:
        api.add(*readings(5))                  GET /observations gives them, by pages, filtered by `since`
        api.serve("/feed", body, "application/rss+xml")      any path, any bytes, any status and headers
        api.asked()                            (path with query, headers) of the requests so far

`/observations` takes `since` (ISO 8601 or an id), `limit` and `page`, and answers
`{"data": […], "links": {"next": …}}` with an ETag, a Link header, and 304 where the ETag is known.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from .process import ServerProcess, free_port

#: Starts this file as a process of its own: its relative imports need the package around it.
RUN = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), run_name='__main__')"
ROOT = str(Path(__file__).parents[2])


class HttpApi(ServerProcess):
    """The API in a process of its own; what it serves outlives a kill."""

    def __init__(self) -> None:
        super().__init__("http-api")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start, or start again."""
        command = [sys.executable, "-c", RUN, ROOT, "tests.servers.http_api", str(self.port), str(self.folder)]
        self.launch(command, lambda: self._control({"do": "nothing"}) is not None)

    def add(self, *elements: Any) -> None:
        """Elements of /observations, behind those there are."""
        self._control({"do": "add", "elements": elements})

    def replace(self, elements: Sequence[Any]) -> None:
        """All elements of /observations."""
        self._control({"do": "replace", "elements": elements})

    def settings(self, **settings: Any) -> None:
        """token (asked for), page (elements of a page), next (link, pointer), gzip, status, headers."""
        self._control({"do": "settings", "settings": settings})

    def serve(
        self, path: str, body: bytes, media_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """A path with fixed bytes."""
        said = {"Content-Type": media_type, **(headers or {})}
        encoded = base64.b64encode(body).decode()
        self._control({"do": "serve", "path": path, "body": encoded, "status": status, "headers": said})

    def asked(self) -> list[tuple[str, dict[str, str]]]:
        """The requests since the process began."""
        return [(path, headers) for path, headers in self._control({"do": "asked"})]

    def _control(self, what: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.url}/control", json.dumps(what).encode(), method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.loads(answer.read())


def readings(count: int, first: int = 0, *, begin: int = 1_700_000_000, step_s: int = 60) -> list[dict[str, Any]]:
    """Readings of a gauge, a minute apart."""
    out = []
    for n in range(first, first + count):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin + n * step_s))
        out.append({"id": f"r{n}", "at": at, "level": n / 8})
    return out


# -- the process ------------------------------------------------------------------------------------------------------


class _State:
    """What is served, kept in a file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.json"
        self.lock = threading.Lock()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.value: dict[str, Any] = {"elements": [], "settings": {}, "paths": {}}
        if self._file.exists():
            self.value = json.loads(self._file.read_text())

    def control(self, what: dict[str, Any]) -> Any:
        with self.lock:
            match what["do"]:
                case "add":
                    self.value["elements"] += what["elements"]
                case "replace":
                    self.value["elements"] = what["elements"]
                case "settings":
                    self.value["settings"] = what["settings"]
                case "serve":
                    self.value["paths"][what["path"]] = {n: what[n] for n in ("body", "status", "headers")}
                case "asked":
                    return self.asked
            self._file.write_text(json.dumps(self.value))
        return True


class _Handler(BaseHTTPRequestHandler):
    state: ClassVar[_State]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are kept."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, json.dumps(self.state.control(json.loads(body))).encode(), {})

    def do_GET(self) -> None:
        state = self.state
        with state.lock:
            state.asked.append((self.path, dict(self.headers)))
            value = json.loads(json.dumps(state.value))
        settings, parts = value["settings"], urlsplit(self.path)
        if settings.get("token") and self.headers.get("Authorization") != f"Bearer {settings['token']}":
            self._answer(401, b'{"error": "who are you?"}', {})
        elif settings.get("status"):
            said = settings.get("body", "no").encode()
            self._answer(settings["status"], said, settings.get("headers", {}))
        elif parts.path in value["paths"]:
            fixed = value["paths"][parts.path]
            self._answer(fixed["status"], base64.b64decode(fixed["body"]), fixed["headers"])
        elif parts.path == "/observations":
            self._observations(value["elements"], settings, dict(parse_qsl(parts.query)))
        else:
            self._answer(404, b"no such path", {})

    def _observations(self, elements: list[Any], settings: dict[str, Any], query: dict[str, str]) -> None:
        since = query.get("since")
        if since is not None:
            ids = [e.get("id") for e in elements]
            if since in ids:
                elements = elements[ids.index(since) + 1 :]
            else:
                elements = [e for e in elements if (e.get("at") or "9") >= since]
        size, page = int(settings.get("page", 1000)), int(query.get("page", 0))
        document: dict[str, Any] = {"data": elements[page * size : (page + 1) * size], "links": {}}
        headers = {"Content-Type": "application/json"}
        if (page + 1) * size < len(elements):
            target = f"/observations?{urlencode({**query, 'page': page + 1})}"
            if settings.get("next", "link") == "link":
                headers["Link"] = f'<{target}>; rel="next"'
            document["links"] = {"next": {"href": target}}
        body = json.dumps(document).encode()
        headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if self.headers.get("If-None-Match") == headers["ETag"]:
            self._answer(304, b"", {"ETag": headers["ETag"]})
            return
        if settings.get("gzip"):
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        self._answer(200, body, headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304 and "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    port, folder = sys.argv[1:]
    _Handler.state = _State(Path(folder))
    ThreadingHTTPServer(("127.0.0.1", int(port)), _Handler).serve_forever()


if __name__ == "__main__":
    main()
