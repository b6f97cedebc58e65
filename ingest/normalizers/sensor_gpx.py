"""GPX tracks, routes and waypoints as channels: lat, lon, ele, and every number of a point and its extensions.

Each segment of a track is a table of its own, since between segments the receiver was off; so are each route and all
waypoints together. Names, descriptions and who made the file become one record of text. Read element by element, with
entities and external references refused (defusedxml).
Source: topografix.com/GPX/1/1/gpx.xsd and 1/0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.sensor_clock import Clock
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_records import Row, RowTable
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import MissingExtra, RecordError

Events = Iterator[Draft | Bad]

_POINTS = {"trkpt": "trk", "rtept": "rte", "wpt": "wpt"}
UNITS = {
    "lat": "deg", "lon": "deg", "ele": "m", "speed": "m/s", "course": "deg", "magvar": "deg", "geoidheight": "m",
    "hr": "{beat}/min", "cad": "{rev}/min", "atemp": "Cel", "wtemp": "Cel", "depth": "m",
}  # fmt: skip
#: Elements of a point whose text stays text, even if it looks like a number.
_WORDS = frozenset({"time", "name", "cmt", "desc", "src", "sym", "type"})
_MAX_TEXT = 1 << 20


class GpxLog:
    """One GPX file."""

    def __init__(self, stream: BinaryIO, config: SensorConfig) -> None:
        self._stream = stream
        self._config = config
        self._counts = {"trk": -1, "rte": -1, "wpt": 0}
        self._segment = -1
        self._tables: dict[tuple[str, bool], RowTable] = {}
        self._rows: dict[str, int] = {}
        self._about: dict[str, Any] = {}
        self._names: list[dict[str, Any]] = []
        self._text_left = _MAX_TEXT
        self._order = 0

    def events(self) -> Events:
        """All records. Raises: RecordError."""
        try:
            import defusedxml
            from defusedxml.ElementTree import ParseError, iterparse
        except ImportError as exc:
            raise MissingExtra("defusedxml", "sensor", need="reading GPX") from exc
        try:
            yield from self._walk(iterparse(self._stream, ("start", "end"), forbid_entities=True, forbid_external=True))
        except ParseError as exc:
            yield from self._close(("truncated",))
            reason = "truncated" if "no element" in str(exc) or "unclosed" in str(exc) else "corrupt"
            raise RecordError(reason, f"the GPX is not well-formed XML: {exc}") from exc
        except defusedxml.ExternalReferenceForbidden as exc:
            raise RecordError("external_reference", f"the GPX names another file: {exc}") from exc
        except defusedxml.DefusedXmlException as exc:
            if getattr(exc, "sysid", None) or getattr(exc, "pubid", None):
                raise RecordError("external_reference", f"the GPX defines an entity by another file: {exc}") from exc
            raise RecordError("bomb", f"the GPX defines entities: {exc}") from exc
        except (ValueError, LookupError) as exc:
            yield from self._close(("truncated",))
            raise RecordError("bad_encoding", f"the GPX cannot be decoded: {exc}") from exc
        yield from self._close(())

    def _walk(self, parser: Any) -> Events:
        stack: list[Any] = []
        for event, element in parser:
            name = _local(element.tag)
            if event == "start":
                stack.append(element)
                if len(stack) == 1:
                    self._root(name, element)
                elif name in ("trk", "rte") and len(stack) == 2:
                    self._counts[name] += 1
                    self._segment = -1
                elif name == "trkseg":
                    self._segment += 1
                continue
            stack.pop()
            if name in _POINTS:
                yield from self._point(name, element)
                self._forget(stack, element)
            elif name == "trkseg" or (name == "rte" and len(stack) == 1):
                yield from self._finish("trk" if name == "trkseg" else "rte")
                self._describe(name, element, stack)
                self._forget(stack, element)
            elif len(stack) == 1:
                self._describe(name, element, stack)
                self._forget(stack, element)

    def _root(self, name: str, element: Any) -> None:
        if name != "gpx":
            raise RecordError("corrupt", f"the root element is <{name}>, GPX begins with <gpx>")
        self._about = {k: v for k in ("creator", "version") if (v := element.get(k))}

    @staticmethod
    def _forget(stack: list[Any], element: Any) -> None:
        element.clear()
        if stack:
            with contextlib.suppress(ValueError):
                stack[-1].remove(element)

    def _point(self, name: str, element: Any) -> Events:
        kind = _POINTS[name]
        fields: dict[str, Any] = {key: _value(element.get(key)) for key in ("lat", "lon")}
        for child in element.iter():
            if child is not element and len(child) == 0:
                field = _local(child.tag)
                fields.setdefault(field, child.text if field in _WORDS else _value(child.text))
        timed = bool((fields.get("time") or "").strip())
        if not timed:
            fields.pop("time", None)
        number = self._rows.get(kind, 0)
        self._rows[kind] = number + 1
        table = self._tables.get((kind, timed))
        if table is None:
            table = self._tables[kind, timed] = self._new_table(kind, timed)
        yield from table.add(Row(number, fields, {kind: self._counts[kind], "point": number}, None, ordinal=number))

    def _new_table(self, kind: str, timed: bool) -> RowTable:
        """Points with a time and points without one never share a series."""
        self._order += 1
        place = {} if kind == "wpt" else {kind: self._counts[kind]}
        if kind == "trk":
            place["segment"] = self._segment
        clock = (
            Clock(["time"], "text", self._config, unit="iso")
            if timed
            else Clock([], "row", self._config, flags=["no_time"])
        )
        row_key = "waypoint" if kind == "wpt" else "point"
        return RowTable(self._config, place=place, row_key=row_key, units=UNITS, order=self._order << 20, clock=clock)

    def _describe(self, name: str, element: Any, stack: list[Any]) -> None:
        """Keeps the words of an element that is no point."""
        words = _words(element)
        size = len(canonical_json(words)) if words else 0
        if not words or size > self._text_left:
            return
        self._text_left -= size
        if name in ("trk", "rte"):
            self._names.append({name: self._counts[name], **words})
        elif len(stack) == 1:
            self._about[name] = words.get("", words)

    def _finish(self, kind: str, flags: tuple[str, ...] = ()) -> Events:
        self._rows.pop(kind, None)
        for timed in (True, False):
            table = self._tables.pop((kind, timed), None)
            if table is not None:
                yield from table.finish(flags)

    def _close(self, flags: tuple[str, ...]) -> Events:
        for kind in ("trk", "rte", "wpt"):
            yield from self._finish(kind, flags)
        if self._names:
            self._about["tracks"] = self._names
        if self._about and self._config.keeps_text:
            text = canonical_json(self._about).decode()
            yield Draft("text", {"locator": canonical_json({"gpx": "about"}).decode(), "text": f"{text}\n"}, 0)


def _local(tag: Any) -> str:
    return str(tag).rsplit("}", 1)[-1]


def _value(text: str | None) -> float | str | None:
    if text is None or not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _words(element: Any) -> dict[str, Any]:
    """The texts and attributes below an element by name; the element's own text under ""."""
    words: dict[str, Any] = dict(element.attrib)
    if element.text and element.text.strip():
        words[""] = element.text.strip()
    for child in element:
        inner: Mapping[str, Any] = _words(child)
        if inner:
            words[_local(child.tag)] = inner[""] if set(inner) == {""} else dict(inner)
    return words
