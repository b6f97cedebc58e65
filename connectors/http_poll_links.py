"""Where the next page is: the Link header (RFC 8288), or a place in the document. No input or output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

_PARAMETER = re.compile(r'[^",;]+|"(?:[^"\\]|\\.)*"')
_MOST = 64 << 10  #: characters of Link headers that are looked at


def next_link(values: Iterable[str], base: str) -> str | None:
    """The target of the first link whose relation types name `next`, as an absolute URL."""
    for value in values:
        for target, relations in _links(value[:_MOST]):
            if "next" in relations:
                return urljoin(base, target)
    return None


def _links(value: str) -> Iterator[tuple[str, list[str]]]:
    """(target, relation types) of each link: `<target>; name=token; name="quoted", <target> …`."""
    at = 0
    while (begin := value.find("<", at)) >= 0 and (end := value.find(">", begin)) >= 0:
        at, parameters, current = end + 1, [], ""
        while at < len(value) and value[at] != ",":
            found = _PARAMETER.match(value, at)
            if found is None:  # a semicolon, or a quote that never ends
                parameters.append(current)
                current, at = "", at + 1
            else:
                current, at = current + found[0], found.end()
        relations: list[str] = []
        for parameter in [*parameters, current]:
            name, _, text = parameter.partition("=")
            if name.strip().lower() == "rel" and not relations:
                relations = text.strip().strip('"').lower().split()
        yield value[begin + 1 : end], relations


def next_of(value: Any, base: str) -> str | None:
    """The URL that a document names: a string, or an object with `href`; None where there is no next page.

    Raises: ValueError for anything else.
    """
    if isinstance(value, dict):
        value = value.get("href")
    if value is None or value == "" or value is False:
        return None
    if not isinstance(value, str):
        raise ValueError(f"a URL is expected, not {type(value).__name__}")
    return urljoin(base, value)


def with_parameters(url: str, parameters: Mapping[str, str], *, replace: bool = True) -> str:
    """The URL with parameters in its query; with `replace` ours go before those of the same name, else theirs."""
    if not parameters:
        return url
    parts = urlsplit(url)
    there = parse_qsl(parts.query, keep_blank_values=True)
    if replace:
        kept = [(name, value) for name, value in there if name not in parameters]
        kept += parameters.items()
    else:
        names = {name for name, _ in there}
        kept = there + [(name, value) for name, value in parameters.items() if name not in names]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(kept), ""))
