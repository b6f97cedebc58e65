"""The error tree: callers catch a branch, never a library's own classes.

HeadraceError
├── ConfigError          the pipeline file, an option or an artefact is wrong: stops before the first byte
│   ├── MissingExtra     a library of an optional extra is not installed
│   └── SettingsDiffer   the output belongs to other settings
├── RecordError          one record is bad: it is quarantined, the run goes on
├── SourceError          a source cannot be read now
│   ├── RateLimited      a source asks to be left alone for a while
│   └── SourceChanged    a source is not the one that was planned
├── StorageError         the output cannot be written or read
│   └── NotExclusive     the store cannot create a name exactly once
├── LogError             the commit log is not what it says
│   ├── Fenced           a newer writer took over
│   ├── BrokenLog        a hash, a link or an entry is wrong or missing
│   ├── Unbalanced       the books of an entry do not balance
│   └── FormatTooNew     written by a newer major version
├── ShardError           bytes of a shard differ from what the log says
└── TokenizerError       a tokenizer cannot do what was asked
    ├── NotFitted        it needs `headrace fit` first
    ├── SchemaMismatch   bands, units or dtype differ from the artefact's
    └── EngineMismatch   a fast engine gave other tokens than the reference library
"""

from __future__ import annotations

from typing import Any


class HeadraceError(Exception):
    """Root of everything that headrace raises on purpose. All travel between processes with their attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[HeadraceError], args: tuple[Any, ...], attributes: dict[str, Any]) -> HeadraceError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ConfigError(HeadraceError):
    """A setting is wrong. `field` is its path (`streams.tide.source.root`), `value` what stood there."""

    def __init__(self, message: str, *, field: str | None = None, value: Any = None) -> None:
        self.field = field
        self.value = value
        super().__init__(f"{field}: {message}" if field else message)


class MissingExtra(ConfigError):
    """A library is missing; the message names the extra that brings it."""

    def __init__(self, library: str, extra: str, *, need: str) -> None:
        self.extra = extra
        super().__init__(f"{need} needs `{library}`: install it with `pip install 'headrace[{extra}]'`")


class SettingsDiffer(ConfigError):
    """The output dataset was begun with other settings for this stream."""


class RecordError(HeadraceError):
    """One record is bad.

    `reason` is a stable code for tables and filters (see `REASONS`), optionally with a detail after a colon
    (`crash:SIGSEGV`, `unsupported:heif`); the message is for people and says what was found and what would be right.
    """

    def __init__(self, reason: str, message: str, *, locator: str | None = None) -> None:
        if reason.split(":", 1)[0] not in REASONS:
            raise ValueError(f"unknown reason code {reason!r}: declare it in REASONS")
        self.reason = reason
        self.message = message
        self.locator = locator
        super().__init__(f"{reason}: {message}")


#: Every reason code, with the sentence shown in tables.
REASONS: dict[str, str] = {
    "truncated": "the data ends before its header or index says it should",
    "corrupt": "the bytes contradict their own format",
    "checksum": "a checksum inside the file does not match its bytes",
    "empty": "there is nothing in it",
    "unknown_format": "no known format starts with these bytes",
    "unsupported": "a known format or codec that is out of scope",
    "external_reference": "it points to other files or hosts, which data may not do",
    "too_large": "its header asks for more than the limits allow",
    "bomb": "it expands beyond the allowed ratio",
    "encrypted": "it is encrypted",
    "bad_encoding": "text that is not valid in its declared encoding",
    "invalid_json": "not strict JSON",
    "invalid_row": "a row that does not parse",
    "missing_field": "a field that the pipeline names is absent",
    "wrong_type": "a field has another type than the stream's schema",
    "no_time": "no usable time stamp",
    "no_signal": "no channel that can be read as numbers",
    "schema_mismatch": "bands, units or dtype differ from what the tokenizer was made for",
    "not_fitted": "its tokenizer was never fitted",
    "inconsistent": "parts of one product do not fit together",
    "encode_failed": "the tokenizer could not encode it",
    "io_error": "it could not be read",
    "hang": "decoding took longer than its time limit",
    "oom": "decoding needed more memory than its limit",
    "crash": "decoding killed its process",
    "internal": "headrace itself failed on this record; please report it",
}


class SourceError(HeadraceError):
    """A source cannot be read now; a retry may help."""


class RateLimited(SourceError):
    """A source refuses more requests for `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class SourceChanged(SourceError):
    """A source differs from the pin taken when it was planned."""


class StorageError(HeadraceError):
    """The dataset's storage refused: full, read-only, missing, or unreachable."""


class NotExclusive(StorageError):
    """The store lets two writers create one name, so it cannot hold a commit log."""


class LogError(HeadraceError):
    """The commit log is not what it says it is."""


class Fenced(LogError):
    """A writer with a higher epoch has claimed this dataset."""


class BrokenLog(LogError):
    """An entry is missing, torn, or does not match its hash."""


class Unbalanced(LogError):
    """The books of an entry do not balance, so it was not committed."""


class FormatTooNew(LogError):
    """The dataset was written by a newer major version of headrace."""


class ShardError(HeadraceError):
    """The bytes of a shard differ from what the log says."""


class TokenizerError(HeadraceError):
    """A tokenizer cannot do what was asked."""


class NotFitted(TokenizerError):
    """The tokenizer has no artefact yet."""


class SchemaMismatch(TokenizerError):
    """A record's bands, units or dtype differ from the artefact's."""


class EngineMismatch(TokenizerError):
    """A fast engine gave other tokens than the reference library for `row` of the batch.

    The record is not quarantined: it is good, and the engine is not.
    """

    def __init__(self, message: str, *, engine: str, row: int) -> None:
        self.engine = engine
        self.row = row
        super().__init__(message)
