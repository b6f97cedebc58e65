"""RSS and Atom feeds: each entry as a JSON object, whatever the dialect. No input or output.

    {"authors": […], "categories": […], "content": "…", "id": "…", "link": "…", "published": "…", "summary": "…",
     "title": "…", "updated": "…"}

Absent ones are left out; texts stand as the feed has them, HTML included; times stand as written.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from headrace.connectors.message_fields import event_time_us
from headrace.schemas.errors import MissingExtra, RecordError

#: our name → local names of elements, the best first
_TEXTS = {
    "id": ("id", "guid", "identifier"), "title": ("title",), "link": ("link",), "summary": ("summary", "description"),
    "content": ("encoded", "content"), "published": ("published", "issued", "pubDate", "date"),
    "updated": ("updated", "modified"),
}  # fmt: skip


def feed_entries(body: bytes) -> list[dict[str, Any]]:
    """The entries of a feed, in its order. Raises: RecordError for what is no feed, MissingExtra."""
    root = _tree(body)
    kind = _local(root.tag)
    if kind not in ("rss", "feed", "RDF"):
        raise RecordError("unsupported", f"XML of <{kind[:40]}>: an RSS or Atom feed is expected")
    return [_entry(element) for element in root.iter() if _local(element.tag) in ("item", "entry")]


def entry_time_us(entry: dict[str, Any]) -> int | None:
    """When an entry was last changed, else published, as microseconds since 1970."""
    for name in ("updated", "published"):
        text = entry.get(name)
        if isinstance(text, str):
            known = event_time_us(text, "iso")
            known = _mail_time_us(text) if known is None else known
            if known is not None:
                return known
    return None


def entry_bytes(entry: dict[str, Any]) -> bytes:
    """The spelling of an entry: sorted names, UTF-8."""
    return orjson.dumps(entry, option=orjson.OPT_SORT_KEYS)


def _tree(body: bytes) -> Any:
    try:
        from defusedxml.ElementTree import ParseError, fromstring
    except ModuleNotFoundError as exc:
        raise MissingExtra("defusedxml", "http-poll", need="dividing feeds") from exc
    try:
        return fromstring(body, forbid_dtd=True)
    except (ParseError, ValueError, LookupError, RecursionError) as exc:
        raise RecordError("corrupt", f"the answer is no XML that is read here: {str(exc)[:200]}") from exc


def _entry(element: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, locals_ in _TEXTS.items():
        text = next(filter(None, (_text(child, name) for child in _children(element, locals_))), None)
        if text is not None:
            out[name] = text
    out.setdefault("id", out.get("link"))
    authors = [t for child in _children(element, ("author", "creator")) if (t := _author(child))]
    categories = [
        t for child in _children(element, ("category", "subject")) if (t := child.get("term") or _inner(child))
    ]
    out.update({"authors": authors or None, "categories": categories or None})
    return {name: value for name, value in out.items() if value is not None}


def _children(element: Any, names: tuple[str, ...]) -> Iterator[Any]:
    """Children by local name, those of the first name first."""
    for name in names:
        yield from (child for child in element if _local(child.tag) == name)


def _text(child: Any, name: str) -> str | None:
    if name == "link" and child.get("href"):
        return child.get("href") if child.get("rel", "alternate") == "alternate" else None
    if len(child):  # Atom's type="xhtml": the markup is the content
        from defusedxml.ElementTree import tostring

        return "".join(tostring(inner, encoding="unicode") for inner in child)
    return _inner(child)


def _author(child: Any) -> str | None:
    name = next((inner for inner in child if _local(inner.tag) == "name"), None)
    return _inner(child if name is None else name)


def _inner(child: Any) -> str | None:
    return (child.text or "").strip() or None


def _local(tag: Any) -> str:
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _mail_time_us(text: str) -> int | None:
    """RFC 822, as RSS writes times; one that names no zone is none."""
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else int(moment.astimezone(UTC).timestamp()) * 1_000_000
