"""Just enough of SentencePiece's model file (a protocol buffer) to read its pieces and change their types.

    ModelProto     field 1, repeated: SentencePiece     (all other fields are copied as they are)
    SentencePiece  field 1: piece, UTF-8;  2: score, float32;  3: type, 1 when absent

Types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from headrace.schemas.errors import ConfigError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def pieces(model: bytes) -> list[tuple[str, int]]:
    """(piece, type) of every id. Raises: ConfigError if it is not a SentencePiece model."""
    return [_piece(body) for number, body, _ in _fields(model) if number == 1 and isinstance(body, bytes)]


def without_control_text(model: bytes, is_control: Callable[[str], bool]) -> tuple[bytes, list[str]]:
    """(model, pieces changed): user-defined pieces that read like control become control, which text never yields."""
    out, changed = [], []
    for number, body, raw in _fields(model):
        if number == 1 and isinstance(body, bytes):
            piece, kind = _piece(body)
            if kind == USER_DEFINED and is_control(piece):
                changed.append(piece)
                kept = b"".join(part for inner, _, part in _fields(body) if inner != 3)
                body = kept + bytes((3 << 3, CONTROL))
                raw = b"\x0a" + _varint(len(body)) + body
        out.append(raw)
    return (b"".join(out), changed) if changed else (model, [])


def _piece(body: bytes) -> tuple[str, int]:
    piece, kind = "", NORMAL
    for number, value, _ in _fields(body):
        if number == 1 and isinstance(value, bytes):
            piece = value.decode("utf-8", "replace")
        elif number == 3 and isinstance(value, int):
            kind = value
    return piece, kind


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """(field number, value, raw bytes of the whole field)."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        wire = tag & 7
        value: bytes | int
        if wire == 0:
            value, at = _read_varint(data, at)
        elif wire == 2:
            length, at = _read_varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
            value, at = data[at : at + length], at + length
        else:
            raise ConfigError("this is not a SentencePiece model", field="model")
        if at > len(data):
            raise ConfigError("this SentencePiece model is cut short", field="model")
        yield tag >> 3, value, data[start:at]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ConfigError("this is not a SentencePiece model", field="model")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])
