"""Settings of the connector `stac`."""

from __future__ import annotations

import calendar
import re
from typing import Any, Literal

from pydantic import SecretStr, field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.http_poll_client import http_address
from headrace.schemas.pipeline import bytes_field, run_field

_MOMENT = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[Tt](\d\d:\d\d:\d\d(?:\.\d{1,9})?)([Zz]|[+-]\d\d:\d\d))?)?)?", re.ASCII
)


class StacConfig(ConnectorConfig):
    """Settings of the connector `stac`."""

    url: str = run_field(description="the root of a STAC API, or the catalog.json of a static catalog")
    collections: tuple[str, ...] = bytes_field((), description="ids of collections; all by default")
    bbox: tuple[float, ...] | None = bytes_field(
        None, description="west, south, east, north in degrees (4 or 6 numbers)"
    )
    datetime: str | None = bytes_field(
        None, description="RFC 3339 time or interval: 2025-01-01/2025-02-01, 2025-01-01/.. ; a date is a whole day"
    )
    query: dict[str, Any] | None = bytes_field(None, description="of the query extension: {'eo:cloud_cover': {lt: 60}}")
    filter: dict[str, Any] | None = bytes_field(None, description="CQL2-JSON, handed to the API as it is")
    assets: tuple[str, ...] = bytes_field(
        (), description="keys of assets, or names of their bands (B04, red); all rasters of an item by default"
    )
    revisions: bool = bytes_field(
        False, description="in a service: read an item again when its document has changed, as another item"
    )
    token: SecretStr | None = run_field(None, description="sent as Authorization: Bearer to the url's own host")
    headers: dict[str, SecretStr] = run_field({}, description="sent to the url's own host, and never shown")
    allow_hosts: tuple[str, ...] = run_field(
        (), description="other hosts to which assets and links may lead; none of their own accord"
    )
    allow_buckets: tuple[str, ...] = run_field((), description="buckets from which assets named s3://bucket/… are read")
    endpoint_url: str | None = run_field(None, description="s3 assets: the address of an S3-compatible server")
    storage_options: dict[str, Any] = run_field(
        {}, repr=False, description="s3 assets: handed to fsspec: credentials, anon, region …"
    )
    method: Literal["auto", "GET", "POST"] = run_field("auto", description="of the search; auto: what the API offers")
    limit: int = run_field(100, ge=1, le=10_000, description="items asked for at once")
    max_items: int = run_field(1_000_000, ge=1, description="a search that finds more is refused")
    interval_s: float = run_field(60, gt=0, description="in a service: how often the API is asked for new items")
    news: Literal["datetime", "updated", "all"] = run_field(
        "datetime", description="in a service: what new items are known by; updated needs the query extension"
    )
    lag_s: float = run_field(
        7 * 86400, ge=0, description="in a service: how long after the newest item an older one may still appear"
    )
    recheck_s: float = run_field(86400, gt=0, description="in a service: how often everything is listed anew")
    max_body_bytes: int = run_field(32 << 20, ge=1, description="of one answer; a larger one is refused")
    timeout_s: float = run_field(60, gt=0, description="longest silence of a server")

    @field_validator("collections", "assets", "allow_hosts", "allow_buckets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if http_address(value) and ("?" in value or "#" in value):
            raise ValueError("a url without ? and # is expected: keys belong in `headers` or `token`")
        return value

    @field_validator("datetime")
    @classmethod
    def _datetime(cls, value: str | None) -> str | None:
        if value is not None:
            interval_of(value)
        return value

    @field_validator("bbox")
    @classmethod
    def _bbox(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        if len(value) not in (4, 6):
            raise ValueError(f"{len(value)} numbers: west, south, east, north are expected (or 6, with heights)")
        half = len(value) // 2
        south, north = value[1], value[half + 1]
        if not (-90 <= south <= north <= 90 and all(-180 <= value[i] <= 180 for i in (0, half))):
            raise ValueError("west, south, east, north in degrees are expected, with south <= north")
        return value

    @model_validator(mode="after")
    def _whole(self) -> StacConfig:
        if self.filter is not None and self.query is not None:
            raise ValueError("`query` and `filter` are two languages: use one of them")
        if self.news == "updated" and self.filter is not None:
            raise ValueError("`news: updated` asks by `query`, which does not go with `filter`")
        if self.endpoint_url is not None and not self.allow_buckets:
            raise ValueError("`endpoint_url` goes with `allow_buckets`")
        return self


def interval_of(value: str) -> tuple[str | None, str | None]:
    """(from, to) in RFC 3339; None is open. Raises: ValueError.

    A date, month or year is all of it: 2025-01 is 2025-01-01T00:00:00Z/2025-01-31T23:59:59Z.
    """
    begin, slash, end = value.partition("/")
    if not slash:
        end = begin
    low = None if begin in ("..", "") else _moment(begin, last=False)
    high = None if end in ("..", "") else _moment(end, last=True)
    if low is None and high is None:
        raise ValueError(f"`{value}` has no begin and no end: leave it out")
    return low, high


def _moment(text: str, *, last: bool) -> str:
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError(f"`{text}`: a date, or a time with its zone such as 2025-01-01T06:00:00Z, is expected")
    year, month, day, clock, _ = found.groups()
    if clock is not None:
        return text
    month = month or ("12" if last else "01")
    if not 1 <= int(month) <= 12 or int(year) < 1:
        raise ValueError(f"`{text}`: there is no such month")
    longest = calendar.monthrange(int(year), int(month))[1]
    day = day or (f"{longest:02d}" if last else "01")
    if not 1 <= int(day) <= longest:
        raise ValueError(f"`{text}`: there is no such day")
    return f"{year}-{month}-{day}T{'23:59:59' if last else '00:00:00'}Z"
