"""Who may ask what: the outermost layer of the status server.

- Bound to loopback without a token: the Host header must be a name of loopback (else a web page elsewhere could rebind
  its own name to us), and writes and raw bytes are for processes of the same user, or root.
- With a token: everything but health, readiness, the login form and the stylesheet needs it, as `Authorization: Bearer`
  or as the cookie that the login form sets.
- Writes that a browser might have been tricked into are refused: Origin and Sec-Fetch-Site must be our own, and the
  header `X-Headrace` must be there, which no other site can add without asking first.
- Every answer carries headers that let a browser load nothing from elsewhere and frame nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from headrace.ingest.status_peer import same_user
from headrace.ingest.status_problem import ProblemError, problem_of, problem_response
from headrace.schemas.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "headrace_session"
SESSION_S = 12 * 3600
MIN_TOKEN = 16

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_OPEN = frozenset({"/healthz", "/readyz", "/login", "/logout"})
_SAFE = frozenset({"GET", "HEAD"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def check_token(token: str | None, loopback: bool) -> None:
    """Raises: ConfigError for a missing or a weak token."""
    if token is None:
        if not loopback:
            raise ConfigError(
                "the status page shows raw data and takes commands, so beyond loopback it needs a token: set one, or"
                " bind to 127.0.0.1",
                field="status.token",
            )
        return
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the token has {len(token)} characters: at least {MIN_TOKEN} of printable ASCII without spaces are needed,"
            " such as `openssl rand -hex 24` makes",
            field="status.token",
        )


def is_loopback(address: str) -> bool:
    """Whether an IP address is one of loopback."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


@dataclass(frozen=True)
class Gate:
    """The rules of one server. `names` are further values of the Host header to accept on loopback."""

    token: str | None = field(repr=False)
    loopback: bool
    names: frozenset[str] = frozenset()
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    # ---- the token and its cookie ----

    def token_is(self, given: str) -> bool:
        """Whether this is the token; takes the same time whatever differs."""
        return self.token is not None and hmac.compare_digest(
            hashlib.sha256(given.encode("utf-8", "replace")).digest(), hashlib.sha256(self.token.encode()).digest()
        )

    def session(self, now: float | None = None) -> str:
        """A new cookie value; it holds an end and a signature, never the token."""
        until = str(int((time.time() if now is None else now) + SESSION_S))
        return f"{until}.{self._signed(until)}"

    def session_is(self, cookie: str, now: float | None = None) -> bool:
        """Whether a cookie value is one of ours and not over."""
        until, _, signature = cookie.partition(".")
        genuine = hmac.compare_digest(signature.encode("utf-8", "replace"), self._signed(until).encode())
        return genuine and until.isdigit() and int(until) > (time.time() if now is None else now)

    def _signed(self, until: str) -> str:
        return hmac.new(self._key, until.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    # ---- one request ----

    def admit(self, request: Request) -> None:
        """Let a request pass, and note in its state whether it may see raw bytes. Raises: ProblemError."""
        self._check_host(request)
        path, writes = request.url.path, request.method not in _SAFE
        bearer = self._bearer(request)
        known = bearer or self.session_is(request.cookies.get(COOKIE, "")) if self.token is not None else False
        request.state.known = known
        request.state.raw = known if self.token is not None else self._same_user(request)
        if path in _OPEN or path.startswith("/static/"):
            if writes:
                self._check_origin(request)
            return
        if self.token is not None and not known:
            raise ProblemError(
                401,
                "token",
                "this needs the token: send `Authorization: Bearer …`, or log in at /login",
                {"www-authenticate": 'Bearer realm="headrace"'},
            )
        if not writes:
            return
        if not request.state.raw:
            raise ProblemError(
                403, "user", "commands without a token are taken from the service's own user only: set one"
            )
        self._check_origin(request)
        if not bearer and request.headers.get("x-headrace") is None:
            raise ProblemError(403, "cross-site", "a command needs the header `X-Headrace: 1` (or a bearer token)")

    def _bearer(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.token_is(given.strip())

    def _same_user(self, request: Request) -> bool:
        peer, own = request.client, request.scope.get("server")
        if peer is None or own is None or not is_loopback(peer.host):
            return False
        return same_user((peer.host, peer.port), (own[0], own[1])) is not False

    def _check_host(self, request: Request) -> None:
        if not self.loopback:
            return
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in _LOOPBACK_NAMES | self.names:
            raise ProblemError(421, "host", f"`{name[:100]}` is no name of this server: ask it as localhost")

    def _check_origin(self, request: Request) -> None:
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if site not in (None, "same-origin", "none"):
            raise ProblemError(403, "cross-site", f"a request of another site ({site[:40]}) may not change anything")
        if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
            raise ProblemError(
                403, "cross-site", f"a request of another origin ({origin[:100]}) may not change anything"
            )


class Guard:
    """ASGI layer that asks the gate and adds the headers."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import RedirectResponse, Response

        request = Request(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _with_headers(message.get("headers", []))}
            await send(message)

        try:
            await run_in_threadpool(self._gate.admit, request)
        except ProblemError as exc:
            refusal: Response
            wants_page = "text/html" in request.headers.get("accept", "") and request.method == "GET"
            if exc.status == 401 and wants_page:
                there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                refusal = RedirectResponse(f"/login?next={quote(there, safe='')}", 303)
            else:
                refusal = problem_response(problem_of(exc), exc.headers)
            await refusal(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)


def _with_headers(given: Any) -> list[tuple[bytes, bytes]]:
    names = {name.lower() for name, _ in given}
    added = {"cache-control": "no-store", **HEADERS}
    return [*given, *((k.encode(), v.encode()) for k, v in added.items() if k.encode() not in names)]


def inside(path: str) -> str:
    """A path of our own to go to after login; anything else becomes the front page."""
    parts = urlsplit(path)
    own = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    return path if own and path.isprintable() else "/"
