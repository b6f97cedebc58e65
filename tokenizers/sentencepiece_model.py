"""Just enough of SentencePiece's model file (a protocol buffer) to read its pieces and change their types.

    ModelProto      field 1, repeated: SentencePiece;  2: TrainerSpec;  3: NormalizerSpec     (others are copied)
    SentencePiece   field 1: piece, UTF-8;  2: score, float32;  3: type, 1 when absent
    TrainerSpec     field 3: model type, 1 unigram (also when absent), 2 BPE;  24: white space is a suffix;
                    35: byte fallback
    NormalizerSpec  field 2: compiled rules;  3: a space is put in front;  4: extra spaces go;  5: spaces become U+2581
                    (3, 4 and 5 are true when absent)

Types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headrace.schemas.errors import ConfigError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2
_TRAINER, _NORMALIZER, _DUMMY_PREFIX = 2, 3, 3


@dataclass(frozen=True)
class ModelSettings:
    """How a model treats text around its pieces; the defaults are those of the format."""

    model_type: int = 1
    suffix_space: bool = False
    byte_fallback: bool = False
    rules: bytes = b""
    dummy_prefix: bool = True
    remove_spaces: bool = True
    escape_spaces: bool = True


def settings_of(model: bytes) -> ModelSettings:
    """The settings of a model. Raises: ConfigError if it is not a SentencePiece model."""
    specs: dict[int, dict[int, bytes | int]] = {_TRAINER: {}, _NORMALIZER: {}}
    for number, body, _ in _fields(model):
        if number in specs and isinstance(body, bytes):
            specs[number].update((inner, value) for inner, value, _ in _fields(body))
    trainer, normalizer = specs[_TRAINER], specs[_NORMALIZER]
    rules = normalizer.get(2, b"")
    return ModelSettings(
        int(trainer.get(3, 1)),
        bool(trainer.get(24, 0)),
        bool(trainer.get(35, 0)),
        rules if isinstance(rules, bytes) else b"",
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
        bool(normalizer.get(5, 1)),
    )


def without_dummy_prefix(model: bytes) -> bytes:
    """The same model, which puts no space in front of a text."""
    # of a message that stands twice a protocol buffer takes the union, the later field first
    extra = bytes((_DUMMY_PREFIX << 3, 0))
    return model + bytes((_NORMALIZER << 3 | 2, len(extra))) + extra


def pieces(model: bytes) -> list[tuple[str, int]]:
    """(piece, type) of every id. Raises: ConfigError if it is not a SentencePiece model."""
    found = []
    for number, body, _ in _fields(model):
        if number == 1 and isinstance(body, bytes):
            # most models spell all pieces alike: 0a LENGTH piece, 15 float32, perhaps 18 TYPE
            end = body[1] + 2 if len(body) > 1 and body[0] == 0x0A and body[1] < 128 else len(body)
            rest = body[end:]
            if len(rest) == 5 and rest[0] == 0x15:
                found.append((body[2:end].decode("utf-8", "replace"), NORMAL))
            else:
                found.append(_piece(body))
    return found


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
        tag, at = (data[at], at + 1) if data[at] < 128 else _read_varint(data, at)
        wire = tag & 7
        value: bytes | int
        if wire == 0:
            value, at = _read_varint(data, at)
        elif wire == 2:
            one = at < len(data) and data[at] < 128
            length, at = (data[at], at + 1) if one else _read_varint(data, at)
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
