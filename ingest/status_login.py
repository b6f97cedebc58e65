"""The login form, and the cookie that it sets."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from headrace.ingest.status_desk import desk_of
from headrace.ingest.status_guard import COOKIE, SESSION_S, inside
from headrace.ingest.status_pages import templates
from headrace.ingest.status_problem import ProblemError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def login_page(request: Request, wrong: bool = False, code: int = 200) -> Response:
    """The login form."""
    from starlette.responses import HTMLResponse

    there = inside(request.query_params.get("next", "/"))
    return HTMLResponse(templates().get_template("login.html").render(wrong=wrong, there=there), code)


async def login(request: Request) -> Response:
    """Check the token of the form and set the cookie. A wrong one costs a moment."""
    import asyncio

    from starlette.responses import RedirectResponse

    data = b""
    async for part in request.stream():
        data += part
        if len(data) > 8192:
            raise ProblemError(413, "too-large", "a login form is small")
    given = parse_qs(data.decode("utf-8", "replace")).get("token", [""])[0]
    gate = desk_of(request).gate
    if not gate.token_is(given.strip()):
        await asyncio.sleep(0.5)
        return login_page(request, wrong=True, code=403)
    answer = RedirectResponse(inside(request.query_params.get("next", "/")), 303)
    answer.set_cookie(
        COOKIE,
        gate.session(),
        max_age=SESSION_S,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


def logout(request: Request) -> Response:
    """Forget the cookie."""
    from starlette.responses import RedirectResponse

    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer
