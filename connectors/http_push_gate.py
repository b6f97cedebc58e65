"""Who may send, and how often: addresses, bearer tokens, and a rate for each token. No input or output here."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Callable, Mapping, Sequence

from headrace.connectors.http_push_config import HttpPushConfig
from headrace.connectors.http_push_problem import Problem

ANONYMOUS = -1


class Gate:
    """Lets a request in, or raises the Problem that it gets."""

    def __init__(self, config: HttpPushConfig, clock: Callable[[], float]) -> None:
        """clock: seconds that never go back."""
        self._digests = [_digest(token.get_secret_value().encode()) for token in config.tokens]
        self._networks = [ipaddress.ip_network(network) for network in config.allow_from]
        self._rate = config.rate_per_s
        self._clock = clock
        self._buckets: dict[int, tuple[float, float]] = {}  # number of the token → (left, when)

    def admit(self, address: str, headers: Mapping[str, Sequence[str]]) -> None:
        """Raises: Problem 401, 403 or 429."""
        if self._networks and not self._near(address):
            raise Problem(403, f"requests from {address} are not taken: it is in none of the networks of `allow_from`")
        if not self._digests and "origin" in headers:
            # Without tokens any page in a browser on this machine could send.
            raise Problem(403, "requests of web pages (with an Origin header) are taken with a token only")
        token = self._token(headers.get("authorization", ())) if self._digests else ANONYMOUS
        self._charge(token)

    def _near(self, address: str) -> bool:
        here = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(here, "ipv4_mapped", None)
        return any((mapped or here) in network for network in self._networks)

    def _token(self, values: Sequence[str]) -> int:
        """The number of the token that a request bears. Every one is compared, so that time tells nothing."""
        scheme, _, given = values[0].strip().partition(" ") if len(values) == 1 else ("", "", "")
        digest = _digest(given.strip().encode("utf-8", "surrogateescape"))
        found = ANONYMOUS
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(known, digest):
                found = number
        if scheme.lower() != "bearer":
            raise Problem(401, "an Authorization header is expected: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        if found == ANONYMOUS:
            said = 'Bearer error="invalid_token"'
            raise Problem(401, "this bearer token is not one that may send here", {"WWW-Authenticate": said})
        return found

    def _charge(self, token: int) -> None:
        if self._rate is None:
            return
        now, most = self._clock(), max(1.0, self._rate)
        left, when = self._buckets.get(token, (most, now))
        left = min(most, left + (now - when) * self._rate)
        if left < 1:
            self._buckets[token] = (left, now)
            wait = math.ceil((1 - left) / self._rate)
            said = f"{self._rate:g} requests a second are taken from this sender"
            raise Problem(429, said, {"Retry-After": str(max(1, wait))})
        self._buckets[token] = (left - 1, now)


def _digest(token: bytes) -> bytes:
    # Of equal length, so that comparing does not tell how long a token is.
    return hashlib.sha256(token).digest()
