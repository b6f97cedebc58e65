"""A JetStream message as an item: what becomes its key, its time and its headers."""

from __future__ import annotations

from headrace.connectors.contract import Item
from headrace.connectors.nats_pull import Delivered

#: Headers by which the engine is told things; a producer's header of such a name must not pass for ours.
_OURS = frozenset(
    {"format", "formats", "object", "part", "group", "media_type", "rights", "truncated", "uri", "subject"}
)


def read_message(found: Delivered) -> Item:
    """Position: the stream sequence. Key: the header Nats-Msg-Id. Time: when the stream took it, by the server."""
    theirs = found.message.headers()
    headers = {f"header.{name}" if name in _OURS else name: value for name, value in theirs.items()}
    headers["subject"] = found.message.subject.decode("utf-8", "backslashreplace")
    kind = next((value for name, value in theirs.items() if name.lower() == "content-type"), None)
    if kind is not None:
        headers["media_type"] = kind.split(";")[0].strip().lower()
    return Item(found.message.payload, found.seq, theirs.get("Nats-Msg-Id"), found.time_ns // 1000, headers)
