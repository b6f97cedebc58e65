"""The JSON API over real HTTP, against a real dataset: it says what the dataset holds, and its description is true."""

from __future__ import annotations

import http.client
import io
import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jsonschema
import numpy as np
import pytest

from headrace.ingest import status_openapi
from headrace.ingest.render import quicklook, to_rgb
from headrace.ingest.status_app import routes
from headrace.ingest.status_server import StatusServer
from headrace.ingest.view import Address, DatasetView
from headrace.schemas.record import payload_views

from .test_status_world import LogService, built, until

DOCS = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


class Client:
    """Asks one server; a reply is (status, headers, body)."""

    def __init__(self, url: str) -> None:
        self.netloc = urlsplit(url).netloc

    def ask(
        self, path: str, method: str = "GET", *, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent = {"content-type": "application/json", **sent}
        connection = http.client.HTTPConnection(self.netloc, timeout=20)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, sent)
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, headers, body = self.ask(path)
        assert status == 200, body
        assert headers["content-type"] == "application/json"
        return json.loads(body)

    def do(self, path: str, method: str = "POST", body: Any = None) -> tuple[int, Any]:
        status, _, answer = self.ask(path, method, body=body, x_headrace="1")
        return status, json.loads(answer)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> LogService:
    return LogService(built(tmp_path_factory))


@pytest.fixture
def service(running: LogService) -> LogService:
    return running.fresh()


def serving(service: LogService, token: str | None = None) -> Iterator[Client]:
    with StatusServer(service, "127.0.0.1", 0, token) as server:
        client = Client(server.start())
        until(lambda: client.ask("/readyz")[0] == 200)
        yield client


@pytest.fixture(scope="module")
def serving_one(running: LogService) -> Iterator[Client]:
    yield from serving(running)


@pytest.fixture
def client(serving_one: Client, service: LogService) -> Client:
    return serving_one


def fits(shape: str, value: Any) -> None:
    """Demand that a value has the shape that the OpenAPI document gives it, and no more."""
    document = json.loads(json.dumps(status_openapi.document()).replace("#/components/schemas/", "#/$defs/"))
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{shape}", "$defs": schemas}).validate(value)


# ---- the description ----


def test_the_published_document_is_the_one_the_code_makes() -> None:
    assert DOCS.read_text(encoding="utf-8") == status_openapi.text(), (
        "run `python -m headrace.ingest.status_openapi > docs/openapi.json`"
    )


def test_the_document_is_valid_openapi() -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="pip install openapi-spec-validator")
    validator.validate(status_openapi.document())


def test_every_route_of_the_api_is_described_and_nothing_else() -> None:
    served = set()
    for route in routes():
        path = route.path.replace(":int", "")
        if path.startswith("/api/") or path in ("/healthz", "/readyz", "/metrics"):
            served |= {(method.lower(), path) for method in (route.methods or set()) - {"HEAD"}}
    assert served == {(operation.method, operation.path) for operation in status_openapi.OPERATIONS}


def test_answers_have_the_shapes_that_the_document_gives_them(client: Client) -> None:
    fits("ServiceStatus", client.get("/api/v1/status"))
    fits("StreamList", client.get("/api/v1/streams"))
    fits("StreamStatus", client.get("/api/v1/streams/tide"))
    fits("CommitList", client.get("/api/v1/commits?limit=2"))
    rows = client.get("/api/v1/quarantine")
    fits("QuarantineList", rows)
    fits("QuarantineLook", client.get(f"/api/v1/quarantine/{rows['rows'][0]['id']}"))
    fits("Health", client.get("/healthz"))
    fits("Readiness", client.get("/readyz"))
    for stream in ("bulletins", "camera", "film", "hydrophone", "tide", "scenes"):
        found = client.get(f"/api/v1/samples?stream={stream}&limit=2")
        fits("SampleList", found)
        fits("SampleLook", client.get(f"/api/v1/samples/{found['samples'][0]['address']}"))
    assert client.get("/api/v1/openapi.json") == json.loads(DOCS.read_text(encoding="utf-8"))
    fits("Problem", json.loads(client.ask("/api/v1/streams/nobody")[2]))


# ---- quarantine ----


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_pages_of_quarantine_hold_every_row_once_and_newest_first(client: Client, dataset: Path, limit: int) -> None:
    wanted = [
        (info.stream, row["uri"], row["locator"], row["reason"])
        for info, batch in DatasetView.open(str(dataset)).dataset.quarantine()
        for row in batch.to_pylist()
    ]
    seen, numbers, before = [], [], ""
    while before is not None:
        page = client.get(f"/api/v1/quarantine?limit={limit}&before={before}")
        assert page["total"] == len(wanted) and len(page["rows"]) <= limit
        assert len(seen) < len(wanted), "it goes round in circles"
        seen += [(r["stream"], r["uri"], r["locator"], r["reason"]) for r in page["rows"]]
        numbers += [r["number"] for r in page["rows"]]
        before = page["next"]
    assert seen == wanted[::-1]
    assert numbers == list(range(len(wanted)))[::-1]


def test_quarantine_is_filtered_by_reason_code_and_by_stream(client: Client) -> None:
    everything = client.get("/api/v1/quarantine")["rows"]
    for reason in {row["reason"] for row in everything} | {row["reason"].partition(":")[0] for row in everything}:
        found = client.get(f"/api/v1/quarantine?reason={reason}&stream=camera")
        wanted = [
            r["id"]
            for r in everything
            if r["stream"] == "camera" and reason in (r["reason"], r["reason"].partition(":")[0])
        ]
        assert [row["id"] for row in found["rows"]] == wanted and found["total"] == len(wanted)


def test_a_look_shows_the_bytes_of_the_file_and_never_more_than_allowed(client: Client, dataset: Path) -> None:
    row = next(r for r in client.get("/api/v1/quarantine")["rows"] if r["uri"].startswith("<img"))
    data = (dataset.parent / "in" / "camera" / row["uri"]).read_bytes()
    look = client.get(f"/api/v1/quarantine/{row['id']}")["bytes"]
    assert bytes.fromhex(look["hex"]) == data[: look["length"]] and look["kept"] == len(data)
    part = client.get(f"/api/v1/quarantine/{row['id']}?offset=8&length=8")["bytes"]
    assert part["text"] == "<script>" and bytes.fromhex(part["hex"]) == data[8:16]
    assert client.get(f"/api/v1/quarantine/{row['id']}?offset=999999")["bytes"]["length"] == 0
    assert client.ask(f"/api/v1/quarantine/{row['id']}?length=99999999")[0] == 400


@pytest.mark.parametrize("name", ["camera/nothing/0", "camera/..%2F..%2Fetc/0", "camera/x/-1", "camera/x/1e3"])
def test_a_row_that_does_not_exist_is_not_found(client: Client, name: str) -> None:
    assert client.ask(f"/api/v1/quarantine/{name}")[0] == 404


# ---- samples ----


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_pages_of_samples_hold_every_address_once_in_order(client: Client, dataset: Path, limit: int) -> None:
    wanted = [str(address) for address in DatasetView.open(str(dataset)).addresses("tide")]
    seen, after = [], ""
    while after is not None:
        page = client.get(f"/api/v1/samples?stream=tide&limit={limit}&after={after}")
        assert len(seen) < len(wanted), "it goes round in circles"
        seen += [row["address"] for row in page["samples"]]
        assert page["total"] == len(wanted)
        after = page["next"]
    assert seen == wanted


def test_neighbours_walk_the_whole_stream_both_ways(client: Client, dataset: Path) -> None:
    wanted = [str(address) for address in DatasetView.open(str(dataset)).addresses("camera")]
    at, seen = wanted[0], []
    while at is not None:
        found = client.get(f"/api/v1/samples/{at}")
        assert found["previous"] == (seen[-1] if seen else None)
        seen.append(at)
        at = found["following"]
    assert seen == wanted


def opened(dataset: Path, client: Client, stream: str) -> tuple[Any, Any, dict[str, Any]]:
    """(stored sample, its draft decoded by the view itself, what the API says)."""
    view = DatasetView.open(str(dataset))
    address = next(view.addresses(stream))
    sample = view.sample(address)
    return sample, view.decode(sample, stream), client.get(f"/api/v1/samples/{quote(str(address))}")


def picture(client: Client, url: str) -> np.ndarray:
    from PIL import Image

    status, headers, body = client.ask(url)
    assert (status, headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(body)))


def test_an_image_comes_back_as_what_its_tokens_decode_to(client: Client, dataset: Path) -> None:
    _, draft, found = opened(dataset, client, "camera")
    pixels = to_rgb(next(payload_views(draft)))
    assert np.array_equal(picture(client, found["decoded"]["url"]), pixels)
    assert (found["decoded"]["height"], found["decoded"]["width"]) == pixels.shape[:2]


def test_a_raster_comes_back_as_its_quicklook(client: Client, dataset: Path) -> None:
    _, draft, found = opened(dataset, client, "scenes")
    assert np.array_equal(picture(client, found["decoded"]["url"]), quicklook(next(payload_views(draft)), draft))


def test_a_video_comes_back_as_frames_at_their_times(client: Client, dataset: Path) -> None:
    _, draft, found = opened(dataset, client, "film")
    frames = next(payload_views(draft))
    shown = found["decoded"]["frames"]
    assert len(shown) == min(12, len(frames)) and shown[0]["seconds"] == 0
    assert np.array_equal(picture(client, shown[-1]["url"]), to_rgb(frames[-1]))
    assert client.ask(shown[0]["url"].replace("frame-0", f"frame-{len(frames)}"))[0] == 404


def test_sound_comes_back_as_wav_and_in_ranges(client: Client, dataset: Path) -> None:
    _, draft, found = opened(dataset, client, "hydrophone")
    status, headers, body = client.ask(found["decoded"]["url"])
    assert (status, headers["content-type"]) == (200, "audio/wav")
    with wave.open(io.BytesIO(body)) as sound:
        assert sound.getframerate() == draft.column("rate")[0].as_py()
        heard = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    wanted = next(payload_views(draft)).reshape(-1)
    scale = 32767 if wanted.dtype.kind == "f" else 1
    assert np.array_equal(heard, np.clip(wanted.astype(np.float64) * scale, -32768, 32767).astype(np.int16))
    status, headers, part = client.ask(found["decoded"]["url"], range="bytes=44-143")
    assert status == 206 and part == body[44:144]
    assert headers["content-range"] == f"bytes 44-143/{len(body)}"
    assert client.ask(found["decoded"]["url"], range="bytes=-10")[2] == body[-10:]
    assert client.ask(found["decoded"]["url"], range="bytes=5-2")[0] == 200


def test_text_readings_tokens_and_provenance_are_those_of_the_dataset(client: Client, dataset: Path) -> None:
    sample, draft, found = opened(dataset, client, "bulletins")
    assert found["decoded"]["text"] == draft.column("text")[0].as_py()
    assert found["tokens"]["first"] == sample.column("tokens")[0].as_py()[:256]
    assert found["provenance"]["license"] == "CC-BY-4.0" and found["provenance"]["uri"] == "day0.jsonl"
    _, draft, found = opened(dataset, client, "tide")
    assert found["decoded"]["values"] == draft.column("value")[0].as_py()
    assert found["decoded"]["times"][1] == "2025-06-14T00:01:00.000000000Z"


@pytest.mark.parametrize("path", ["nobody/L0000/0", "tide/L0000/99999", "tide/x/0", "tide/L0000/..", "tide/-1/0"])
def test_a_sample_that_does_not_exist_is_not_found(client: Client, path: str) -> None:
    for end in ("", "/picture.png", "/sound.wav"):
        assert client.ask(f"/api/v1/samples/{path}{end}")[0] == 404


def test_a_picture_of_a_sound_is_not_found(client: Client) -> None:
    assert client.ask("/api/v1/samples/hydrophone/L0000/0/picture.png")[0] == 404
    assert client.ask("/api/v1/samples/camera/L0000/0/sound.wav")[0] == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=1e2", "lane=x", "after=tide"])
def test_a_wrong_query_is_refused_with_what_would_be_right(client: Client, query: str) -> None:
    status, headers, body = client.ask(f"/api/v1/samples?stream=tide&{query}")
    assert status == 400 and headers["content-type"] == "application/problem+json"
    assert json.loads(body)["detail"]


# ---- actions ----


def test_a_stream_is_paused_and_resumed_and_the_status_says_so_at_once(client: Client, service: LogService) -> None:
    assert client.do("/api/v1/streams/tide/pause") == (200, {"result": {"ok": True}})
    assert client.get("/api/v1/streams/tide")["state"] == "paused"
    assert client.do("/api/v1/streams/tide/resume")[0] == 200
    assert client.get("/api/v1/streams/tide")["state"] == "running"
    assert service.calls == [("pause", "tide"), ("resume", "tide")]


def test_streams_are_added_and_removed_and_pipelines_reloaded(client: Client, service: LogService) -> None:
    spec = "source: {type: files, root: x}"
    assert client.do("/api/v1/streams", body={"name": "new", "spec": spec})[0] == 201
    assert client.do("/api/v1/streams/tide", "DELETE")[0] == 200
    assert client.do("/api/v1/reload", body={"pipeline": "streams: {}"})[0] == 200
    assert client.do("/api/v1/drain")[0] == 202
    assert service.calls == [("add", "new", spec), ("remove", "tide"), ("reload", "streams: {}"), ("drain",)]


def test_what_the_service_refuses_is_told_with_its_field(client: Client) -> None:
    status, told = client.do("/api/v1/streams", body={"name": "new", "spec": "source: {}"})
    assert status == 400
    assert told["field"] == "streams.new.source" and "needs a `type`" in told["detail"]
    fits("Problem", told)


def test_an_action_on_a_stream_that_is_not_there_never_reaches_the_service(client: Client, service: LogService) -> None:
    for path, method in (("/pause", "POST"), ("/resume", "POST"), ("", "DELETE")):
        status, told = client.do(f"/api/v1/streams/nobody{path}", method)
        assert status == 404 and "tide" in told["detail"]
    assert service.calls == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        ([], 400),
        ({"name": "a"}, 400),
        ({"name": "a", "spec": 3}, 400),
        ({"name": "a", "spec": "type: b", "more": 1}, 400),
        (b" " * (1 << 20) + b"{}", 413),
    ],
)
def test_a_body_that_is_wrong_is_refused(client: Client, service: LogService, body: Any, status: int) -> None:
    assert client.do("/api/v1/streams", body=body)[0] == status
    assert service.calls == []


def test_a_body_of_another_type_is_refused(client: Client) -> None:
    found = client.ask("/api/v1/streams", "POST", body=b"{}", content_type="text/plain", x_headrace="1")
    assert found[0] == 415


def test_a_method_that_is_not_there_and_a_path_that_is_not_there(client: Client) -> None:
    assert client.ask("/api/v1/status", "POST", x_headrace="1")[0] == 405
    status, headers, body = client.ask("/api/v1/nothing")
    assert status == 404 and headers["content-type"] == "application/problem+json"
    fits("Problem", json.loads(body))


# ---- health and events ----


def test_a_service_that_does_not_answer_is_alive_and_not_ready(client: Client, service: LogService) -> None:
    assert client.get("/readyz") == {"ready": True, "why": None}
    service.down = True
    until(lambda: client.ask("/readyz")[0] == 503)
    assert "does not answer" in json.loads(client.ask("/readyz")[2])["why"]
    assert client.get("/healthz") == {"alive": True}
    assert client.get("/api/v1/status")["streams"], "the last status is still shown"
    service.down = False
    until(lambda: client.ask("/readyz")[0] == 200)


def events_of(client: Client, path: str, count: int, **headers: str) -> list[tuple[str, str | None, Any]]:
    """The first events of a stream: (event, id, data)."""
    connection = http.client.HTTPConnection(client.netloc, timeout=20)
    connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    reply = connection.getresponse()
    assert reply.headers["content-type"].startswith("text/event-stream")
    found: list[tuple[str, str | None, Any]] = []
    name, number = "", None
    while len(found) < count:
        line = reply.readline().decode().rstrip("\n")
        if line.startswith("event: "):
            name, number = line[7:], None
        elif line.startswith("id: "):
            number = line[4:]
        elif line.startswith("data: "):
            found.append((name, number, json.loads(line[6:])))
    connection.close()
    return found


def test_events_bring_the_status_again_and_again(client: Client) -> None:
    (name, _, first), (_, _, second) = events_of(client, "/api/v1/events", 2)
    assert name == "status" and second["now_us"] > first["now_us"]
    fits("ServiceStatus", first)


def test_events_resume_after_the_last_commit_that_was_seen(client: Client) -> None:
    commits = client.get("/api/v1/commits")["commits"]
    seen = commits[-3]["v"]
    found = events_of(client, "/api/v1/events", 4, last_event_id=str(seen))
    assert [(name, number) for name, number, _ in found] == [
        ("status", None),
        ("commit", str(commits[-2]["v"])),
        ("commit", str(commits[-1]["v"])),
        ("status", None),
    ]


def test_event_streams_end_when_the_server_stops(service: LogService) -> None:
    server = StatusServer(service, "127.0.0.1", 0)
    netloc = urlsplit(server.start()).netloc
    connection = http.client.HTTPConnection(netloc, timeout=20)
    connection.request("GET", "/api/v1/events")
    reply = connection.getresponse()
    reply.readline()
    server.stop()
    server.stop()
    reply.read()
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection(netloc, timeout=5).request("GET", "/healthz")


def test_an_address_is_written_as_the_command_line_writes_it(client: Client) -> None:
    row = client.get("/api/v1/samples?stream=tide&limit=1")["samples"][0]
    assert row["address"] == str(Address("tide", 0, 0))
