"""Who may ask the status server what: tokens, hosts, origins, users, and nothing that is not escaped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.ingest.status_guard import COOKIE, Gate, inside
from headrace.ingest.status_peer import find_owner
from headrace.ingest.status_server import StatusServer, serve_status
from headrace.schemas.errors import ConfigError

from .test_status_api import Client, serving
from .test_status_world import HOSTILE, LogService, built, until

TOKEN = "correct-horse-battery"
PAGES = ["/", "/streams/film", "/streams/camera", "/quarantine", "/quarantine?reason=corrupt", "/samples?stream=camera"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> LogService:
    return LogService(built(tmp_path_factory))


@pytest.fixture
def service(running: LogService) -> LogService:
    return running.fresh()


@pytest.fixture(scope="module")
def serving_one(running: LogService) -> Iterator[Client]:
    yield from serving(running)


@pytest.fixture
def client(serving_one: Client, service: LogService) -> Client:
    return serving_one


@pytest.fixture(scope="module")
def serving_guarded(running: LogService) -> Iterator[Client]:
    yield from serving(running, TOKEN)


@pytest.fixture
def guarded(serving_guarded: Client, service: LogService) -> Client:
    return serving_guarded


# ---- where it may listen ----


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.7"])
def test_beyond_loopback_a_token_is_needed(service: LogService, host: str) -> None:
    with pytest.raises(ConfigError, match=r"status\.token: .* needs a token"):
        serve_status(service, host, 0)


@pytest.mark.parametrize("token", ["", "short", "fifteen-letters", "with space in the token", "ünïcödé-tökén-löng"])
def test_a_weak_token_is_refused(service: LogService, token: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII"):
        StatusServer(service, "127.0.0.1", 0, token)


def test_a_taken_port_and_a_wrong_address_are_told(service: LogService) -> None:
    with StatusServer(service, "127.0.0.1", 0) as server:
        port = int(server.start().rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"port {port}"):
            serve_status(service, "127.0.0.1", port)
    with pytest.raises(ConfigError, match="no address of this machine"):
        serve_status(service, "no.such.host.invalid", 0)


def test_with_a_token_it_listens_everywhere(service: LogService) -> None:
    with serve_status(service, "0.0.0.0", 0, TOKEN) as server:
        assert server.url is not None
        client = Client(server.url.replace("0.0.0.0", "127.0.0.1"))
        assert client.ask("/api/v1/status", host="ingest.example.org")[0] == 401
        assert client.ask("/healthz", host="10.1.2.3:80")[0] == 200


# ---- the token ----


@pytest.mark.parametrize("path", [*PAGES, "/metrics", "/live", "/api/v1/status", "/api/v1/quarantine", "/nothing"])
def test_without_the_token_nothing_is_told(guarded: Client, path: str) -> None:
    status, headers, body = guarded.ask(path)
    assert status == 401 and headers["www-authenticate"].startswith("Bearer")
    assert json.loads(body)["title"] == "Unauthorized"
    assert guarded.ask(path, authorization=f"Bearer {TOKEN}x")[0] == 401
    assert guarded.ask(path, authorization=f"Basic {TOKEN}")[0] == 401
    assert guarded.ask(path, cookie=f"{COOKIE}=9999999999.{'0' * 64}")[0] == 401


def test_health_and_readiness_need_no_token_and_tell_nothing_else(guarded: Client) -> None:
    assert json.loads(guarded.ask("/healthz")[2]) == {"alive": True}
    assert set(json.loads(guarded.ask("/readyz")[2])) == {"ready", "why"}


def test_the_bearer_token_opens_everything_for_programs(guarded: Client, service: LogService) -> None:
    assert guarded.ask("/api/v1/status", authorization=f"Bearer {TOKEN}")[0] == 200
    assert guarded.ask("/api/v1/streams/tide/pause", "POST", authorization=f"bearer {TOKEN}")[0] == 200
    assert service.calls == [("pause", "tide")]


def test_a_browser_is_sent_to_the_login_form_and_back(guarded: Client) -> None:
    status, headers, _ = guarded.ask("/quarantine?reason=corrupt", accept="text/html")
    assert status == 303 and headers["location"] == "/login?next=%2Fquarantine%3Freason%3Dcorrupt"
    form = guarded.ask(headers["location"])[2].decode()
    assert 'action="/login?next=/quarantine%3Freason%3Dcorrupt"' in form and 'type="password"' in form
    wrong = guarded.ask(
        headers["location"], "POST", body=b"token=wrong", content_type="application/x-www-form-urlencoded"
    )
    assert wrong[0] == 403 and b"not the token" in wrong[2] and "set-cookie" not in wrong[1]
    status, headers, _ = guarded.ask(
        headers["location"], "POST", body=f"token={TOKEN}".encode(), content_type="application/x-www-form-urlencoded"
    )
    assert status == 303 and headers["location"] == "/quarantine?reason=corrupt"
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
    sent = cookie.partition(";")[0]
    assert guarded.ask("/quarantine", cookie=sent)[0] == 200
    assert guarded.ask("/", cookie=sent[:-1])[0] == 401
    status, headers, _ = guarded.ask("/logout", "POST", cookie=sent)
    assert status == 303 and "Max-Age=0" in headers["set-cookie"]


def test_a_cookie_ends_and_belongs_to_one_server() -> None:
    gate, other = Gate(TOKEN, True), Gate(TOKEN, True)
    cookie = gate.session(now=1000.0)
    assert gate.session_is(cookie, now=1000.0 + 12 * 3600 - 1)
    assert not gate.session_is(cookie, now=1000.0 + 12 * 3600 + 1)
    assert not other.session_is(cookie, now=1000.0)
    until_, _, signature = cookie.partition(".")
    for forged in (f"{int(until_) + 1}.{signature}", f"{until_}.", "", ".", f"٣{cookie}", f"{until_}.é"):
        assert not gate.session_is(forged, now=1000.0)
    assert TOKEN not in repr(gate)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/samples?stream=a", "/samples?stream=a"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/\r\nset-cookie: a=b", "/"),
        ("", "/"),
    ],
)
def test_login_leads_nowhere_but_here(path: str, there: str) -> None:
    assert inside(path) == there


# ---- names, origins, users ----


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.", "[::2]"]
)
def test_a_name_that_is_not_of_loopback_is_refused(client: Client, host: str) -> None:
    for path in ("/", "/api/v1/status", "/healthz", "/static/style.css"):
        assert client.ask(path, host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "LOCALHOST", "127.0.0.1:1", "[::1]:80"])
def test_names_of_loopback_are_known_on_any_port(client: Client, host: str) -> None:
    assert client.ask("/api/v1/status", host=host)[0] == 200


def test_the_name_of_a_proxy_can_be_allowed(service: LogService) -> None:
    with StatusServer(service, "127.0.0.1", 0, TOKEN, names=["Ingest.example.org"]) as server:
        client = Client(server.start())
        assert client.ask("/healthz", host="ingest.example.org")[0] == 200
        assert client.ask("/healthz", host="other.example.org")[0] == 421


WRITES = [
    ("/api/v1/streams/tide/pause", "POST"),
    ("/api/v1/streams/tide", "DELETE"),
    ("/api/v1/drain", "POST"),
    ("/api/v1/reload", "POST"),
    ("/api/v1/streams", "POST"),
]


@pytest.mark.parametrize(("path", "method"), WRITES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_headrace": "1", "origin": "https://evil.example"},
        {"x_headrace": "1", "origin": "null"},
        {"x_headrace": "1", "origin": "http://127.0.0.1:1"},
        {"x_headrace": "1", "sec_fetch_site": "cross-site"},
        {"x_headrace": "1", "sec_fetch_site": "same-site"},
    ],
)
def test_a_command_that_another_site_could_have_sent_is_refused(
    client: Client, service: LogService, path: str, method: str, headers: dict[str, str]
) -> None:
    status, _, body = client.ask(path, method, body={"pipeline": "a", "name": "b", "spec": "c"}, **headers)
    assert status == 403 and json.loads(body)["type"].endswith("cross-site")
    assert service.calls == []


def test_the_same_holds_for_a_cookie_and_for_the_login_form(guarded: Client, service: LogService) -> None:
    login = guarded.ask(
        "/login", "POST", body=f"token={TOKEN}".encode(), content_type="application/x-www-form-urlencoded"
    )
    cookie = login[1]["set-cookie"].partition(";")[0]
    assert guarded.ask("/api/v1/drain", "POST", cookie=cookie)[0] == 403
    assert guarded.ask("/api/v1/drain", "POST", cookie=cookie, x_headrace="1", sec_fetch_site="cross-site")[0] == 403
    assert guarded.ask("/login", "POST", body=f"token={TOKEN}".encode(), origin="https://evil.example")[0] == 403
    assert service.calls == []
    own = {"x_headrace": "1", "origin": f"http://{guarded.netloc}", "sec_fetch_site": "same-origin"}
    assert guarded.ask("/api/v1/drain", "POST", cookie=cookie, **own)[0] == 202


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_reads_the_status_but_no_bytes_and_commands_nothing(
    client: Client, service: LogService
) -> None:
    row = client.get("/api/v1/quarantine")["rows"][0]["id"]
    asked = [
        ("GET", "/api/v1/status"),
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", f"/quarantine/{row}"),
        ("GET", f"/api/v1/quarantine/{row}"),
        ("GET", "/api/v1/samples?stream=tide"),
        ("GET", "/api/v1/samples/camera/L0000/0/picture.png"),
        ("GET", "/samples/camera/L0000/0"),
        ("POST", "/api/v1/streams/tide/pause"),
    ]
    code = (
        "import http.client, json, os, sys\n"
        "http.client.HTTPConnection(sys.argv[1]).connect(); os.setgid(65534); os.setuid(65534)\n"
        "for method, path in json.loads(sys.argv[2]):\n"
        "    c = http.client.HTTPConnection(sys.argv[1]); c.request(method, path, headers={'X-Headrace': '1'})\n"
        "    r = c.getresponse(); print(json.dumps([r.status, r.read().decode('latin-1')])); c.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, client.netloc, json.dumps(asked)], capture_output=True, text=True, timeout=60
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [status for status, _ in replies] == [200, 200, 200, 200, 403, 403, 403, 403, 403], done.stderr
    assert "Bytes are shown to the service" in replies[3][1] and "00000000" not in replies[3][1]
    assert service.calls == []


def test_the_owner_of_a_connection_is_read_from_the_table_of_the_kernel() -> None:
    table = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1571 1",
        "   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 1572 1",
        "   2: 00000000000000000000000001000000:C351 00000000000000000000000001000000:1F90"
        " 01 00000000:00000000 00:00000000 00000000  1001        0 1573 1",
    ]
    assert find_owner(table, ("127.0.0.1", 50000), ("127.0.0.1", 8080)) == 1000
    assert find_owner(table, ("::1", 50001), ("::1", 8080)) == 1001
    assert find_owner(table, ("127.0.0.1", 50001), ("127.0.0.1", 8080)) is None
    assert find_owner(table, ("127.0.0.1", 8080), ("127.0.0.1", 50000)) is None


# ---- what is sent ----


def test_every_answer_carries_the_strict_headers(client: Client, service: LogService) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        (path, {}) for path in [*PAGES, "/healthz", "/metrics", "/api/v1/status"]
    ]
    asked += [
        ("/static/style.css", {}),
        ("/nothing", {}),
        ("/nothing", {"accept": "text/html"}),
        ("/", {"host": "evil"}),
    ]
    asked += [("/login", {}), ("/api/v1/samples/camera/L0000/0/picture.png", {}), ("/api/v1/streams/nobody", {})]
    for path, headers in asked:
        found = client.ask(path, **headers)[1]
        assert found["x-content-type-options"] == "nosniff", path
        policy = found["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert found["x-frame-options"] == "DENY" and found["referrer-policy"] == "same-origin"
        assert "server" not in found
        assert found["cache-control"]
    assert client.ask("/api/v1/status")[1]["cache-control"] == "no-store"


def test_a_failure_of_our_own_tells_nothing_and_carries_the_headers(client: Client, service: LogService) -> None:
    def fail(name: str) -> dict[str, Any]:
        raise RuntimeError("a secret of the inside")

    service.stream_pause = fail  # type: ignore[method-assign]
    status, headers, body = client.ask("/api/v1/streams/tide/pause", "POST", x_headrace="1")
    del service.stream_pause  # what the class says again
    assert status == 500 and b"secret" not in body and headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff" and headers["content-security-policy"]


def test_nothing_from_outside_becomes_markup(client: Client, service: LogService) -> None:
    service.message = f"{HOSTILE}\"'><img src=x onerror=alert(2)>"
    until(lambda: client.get("/api/v1/streams/tide")["message"])
    rows = client.get("/api/v1/quarantine")["rows"]
    pages = [*PAGES, *(f"/quarantine/{row['id']}" for row in rows), "/streams/%3Cscript%3Ealert(1)%3C%2Fscript%3E"]
    pages += [f"/quarantine?reason={HOSTILE}", f"/quarantine?stream={HOSTILE}", "/login?next=/%22%3E%3Cscript%3E"]
    seen = 0
    for path in pages:
        for accept in ("text/html", "*/*"):
            _, headers, body = client.ask(path.replace("<", "%3C").replace(">", "%3E"), accept=accept)
            if headers["content-type"].startswith("text/html"):
                text = body.decode()
                assert "<script>" not in text and "<img src=x" not in text, path
                assert "style=" not in text and " onclick" not in text, "the policy would block it"
                seen += text.count("&lt;script&gt;")
    assert seen > 10, "the hostile text was not even shown"


def test_the_files_of_the_page_are_a_fixed_list(client: Client) -> None:
    for name in ("style.css", "live.js", "theme.js", "icon.svg"):
        assert client.ask(f"/static/{name}")[0] == 200
    for name in ("overview.html", "..%2Fstatus_app.py", "%2e%2e/status_app.py", "nothing.css"):
        assert client.ask(f"/static/{name}")[0] == 404


def test_the_page_names_no_other_place(client: Client) -> None:
    folder = Path(__file__).resolve().parents[2] / "ingest" / "status"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text, file
        assert "@import" not in text and "url(" not in text, file
