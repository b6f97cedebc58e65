"""Text out of JSON: lines of it, a document, or a document that is an array of records.

An array of objects gives one record per element. Any other document is one record; with `records` the objects at that
path are the records (`data.paragraphs`: every array on the way is entered). A bad record costs one record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers import strict_json
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.text_batch import Document
from headrace.ingest.normalizers.text_encoding import decode
from headrace.ingest.normalizers.text_fields import FieldPicker
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

_SPACE = b" \t\n\r"
_MARK = b"\xef\xbb\xbf"
#: A parsed document takes about this many times its bytes as Python objects.
PARSED_RATIO = 16


def lines_of_table(lines: pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
    """(byte, line) of a batch of lines as connectors give them: line: large_binary, byte: int64."""
    column = lines.column("line")
    starts = lines.column("byte").to_pylist()
    if not pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_binary())
    _, offsets_buffer, data = column.buffers()
    offsets = memoryview(offsets_buffer).cast("q")[column.offset : column.offset + len(column) + 1]
    whole = memoryview(data) if data is not None else memoryview(b"")
    start = offsets[0]
    for number, byte in enumerate(starts):
        end = offsets[number + 1]
        yield byte, whole[start:end].tobytes()
        start = end


def lines_of_stream(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(byte, line) of a file. Raises: RecordError `too_large` at a line that is longer than `max_bytes`."""
    byte = 0
    while line := stream.readline(max_bytes + 1):
        if len(line) > max_bytes:
            raise RecordError(
                "too_large", f"the line at byte {byte} is longer than {max_bytes} bytes", locator=f'{{"byte":{byte}}}'
            )
        yield byte, line
        byte += len(line)


def from_lines(lines: Iterator[tuple[int, bytes]], picker: FieldPicker) -> Iterator[Document | Bad]:
    """One record per line that holds a JSON value; blank lines are none."""
    for byte, line in lines:
        try:
            if byte == 0 and line.startswith(_MARK):
                line = line[3:]
            text, columns = picker.from_json(line)
        except RecordError as exc:
            if line.strip(_SPACE):
                yield Bad(exc.reason, f"the line at byte {byte}: {exc.message}", f'{{"byte":{byte}}}', line)
            continue
        yield f'{{"byte":{byte}}}', text, columns


def from_document(
    blob: Blob, picker: FieldPicker, *, encoding: str | None, records: str | None, limits: Limits
) -> Iterator[Document | Bad]:
    """The records of one JSON document. Raises: RecordError."""
    largest = limits.max_bytes // PARSED_RATIO
    if blob.size > largest:
        message = f"a JSON document of {blob.size} bytes is parsed at once, which the limits allow up to {largest}"
        raise RecordError("too_large", f"{message}; JSON Lines of any size are read line by line")
    decoded = decode(blob.read(), encoding)
    if decoded.torn_at is not None:
        raise RecordError("truncated", f"the document ends inside the character at byte {decoded.torn_at}")
    data = decoded.text.encode()
    if not data.strip(_SPACE):
        raise RecordError("empty", "there is no JSON value in it")
    if records is not None:
        documents = _from_path(data, records, picker)
    elif decoded.text.lstrip(" \t\n\r").startswith("["):
        documents = _from_array(decoded.text, data, picker)
    else:
        documents = iter([whole(data, picker)])
    for document in documents:
        if decoded.transforms and not isinstance(document, Bad):
            document[2]["transforms"] = decoded.transforms
        yield document


def whole(data: bytes, picker: FieldPicker) -> Document:
    """The record of a JSON document that is one, in UTF-8 without a byte order mark. Raises: RecordError."""
    text, columns = picker.from_json(data)
    if b'"stac_version"' in data and _is_stac(strict_json.loads(data)):
        columns["flags"] = [*columns.get("flags", []), "stac"]
    return "{}", text, columns


def _from_array(text: str, data: bytes, picker: FieldPicker) -> Iterator[Document | Bad]:
    """One record per element. Those before a damage are had, and the rest is one refused record.

    An array that does not hold objects alone (numbers, strings) is one document.
    """
    strict_json.refuse_depth(data)
    spans: list[tuple[int, int]] = []
    damage: RecordError | None = None
    try:
        spans.extend(strict_json.elements(text))
    except RecordError as exc:
        damage = exc
    if not spans or any(text[start] != "{" for start, _ in spans):
        if damage is not None:
            raise damage
        yield whole(data, picker)
        return
    for number, (start, end) in enumerate(spans):
        yield _element(text[start:end].encode(), f'{{"index":{number}}}', f"element {number}", picker)
    if damage is not None:
        yield Bad(damage.reason, damage.message, f'{{"from_index":{len(spans)}}}', None)


def _element(data: bytes, locator: str, name: str, picker: FieldPicker) -> Document | Bad:
    try:
        text, columns = picker.from_json(data)
    except RecordError as exc:
        return Bad(exc.reason, f"{name}: {exc.message}", locator, data)
    return locator, text, columns


def _from_path(data: bytes, records: str, picker: FieldPicker) -> Iterator[Document | Bad]:
    found = False
    for pointer, value in _descend(strict_json.loads_verbatim(data), records.split("."), ""):
        found = True
        locator = canonical_json({"pointer": pointer}).decode()
        yield _element(strict_json.dumps(value), locator, pointer, picker)
    if not found:
        raise RecordError("missing_field", f"the document has nothing at `{records}`, where its records should be")


def _descend(value: Any, names: list[str], pointer: str) -> Iterator[tuple[str, Any]]:
    """(JSON pointer, value) of everything at a path, RFC 6901; every array on the way is entered."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _descend(inner, names, f"{pointer}/{index}")
    elif not names:
        yield pointer, value
    elif isinstance(value, dict) and names[0] in value:
        escaped = names[0].replace("~", "~0").replace("/", "~1")
        yield from _descend(value[names[0]], names[1:], f"{pointer}/{escaped}")


def _is_stac(value: Any) -> bool:
    """STAC 1.0: catalogues, collections and items all name the version."""
    kinds = ("Feature", "Collection", "Catalog")
    return isinstance(value, dict) and "stac_version" in value and value.get("type") in kinds
