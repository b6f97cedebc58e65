"""The connector `http_poll`: asks an HTTP API again and again, and gives what is new in its answers.

One split, `poll`. An answer (with all its pages) is divided into elements; those that are new by time, or that were not
seen before, become items in the order of their times. See http_poll_window.py for what is new, and for the positions.
A source that is asked can be read again only as far back as it answers: a poll that comes too late misses what has left
the answers meanwhile, and nothing tells of it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from headrace.connectors.contract import Broken, Connector, Idle, Item, Lag, Position, Read, Split
from headrace.connectors.http_poll_client import Answer, ApiClient
from headrace.connectors.http_poll_config import HttpPollConfig
from headrace.connectors.http_poll_divide import DIGEST_CHARS, Element, Page, divided
from headrace.connectors.http_poll_json import ABSENT, place_of, value_at
from headrace.connectors.http_poll_links import next_link, next_of, with_parameters
from headrace.connectors.http_poll_window import Window, after_time
from headrace.connectors.message_fields import format_of, media_type_of
from headrace.connectors.start_time import start_us
from headrace.schemas.canonical import canonical_json, position_json
from headrace.schemas.errors import ConfigError, RecordError, SourceError

_IDLE_S = 0.5
_AHEAD_US = 300_000_000  # how far a sender's clock may be ahead of the server's before its times move no cursor
_KEPT_BYTES = 1 << 16  #: of an answer that could not be divided
#: Headers that tell what may be done with an answer, and do not change from poll to poll.
_EVIDENCE = ("tdm-reservation", "tdm-policy", "x-robots-tag", "content-type", "content-language")


class HttpPoll(Connector):
    """An HTTP API that is asked again and again: JSON, CSV, feeds, or any body as it is."""

    Config = HttpPollConfig
    bounded = False
    replay = "window"
    repeats: ClassVar[bool] = True
    example = (
        "{type: http_poll, url: 'https://api.example.org/v1/levels', items: /data, id: station, "
        "time: {field: at}, interval_s: 60}"
    )

    def __init__(self, config: HttpPollConfig) -> None:
        super().__init__(config)
        self._client = client_of(config)
        self._parameters = {name: value.get_secret_value() for name, value in config.parameters.items()}
        self._next = None if config.next in ("link", "none") else place_of(config.next)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._kept: tuple[bytes, Window] | None = None  #: the window of a read that ended, and its last position
        self._tags: dict[str, dict[str, str]] = {}  #: URL → conditions for its next request
        self._looked: tuple[float, list[int]] | None = None  #: when `lag` asked, and the times of all elements then

    def describe(self) -> str:
        return f"http_poll {self._client.shown}"

    def splits(self) -> Iterable[Split]:
        yield Split("poll", bounded=False)

    def probe(self) -> None:
        """Asks once, for the first page. Raises: SourceError, ConfigError, also if the answer cannot be divided."""
        answer = self._client.get(self._address(Window(None, timed=self.config.timed, lag_us=0)))
        try:
            found = divided(answer.body, self.config).elements
        except RecordError as exc:
            raise SourceError(f"{self._client.shown}: {exc.message}") from exc
        for name, missing in (("time", self.config.time), ("id", self.config.id or None)):
            if found and missing is not None and not any(getattr(element, name) is not None for element in found):
                what = f"none of {len(found)} elements has one there; the first is {found[0].data[:200]!r}"
                raise ConfigError(f"{self._client.shown}: {what}", field=name)

    def close(self) -> None:
        self._closed.set()

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        window = self._window(after)
        last = position_json(after)
        try:
            while not self._closed.is_set():
                due = time.monotonic() + self.config.interval_s
                for read in self._poll(window):
                    last = position_json(read.position)
                    yield read
                yield Idle()
                while (left := due - time.monotonic()) > 0 and not self._closed.wait(min(left, _IDLE_S)):
                    yield Idle()
        finally:
            with self._lock:
                self._kept = (last, window)

    def _window(self, after: Position) -> Window:
        """The memory of the read before, if this one goes on exactly where that one ended."""
        with self._lock:
            kept, self._kept = self._kept, None
            if kept is not None and kept[0] == position_json(after):
                return kept[1]
            self._tags = {}
        return self._new_window(after)

    def _new_window(self, after: Position) -> Window:
        config = self.config
        by_id = config.since is not None and config.since.by_id
        lag_us = round(config.lag_s * 1_000_000)
        return Window(after, timed=config.timed, lag_us=lag_us, keep_id=by_id, snapshot=config.divide == "none")

    def _poll(self, window: Window) -> Iterator[Item | Broken]:
        url = self._address(window)
        batch: list[tuple[Element, Answer]] = []
        pages = 0
        for answer, page in self._pages(url, self._tags.get(url)):
            pages += 1
            if isinstance(page, RecordError):
                position = window.bad(hashlib.sha256(answer.body).hexdigest()[:DIGEST_CHARS])
                if position is not None:
                    message = f"{self._client.shown}: {page.message}"
                    yield Broken(page.reason, message, position, "{}", answer.body[:_KEPT_BYTES])
                return  # the rest of the pages is unknown: nothing of this poll may move the cursor
            batch += [(element, answer) for element in page.elements]
            if self.config.ascending:
                yield from self._items(window, batch)
                batch = []
        yield from self._items(window, batch)
        if pages == 1:  # the first of several pages may be as it was, and the last one new
            said = {"If-None-Match": answer.headers.get("ETag"), "If-Modified-Since": answer.headers["Last-Modified"]}
            self._tags = {url: {name: value for name, value in said.items() if value}}

    def _items(self, window: Window, batch: list[tuple[Element, Answer]]) -> Iterator[Item]:
        if not batch:
            return
        if self.config.newest_first and not self.config.timed:
            batch = batch[::-1]
        answers = {id(element): answer for element, answer in batch}
        for element, position in window.fresh([element for element, _ in batch], _ceiling(batch[0][1])):
            yield self._item(element, answers[id(element)], position)

    def _item(self, element: Element, answer: Answer, position: dict[str, Any]) -> Item:
        config = self.config
        evidence = {name: answer.headers[name] for name in _EVIDENCE if answer.headers.get(name)}
        headers = {"rights": canonical_json(evidence).decode()}
        media_type = media_type_of(answer.headers.get("Content-Type") or "")
        known = config.format
        if config.divide == "none":
            if media_type is not None:
                headers["media_type"] = media_type
                known = known or format_of(media_type)
            if known is not None:
                headers["format"] = known
            return Item(element.data, position, None, answer.date_us("Last-Modified"), headers)
        rows = "tsv" if config.delimiter == "\t" else "csv"
        like = {"items": "json", "feed": "json", "rows": rows, "lines": "json" if config.id or config.time else "text"}
        headers["format"] = known or like[config.divide]
        return Item(element.data, position, element.key, element.time, headers)

    # -- asking -------------------------------------------------------------------------------------------------------

    def _address(self, window: Window) -> str:
        """The URL of a poll's first page."""
        added = dict(self._parameters)
        if self.config.since is not None:
            value = since_value(self.config.since.value, window.since, window.id)
            if value is not None:
                added[self.config.since.parameter] = value
        return with_parameters(self.config.url, added)

    def _pages(
        self, url: str, conditions: Mapping[str, str] | None = None
    ) -> Iterator[tuple[Answer, Page | RecordError]]:
        """The answers of a poll; nothing if the server says that nothing is new. Raises: SourceError, ConfigError."""
        total, asked = 0, {url}
        for _ in range(self.config.max_pages):
            answer = self._client.get(url, conditions)
            if answer.unchanged:
                return
            conditions = None
            total += len(answer.body)
            if total > self.config.max_poll_bytes and not self.config.ascending:
                raise ConfigError(
                    f"{self._client.shown}: the pages of a poll have more than {self.config.max_poll_bytes} bytes: ask"
                    " for less with `since`, say `ascending: true` if they go from old to new, or raise max_poll_bytes"
                )
            page: Page | RecordError
            try:
                page = divided(answer.body, self.config)
                following = self._following(answer, page)
            except RecordError as exc:
                page, following = exc, None
            yield answer, page
            if following is None:
                return
            if following in asked:
                raise SourceError(f"{self._client.shown}: the link to the next page leads back to one that was read")
            asked.add(following)
            url = following
        raise ConfigError(f"{self._client.shown}: more than {self.config.max_pages} pages: raise `max_pages`")

    def _following(self, answer: Answer, page: Page) -> str | None:
        """The next page, of an allowed host. Raises: ConfigError, RecordError."""
        if self.config.next == "none":
            return None
        if self._next is None:
            found = next_link(answer.headers.get_all("Link") or (), answer.url)
        else:
            value = value_at(page.document, self._next)
            try:
                found = None if value is ABSENT else next_of(value, answer.url)
            except ValueError as exc:
                raise RecordError("wrong_type", f"{self.config.next}: {exc}") from exc
        if found is None:
            return None
        self._client.allowed(found)
        # Keys are seldom repeated in links; they go to nobody but their own server.
        return with_parameters(found, self._parameters, replace=False) if self._client.is_own(found) else found

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _all(self) -> list[tuple[Element, Answer]]:
        """Everything that the source gives now. Raises: SourceError, ConfigError."""
        out: list[tuple[Element, Answer]] = []
        for answer, page in self._pages(self._address(self._new_window(None))):
            if isinstance(page, RecordError):
                raise SourceError(f"{self._client.shown}: {page.message}")
            out += [(element, answer) for element in page.elements]
        return out

    def start_of(self, split: Split) -> Position:
        start = self.config.start
        if start == "earliest":
            return None
        if start != "latest":
            return after_time(start_us(start))
        if not self.config.timed:
            return self.end_of(split)
        there = self._all()
        ceiling = _ceiling(there[0][1]) if there else 0
        times = [e.time for e, _ in there if e.time is not None and e.time <= ceiling]
        return after_time(max(times)) if times else None

    def end_of(self, split: Split) -> Position:
        """The position of the last item that a read from the beginning would give now."""
        last = None
        for item in self._items(self._new_window(None), self._all()):
            last = item.position
        return last

    def lag(self, split: Split, after: Position) -> Lag | None:
        """Elements behind the cursor; the source is asked for this no more often than it is polled."""
        if not self.config.timed:
            return None
        now = time.monotonic()
        if self._looked is None or now - self._looked[0] >= max(self.config.interval_s, 10):
            there = self._all()
            ceiling = _ceiling(there[0][1]) if there else 0
            self._looked = now, sorted(e.time for e, _ in there if e.time is not None and e.time <= ceiling)
        times = self._looked[1]
        at = self._new_window(after).time
        behind = [t for t in times if at is None or t > at]
        seconds = (behind[-1] - at) / 1e6 if behind and at is not None else None if behind else 0.0
        return Lag(records=len(behind), seconds=seconds)


def client_of(config: HttpPollConfig) -> ApiClient:
    """The client that a pipeline's settings describe."""
    return ApiClient(
        config.url,
        allow_hosts=config.allow_hosts,
        headers={name: value.get_secret_value() for name, value in config.headers.items()},
        token=None if config.token is None else config.token.get_secret_value(),
        timeout_s=config.timeout_s,
        max_body_bytes=config.max_body_bytes,
        max_ratio=config.max_ratio,
    )


def since_value(template: str, time_us: int | None, id: str | None) -> str | None:
    """The value of the parameter that asks for newer elements; None while nothing was read."""
    if "{id}" in template:
        return None if id is None else template.replace("{id}", id)
    if time_us is None:
        return None
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    said = {
        "{iso}": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "{date}": moment.strftime("%Y-%m-%d"),
        "{s}": str(time_us // 1_000_000), "{ms}": str(time_us // 1000), "{us}": str(time_us),
    }  # fmt: skip
    for name, value in said.items():
        template = template.replace(name, value)
    return template


def _ceiling(answer: Answer) -> int:
    """The server's own time, and a little; where it does not say, ours."""
    now = answer.date_us("Date")
    return (time.time_ns() // 1000 if now is None else now) + _AHEAD_US
