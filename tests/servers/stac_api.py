"""A small STAC API on loopback, for tests: search with paging over items that grow, and their files in ranges.

    with StacApi() as api:
        api.add(*chips(corpus))            items of real Sentinel-2 chips, and the files they name
        api.url                            the root: GET and POST /search, /collections/<id>
        api.static_url                     the same items as a static catalog

It is a process of its own, so that it can be killed; what it serves outlives that. Searches know ids, collections,
bbox, datetime, `query` and comparisons in CQL2-JSON, and answer newest first, by tokens. `pystac` checks what it gives.
"""

from __future__ import annotations

import json
import operator
import re
import sys
import threading
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from .http_api import ROOT, RUN
from .process import ServerProcess, free_port

BANDS = (
    "coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "swir16",
    "swir22",
)  # fmt: skip
PLACES = ("282D_485L_3_3", "38D_378R_2_3", "609U_541L_3_0", "637U_59R_1_3")


class StacApi(ServerProcess):
    """The API in a process of its own."""

    def __init__(self) -> None:
        super().__init__("stac-api")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/stac"
        self.static_url = f"http://127.0.0.1:{self.port}/static/catalog.json"
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start, or start again."""
        command = [sys.executable, "-c", RUN, ROOT, "tests.servers.stac_api", str(self.port), str(self.folder)]
        self.launch(command, lambda: self._control({"do": "nothing"}) is not None)

    def add(self, *items: dict[str, Any]) -> None:
        """Add items, or replace those of the same collection and id. `{root}` in hrefs becomes the server's address."""
        self._control({"do": "add", "items": items})

    def clear(self) -> None:
        """No items and no settings."""
        self._control({"do": "clear"})

    def settings(self, **settings: Any) -> None:
        """token, status, headers (of every answer), methods (offered for search), next (where pages lead)."""
        self._control({"do": "settings", "settings": settings})

    def asked(self) -> list[str]:
        """`METHOD path body` of the requests since the process began."""
        answer: list[str] = self._control({"do": "asked"})
        return answer

    def _control(self, what: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control", json.dumps(what).encode())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.loads(answer.read())


def chips(corpus: Path, *, collection: str = "chips") -> list[dict[str, Any]]:
    """Items of the corpus's Sentinel-2 chips: twelve bands in one file, elevation and land cover in one each."""
    import rasterio
    from rasterio.warp import transform_bounds

    out = []
    for n, place in enumerate(PLACES):
        path = corpus / "raster" / "terramind" / "S2L2A" / f"{place}.tif"
        with rasterio.open(path) as dataset:
            west, south, east, north = transform_bounds(dataset.crs, "OGC:CRS84", *dataset.bounds)
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        bands = [{"name": f"S2-{name}", "common_name": name} for name in BANDS]
        out.append({
            "type": "Feature", "stac_version": "1.0.0", "id": f"chip-{place}", "collection": collection,
            "stac_extensions": ["https://stac-extensions.github.io/eo/v1.1.0/schema.json"],
            "bbox": [west, south, east, north], "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "datetime": f"2024-0{n + 1}-15T10:00:00Z", "updated": "2024-06-01T00:00:00Z", "eo:cloud_cover": 20 * n,
            },
            "links": [],
            "assets": {
                "s2": _asset(path, roles=["data"], **{"eo:bands": bands}),
                "dem": _asset(path.parents[1] / "DEM" / f"{place}.tif", roles=["data"]),
                "lulc": _asset(path.parents[1] / "LULC" / f"{place}.tif", roles=["data"]),
                "look": _asset(path.parents[1] / "S2RGB" / f"{place}.tif", roles=["thumbnail"]),
            },
        })  # fmt: skip
    return out


def _asset(path: Path, **more: Any) -> dict[str, Any]:
    return {"href": f"{{root}}/files{path}", "type": "image/tiff; application=geotiff", **more}


# -- the process ------------------------------------------------------------------------------------------------------


class _State:
    """What is served, kept in a file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.json"
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.items: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        if self._file.exists():
            self.items, self.settings = json.loads(self._file.read_text())

    def control(self, what: dict[str, Any]) -> Any:
        with self.lock:
            match what["do"]:
                case "add":
                    new = {(i["collection"], i["id"]) for i in what["items"]}
                    self.items = [i for i in self.items if (i["collection"], i["id"]) not in new] + what["items"]
                case "clear":
                    self.items, self.settings = [], {}
                case "settings":
                    self.settings = what["settings"]
                case "asked":
                    return self.asked
            self._file.write_text(json.dumps([self.items, self.settings]))
        return True


class _Handler(BaseHTTPRequestHandler):
    state: ClassVar[_State]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are kept."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/control":
            self._send(self.state.control(json.loads(body)))
        else:
            self._serve(json.loads(body), body.decode())

    def do_GET(self) -> None:
        self._serve(None, "")

    do_HEAD = do_GET

    def _serve(self, body: Any, said: str) -> None:
        state, parts = self.state, urlsplit(self.path)
        with state.lock:
            state.asked.append(f"{self.command} {self.path} {said}")
            items, settings = json.loads(json.dumps(state.items)), dict(state.settings)
        self.root = f"http://{self.headers['Host']}"  # so that what stands before it is named by what it says
        self.extra = settings.get("headers", {})
        path = parts.path.rstrip("/")
        if settings.get("token") and self.headers.get("Authorization") != f"Bearer {settings['token']}" \
                and not path.startswith("/files"):  # fmt: skip
            self._send({"code": "who are you?"}, 401)
        elif settings.get("status"):
            self._send({"code": "no"}, settings["status"])
        elif path == "/stac":
            self._send(self._landing(settings))
        elif path == "/stac/search":
            query = body if body is not None else _from_query(dict(parse_qsl(parts.query)))
            self._send(self._search(items, query, settings))
        elif path.startswith("/stac/collections/"):
            self._send(self._collection(unquote(path.rsplit("/", 1)[1])))
        elif path.startswith("/static/"):
            self._static(path, items)
        elif path.startswith("/files/"):
            self._file(Path(unquote(path[len("/files") :])))
        else:
            self._send({"code": "no such path"}, 404)

    def _landing(self, settings: dict[str, Any]) -> dict[str, Any]:
        search = [
            {"rel": "search", "type": "application/geo+json", "href": f"{self.root}/stac/search", "method": method}
            for method in settings.get("methods", ["GET", "POST"])
        ]
        own = [{"rel": rel, "type": "application/json", "href": f"{self.root}/stac"} for rel in ("self", "root")]
        return {
            "type": "Catalog", "stac_version": "1.0.0", "id": "test", "description": "chips", "links": [*own, *search],
            "conformsTo": [
                "https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search",
                "https://api.stacspec.org/v1.0.0/item-search#query", "https://api.stacspec.org/v1.0.0/item-search#filter",
            ],
        }  # fmt: skip

    def _collection(self, id: str) -> dict[str, Any]:
        return {
            "type": "Collection", "stac_version": "1.0.0", "id": id, "description": id, "license": "CC-BY-4.0",
            "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
            "providers": [{"name": "ESA", "roles": ["producer"]}], "links": [],
        }  # fmt: skip

    def _full(self, item: dict[str, Any], own: str) -> dict[str, Any]:
        item = json.loads(json.dumps(item).replace("{root}", self.root))
        collection = f"{self.root}/stac/collections/{item['collection']}"
        if "/static/" in own:
            collection = own.rsplit("/", 1)[0] + "/collection.json"
        item["links"] += [
            {"rel": "self", "type": "application/geo+json", "href": own},
            {"rel": "collection", "type": "application/json", "href": collection},
            {"rel": "license", "type": "text/html", "href": "https://creativecommons.org/licenses/by/4.0/"},
        ]
        return item

    def _search(self, items: list[dict[str, Any]], query: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        found = sorted((i for i in items if _matches(i, query)), key=lambda i: (_at(i), i["id"]), reverse=True)
        begin, limit = int(query.get("token", 0)), int(query.get("limit", 10))
        links = []
        if begin + limit < len(found):
            href, token = f"{settings.get('next', self.root)}/stac/search", str(begin + limit)
            if self.command == "POST":
                links = [{"rel": "next", "href": href, "method": "POST", "body": {"token": token}, "merge": True}]
            else:
                said = {**dict(parse_qsl(urlsplit(self.path).query)), "token": token}
                links = [{"rel": "next", "href": f"{href}?{urlencode(said)}"}]
        url = f"{self.root}/stac/collections/"
        features = [self._full(i, f"{url}{i['collection']}/items/{i['id']}") for i in found[begin : begin + limit]]
        return {"type": "FeatureCollection", "features": features, "links": links}

    def _static(self, path: str, items: list[dict[str, Any]]) -> None:
        names = {f"/static/{i['collection']}/{i['id']}.json": i for i in items}
        if path == "/static/catalog.json":
            collections = sorted({i["collection"] for i in items})
            links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in collections]
            self._send({"type": "Catalog", "stac_version": "1.0.0", "id": "s", "description": "s", "links": links})
        elif path.endswith("/collection.json"):
            folder = path.rsplit("/", 1)[0]
            inside = [name for name in names if name.startswith(folder + "/")]
            links = [{"rel": "item", "href": "./" + name.rsplit("/", 1)[1]} for name in inside]
            links.append({"rel": "root", "href": "../catalog.json"})
            self._send({**self._collection(folder.rsplit("/", 1)[1]), "links": links})
        elif path in names:
            self._send(self._full(names[path], f"{self.root}{path}"))
        else:
            self._send({"code": "no such path"}, 404)

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._send({"code": "no such file"}, 404)
            return
        there = path.stat()
        size, etag = there.st_size, f'"{there.st_size:x}-{there.st_mtime_ns:x}"'
        if self.headers.get("If-Match") not in (None, etag):
            self._send({"code": "changed"}, 412)
            return
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "image/tiff"}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        begin, end, status = 0, size - 1, 200
        if found:
            begin, end, status = int(found[1]), min(int(found[2] or size), size - 1), 206
            headers["Content-Range"] = f"bytes {begin}-{end}/{size}"
        headers["Content-Length"] = str(end + 1 - begin)
        with path.open("rb") as stream:
            stream.seek(begin)
            self._bytes(status, b"" if self.command == "HEAD" else stream.read(end + 1 - begin), headers)

    def _send(self, document: Any, status: int = 200) -> None:
        self._bytes(status, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _bytes(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, **getattr(self, "extra", {})}.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _from_query(said: dict[str, str]) -> dict[str, Any]:
    """The parameters of GET as the body of POST has them."""
    out: dict[str, Any] = dict(said)
    for name in ("ids", "collections"):
        if name in said:
            out[name] = said[name].split(",")
    if "bbox" in said:
        out["bbox"] = [float(v) for v in said["bbox"].split(",")]
    for name in ("query", "filter"):
        if name in said:
            out[name] = json.loads(said[name])
    return out


def _at(item: dict[str, Any]) -> str:
    return str(item["properties"]["datetime"])


def _matches(item: dict[str, Any], query: dict[str, Any]) -> bool:
    if "ids" in query and item["id"] not in query["ids"]:
        return False
    if "collections" in query and item["collection"] not in query["collections"]:
        return False
    if "bbox" in query:
        (w, s, e, n), (west, south, east, north) = query["bbox"], item["bbox"]
        if west > e or east < w or south > n or north < s:
            return False
    if "datetime" in query:
        low, slash, high = query["datetime"].partition("/")
        high = high if slash else low
        if (low != ".." and _at(item) < low) or (high != ".." and _at(item) > high):
            return False
    tests = [(name, op, value) for name, said in query.get("query", {}).items() for op, value in said.items()]
    if "filter" in query:
        what = query["filter"]
        tests.append((what["args"][0]["property"], {"<=": "lte", ">=": "gte", "=": "eq"}[what["op"]], what["args"][1]))
    return all(_compare(item["properties"].get(name), op, value) for name, op, value in tests)


def _compare(there: Any, op: str, value: Any) -> bool:
    if there is None:
        return False
    tests = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge, "eq": operator.eq}
    return bool(tests[op](there, value))


def main(port: str, folder: str) -> None:
    """Serve until the process ends."""
    _Handler.state = _State(Path(folder))
    ThreadingHTTPServer(("127.0.0.1", int(port)), _Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
