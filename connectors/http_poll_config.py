"""Settings of the connector `http_poll`."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.http_poll_client import http_address
from headrace.connectors.http_poll_json import place_of
from headrace.connectors.message_fields import TimeUnit
from headrace.connectors.start_time import check_start
from headrace.schemas.pipeline import bytes_field, run_field

Divide = Literal["none", "items", "lines", "rows", "feed"]
_PLACEHOLDER = re.compile(r"\{(.*?)\}")
_SINCE = ("iso", "date", "s", "ms", "us", "id")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class PollTime(BaseModel):
    """Where an element's time stands, and how it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str = Field(min_length=1, description="a place in the element, or the name of a column")
    unit: TimeUnit = Field("iso", description="iso: ISO 8601; s, ms, us, ns: a number since 1970")
    zone: str | None = Field(
        None, pattern=r"^(Z|[+-]\d\d:\d\d)$", description="iso only: the zone of times that name none: Z, +02:00"
    )


class PollSince(BaseModel):
    """The query parameter that asks for what is newer than what we have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameter: str = Field(min_length=1, description="its name")
    value: str = Field(
        "{iso}",
        description="what it says; {iso} {date} {s} {ms} {us} stand for the time from which on is asked, `lag_s` before"
        " the newest that was read, {id} for the id of the last element",
    )

    @field_validator("value")
    @classmethod
    def _value(cls, value: str) -> str:
        names = _PLACEHOLDER.findall(value)
        if not names or any(name not in _SINCE for name in names):
            raise ValueError(f"`{value}`: one of {', '.join('{' + name + '}' for name in _SINCE)} is expected in it")
        return value

    @property
    def by_id(self) -> bool:
        return "{id}" in self.value


class HttpPollConfig(ConnectorConfig):
    """Settings of the connector `http_poll`."""

    url: str = run_field(
        repr=False, description="what is asked again and again; no user or password, and keys belong in `parameters`"
    )
    parameters: dict[str, SecretStr] = run_field({}, description="added to the url's query, and never shown")
    headers: dict[str, SecretStr] = run_field({}, description="sent to the url's own host, and never shown")
    token: SecretStr | None = run_field(None, description="sent as Authorization: Bearer to the url's own host")
    allow_hosts: tuple[str, ...] = run_field(
        (), description="other hosts to which redirects and `next` links may lead; none of their own accord"
    )
    interval_s: float = run_field(60, gt=0, description="from the beginning of one poll to that of the next")
    start: str = run_field("earliest", description="earliest, latest, or an ISO 8601 time with its zone")
    divide: Divide = bytes_field(
        "none", description="none: the body is one item; items (JSON), lines, rows (CSV), feed (RSS, Atom)"
    )
    items: str | None = bytes_field(
        None, description="where the array of elements stands in the document: /data/rows or data.rows; `` is the whole"
    )
    id: tuple[str, ...] = bytes_field(
        (), description="where an element's id stands, in one place or several; a column of rows"
    )
    time: PollTime | None = bytes_field(None, description="where an element's time stands: {field, unit, zone}")
    changed: Literal["again", "ignore"] = bytes_field(
        "again", description="an element whose id came before, with other content: take it again, or ignore it"
    )
    lag_s: float = bytes_field(
        3600, ge=0, description="how late an element may come, or be changed, behind the newest one"
    )
    newest_first: bool = bytes_field(False, description="without `time`: the source lists the newest element first")
    format: str | None = bytes_field(None, description="of the items, where the media type does not tell: json, csv …")
    delimiter: str = bytes_field(",", min_length=1, max_length=1, description="rows: what stands between two cells")
    next: str = run_field(
        "link", description="the next page: link (the Link header), none, or a place in the document: /links/next"
    )
    since: PollSince | None = run_field(None, description="asks for newer elements only: {parameter, value}")
    ascending: bool = run_field(
        False, description="pages go from old to new: each is read by itself, however many there are"
    )
    max_pages: int = run_field(1000, ge=1, description="pages of one poll; more is an error")
    max_poll_bytes: int = run_field(
        64 << 20, ge=1, description="of all pages of one poll, which are sorted in memory unless `ascending`"
    )
    max_body_bytes: int = run_field(16 << 20, ge=1, description="of one answer, decompressed; a larger one is refused")
    max_ratio: int = run_field(100, ge=1, description="decompressed / compressed bytes beyond 64 MiB")
    timeout_s: float = run_field(30, gt=0, description="longest silence of the server")

    @field_validator("id", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("parameters", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for k, v in value.items()}

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        http_address(value)
        return value

    @field_validator("start")
    @classmethod
    def _start(cls, value: str) -> str:
        return check_start(value)

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            if not _HEADER.fullmatch(name) or any(c in secret.get_secret_value() for c in "\r\n\0"):
                raise ValueError(f"{name[:40]!r}: a header's name, and a value on one line, are expected")
        return value

    @model_validator(mode="before")
    @classmethod
    def _items_divide(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("items") is not None and "divide" not in value:
            return {**value, "divide": "items"}
        return value

    @model_validator(mode="after")
    def _whole(self) -> HttpPollConfig:
        for path in (self.items or "", *self.id, *([self.time.field] if self.time else [])):
            place_of(path)
        if self.items is not None and self.divide != "items":
            raise ValueError("`items` goes with `divide: items`")
        if self.divide in ("none", "feed") and (self.id or self.time):
            raise ValueError(f"`id` and `time` say where to look in an element; `divide: {self.divide}` takes neither")
        if self.divide not in ("none", "feed") and self.start != "earliest" and self.time is None:
            raise ValueError("`start` needs `time`: without times nothing tells old elements from new ones")
        if self.divide == "none" and self.start not in ("earliest", "latest"):
            raise ValueError("`start` is earliest or latest: a body that is not divided has no times to choose from")
        if self.next not in ("link", "none") and not self.next.startswith("/"):
            raise ValueError(f"next is `{self.next}`: link, none, or a JSON pointer such as /links/next is expected")
        if self.next.startswith("/"):
            place_of(self.next)
            if self.divide not in ("none", "items"):
                raise ValueError("a `next` inside the document needs a JSON document: `divide: items`")
        if self.since is not None:
            if self.since.by_id and not (self.id or self.divide == "feed"):
                raise ValueError("`since` with {id} needs `id`")
            if not self.since.by_id and not self.timed:
                raise ValueError("`since` with a time needs `time`")
        if self.ascending and not self.timed:
            raise ValueError("`ascending` needs `time`")
        return self

    @property
    def timed(self) -> bool:
        """Whether elements have times, and so an order."""
        return self.time is not None or (self.divide == "feed" and not (self.since and self.since.by_id))
