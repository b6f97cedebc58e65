"""Schemas by id: those that the pipeline gives, else those of a schema registry named in the pipeline.

An id names one schema for ever, so each is asked for once in a process. A registry that cannot be reached makes the
source wait (SourceError), for the messages are not at fault; an id that it does not know is the message's fault.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote

from pydantic import SecretStr

from headrace.ingest.normalizers.payload_config import MAX_FILE
from headrace.schemas.errors import ConfigError, RecordError, SourceError

S = TypeVar("S")
_TIMEOUT_S = 10
_MOST = 4096  #: schemas kept at once, and unknown ids remembered


@dataclass(frozen=True)
class RegistrySettings:
    """Where a registry is and how to log in."""

    url: str | None = None
    user: str | None = None
    password: SecretStr | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Nothing is followed: the host of the pipeline is the one that is asked."""


class Registry(Generic[S]):
    """Gives `make(schema text)` of an id."""

    def __init__(self, given: dict[int, bytes], settings: RegistrySettings, make: Callable[[bytes], S]) -> None:
        self._given = given
        self._settings = settings
        self._make = make
        self._made: dict[int, S] = {}
        self._unknown: set[int] = set()

    def schema(self, id: int) -> S:
        """Raises: RecordError for an id that nobody knows, SourceError while the registry cannot be asked."""
        found = self._made.get(id)
        if found is None:
            if len(self._made) >= _MOST:
                self._made.clear()
            found = self._made[id] = self._make(self._given[id] if id in self._given else self._asked(id))
        return found

    def _asked(self, id: int) -> bytes:
        url = self._settings.url
        if url is None or id in self._unknown:
            known = ", ".join(str(one) for one in sorted(self._given)[:8])
            where = "the registry does not know it" if url else f"`schema_files` has {known or 'none'}"
            raise RecordError("schema_mismatch", f"there is no schema with the id {id}: {where}")
        request = urllib.request.Request(f"{url.rstrip('/')}/schemas/ids/{quote(str(id))}")
        request.add_header("Accept", "application/vnd.schemaregistry.v1+json, application/json")
        if self._settings.user is not None:
            secret = self._settings.password.get_secret_value() if self._settings.password is not None else ""
            token = base64.b64encode(f"{self._settings.user}:{secret}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_S) as reply:
                body = reply.read(2 * MAX_FILE + 1)
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code == 404:
                    if len(self._unknown) >= _MOST:
                        self._unknown.clear()
                    self._unknown.add(id)
                    return self._asked(id)
                if exc.code in (401, 403):
                    raise ConfigError(f"{url} refuses `registry_user` or its password ({exc.code})") from exc
                raise SourceError(f"{url} answers {exc.code} when asked for schema {id}") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise SourceError(f"{url} cannot be asked for schema {id}: {exc}") from exc
        try:
            said = json.loads(body)
            schema, kind = said["schema"], said.get("schemaType", "AVRO")
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise SourceError(f"{url} answers schema {id} with something else than a registry would") from exc
        if kind != "AVRO" or not isinstance(schema, str):
            raise RecordError("schema_mismatch", f"schema {id} of {url} is {kind!s:.20}, not Avro")
        if said.get("references"):
            raise RecordError("unsupported:references", f"schema {id} of {url} refers to other schemas")
        return schema.encode()
