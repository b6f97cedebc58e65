"""A picture with what lies beside it under one key: captions, labels and metadata, as WebDataset archives group them.

Each picture of the group becomes records; a caption (`.txt`, `.caption`, `.md`) becomes a text record of the same
group; short values (`.cls`, `.json`) go to `extra` of the pictures, word for word, under their extension. What is
neither costs itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pyarrow as pa

from headrace.connectors.contract import Blob, Item
from headrace.ingest.normalizers import strict_json
from headrace.ingest.normalizers.contract import Bad, Normalized
from headrace.ingest.normalizers.image_open import PLUGINS, UNSUPPORTED
from headrace.ingest.normalizers.text import TextConfig, TextNormalizer, formats_of
from headrace.ingest.normalizers.text_batch import placed
from headrace.ingest.normalizers.text_encoding import decode
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.record import draft_schema

_CAPTIONS = frozenset({"txt", "text", "caption", "md", "markdown"})
_VALUES = frozenset({"text", "json", "jsonl", "xml", "csv", "tsv", "unknown"})
MAX_VALUE_BYTES = 1 << 16

Open = Callable[[Item], Iterator[Normalized]]


def group_records(item: Item, blobs: list[Blob], open_picture: Open) -> Iterator[Normalized]:
    """The records of a group: pictures, then captions, each by name. Raises: RecordError if no file is a picture."""
    members = sorted(zip(blobs, formats_of(item)), key=lambda member: member[0].id)
    pictures = [(blob, name) for blob, name in members if name in PLUGINS or name in UNSUPPORTED]
    if not pictures:
        raise RecordError("inconsistent", f"none of {', '.join(blob.name for blob in blobs[:8])} is a picture")
    captions = [(blob, name) for blob, name in members if _ending(blob) in _CAPTIONS and name in ("text", "markdown")]
    values: dict[str, Any] = {}
    bad: list[Bad] = []
    for blob, name in members:
        if (blob, name) not in pictures and (blob, name) not in captions:
            try:
                values[_ending(blob) or blob.name] = _value(blob, name)
            except RecordError as exc:
                bad.append(
                    Bad(exc.reason, f"{blob.name}: {exc.message}", canonical_json({"member": blob.name}).decode())
                )
    for blob, name in pictures:
        yield from _picture(item, blob, name, values, open_picture)
    text = TextNormalizer(TextConfig())
    for blob, name in captions:
        yield from text.member(item, blob, name)
    yield from bad


def _ending(blob: Blob) -> str:
    """What tells a member from its siblings: all behind the first dot of its name, as WebDataset has it."""
    return blob.name.partition(".")[2].lower().rpartition(".")[2]


def _value(blob: Blob, name: str) -> Any:
    if name not in _VALUES:
        raise RecordError(f"unsupported:{name}", f"{name} beside a picture is not read by an image stream")
    if blob.size > MAX_VALUE_BYTES:
        raise RecordError("too_large", f"{blob.size} bytes beside a picture; {MAX_VALUE_BYTES} are kept in `extra`")
    data = blob.read()
    if name == "json":
        return strict_json.loads_verbatim(data)
    return decode(data).text


def _picture(item: Item, blob: Blob, name: str, values: dict[str, Any], open_picture: Open) -> Iterator[Normalized]:
    place = {"member": blob.name}
    headers = {**item.headers, "format": name}
    headers.pop("truncated", None)  # said of the group, whose broken member is told by itself
    try:
        for got in open_picture(Item(blob, item.position, key=item.key, headers=headers)):
            if isinstance(got, Bad):
                locator = canonical_json({**place, **orjson.loads(got.locator)}).decode()
                yield Bad(got.reason, f"{blob.name}: {got.message}", locator, got.data)
            else:
                yield _with_values(placed(got, place), values)
    except RecordError as exc:
        data = blob.read() if blob.size <= 16 << 20 else None
        yield Bad(exc.reason, f"{blob.name}: {exc.message}", canonical_json(place).decode(), data)


def _with_values(batch: pa.RecordBatch, values: dict[str, Any]) -> pa.RecordBatch:
    """The batch with the group's short values in `extra`, numbers as they were spelled."""
    if not values:
        return batch
    extras = [{**(orjson.loads(old) if old else {}), "beside": values} for old in batch.column("extra").to_pylist()]
    index = draft_schema("image").names.index("extra")
    columns = list(batch.columns)
    columns[index] = pa.array([strict_json.dumps(extra).decode() for extra in extras], pa.string())
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)
