"""An answer that says no, as problem details (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus


class Problem(Exception):
    """A request that is refused: its status, what was wrong and what would be right."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        super().__init__(f"{status}: {detail}")

    def body(self) -> bytes:
        """application/problem+json."""
        said = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return json.dumps(said).encode() + b"\n"
