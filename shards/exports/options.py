"""What an export is asked for: the format, the streams, the ids, the sizes; checked when made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from headrace.schemas.errors import ConfigError

Target = Literal["mds", "webdataset", "energon", "megatron", "litdata", "parquet", "huggingface"]
TARGETS: tuple[Target, ...] = get_args(Target)
Ids = Literal["own", "unified"]
Fold = Literal["all", "train", "validation"]
#: A control id to put in: a number, none of it, or what the dataset names where the format needs one.
Mark = int | Literal["auto", "none"]

#: Bytes of a shard where nothing else is said; None: a stream is one file.
DEFAULT_SHARD_BYTES: dict[Target, int | None] = {
    "mds": 64 << 20,
    "webdataset": 256 << 20,
    "energon": 256 << 20,
    "megatron": None,
    "litdata": 64 << 20,
    "parquet": 256 << 20,
    "huggingface": 512 << 20,
}
#: Formats that point into a shard with 32 bits.
LARGEST_SHARD_BYTES: dict[Target, int] = {"mds": (1 << 32) - 1, "litdata": (1 << 32) - 1}
#: Formats of tokens and nothing else.
TOKENS_ONLY: frozenset[Target] = frozenset({"megatron", "litdata"})
#: Formats that refuse, or whose trainers stumble over, a sample without tokens.
NO_EMPTY: frozenset[Target] = frozenset({"mds", "megatron", "litdata"})

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_MAX_ID = (1 << 32) - 1


@dataclass(frozen=True)
class ExportOptions:
    """Settings of an export. Two runs with equal options on one version of a dataset write equal files.

    streams: names or `name@*`; empty for all. ids: the tokenizers' own, or the unified view of the vocabulary.
    max_shard_bytes: None for the format's default. bos, eod: see `marks.py`.
    """

    to: Target
    streams: tuple[str, ...] = ()
    ids: Ids = "own"
    fold: Fold = "all"
    max_shard_bytes: int | None = None
    bos: Mark = "auto"
    eod: Mark = "auto"

    def __post_init__(self) -> None:
        """Raises: ConfigError that names the option, the value and what would be right."""
        named = (("--to", self.to, TARGETS), ("--ids", self.ids, get_args(Ids)), ("--fold", self.fold, get_args(Fold)))
        for field, value, allowed in named:
            if value not in allowed:
                raise ConfigError(f"{value!r} is unknown: {', '.join(allowed)}", field=field, value=value)
        for field, mark in (("--bos", self.bos), ("--eod", self.eod)):
            a_number = isinstance(mark, int) and not isinstance(mark, bool) and 0 <= mark <= _MAX_ID
            if not a_number and mark not in ("auto", "none"):
                raise ConfigError(f"should be a token id, auto or none, not {mark!r}", field=field, value=mark)
        size, most = self.max_shard_bytes, LARGEST_SHARD_BYTES.get(self.to)
        if size is not None and size < 1:
            raise ConfigError("should be at least one byte", field="--max-shard-size", value=size)
        if size is not None and most is not None and size > most:
            message = f"a shard of {self.to} holds less than 4 GiB: it points into itself with 32 bits"
            raise ConfigError(message, field="--max-shard-size", value=size)

    @property
    def shard_bytes(self) -> int | None:
        """The size at which a new shard begins; None: never."""
        return DEFAULT_SHARD_BYTES[self.to] if self.max_shard_bytes is None else self.max_shard_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the manifest and to compare two exports."""
        return {
            "to": self.to,
            "streams": list(self.streams),
            "ids": self.ids,
            "fold": self.fold,
            "max_shard_bytes": self.shard_bytes,
            "bos": self.bos,
            "eod": self.eod,
        }


def parse_size(text: str) -> int:
    """Bytes of `500MB`, `1GiB`, `64k`; KiB, MiB … count in 1,024, KB, MB … in 1,000. Raises: ConfigError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError("should be a size such as 500MB or 1GiB", field="--max-shard-size", value=text)
    base = 1024 if match.group(3) else 1000
    return int(float(match.group(1)) * base ** " KMGT".index(match.group(2).upper() or " "))


def parse_mark(text: str, field: str) -> Mark:
    """A token id, auto or none. Raises: ConfigError."""
    if text in ("auto", "none"):
        return "auto" if text == "auto" else "none"
    if not re.fullmatch(r"\d{1,10}", text):
        raise ConfigError(f"should be a token id, auto or none, not {text!r}", field=field, value=text)
    return int(text)
