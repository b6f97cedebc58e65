"""One call of a tokenizer, with every way in which it can fail turned into a reason for quarantine.

One way is no reason: a fast engine that gives other tokens than the reference library. The record is good, and every
sample that the engine made is in doubt, so the task ends there, before anything of it is committed, and the engine is
retired by the log (see `shards/engines.py`).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from headrace.ingest.origin import Suspects
from headrace.ingest.walk import InFlight
from headrace.schemas.errors import EngineMismatch, HeadraceError, RecordError, SchemaMismatch
from headrace.shards import entry as log
from headrace.shards.entry import RetiredEngine
from headrace.tokenizers.contract import Encoded, Tokenizer

Failure = tuple[str, str]  #: (reason code, message)


class WrongEngine(EngineMismatch):
    """An engine mismatch with all that the log wants to know of it."""

    def __init__(self, message: str, *, row: int, retired: RetiredEngine) -> None:
        self.retired = retired
        super().__init__(message, engine=retired.engine, row=row)


def wrong_engine(exc: EngineMismatch, tokenizer: Tokenizer, stream: str, records: pa.RecordBatch) -> WrongEngine:
    """The mismatch with the document named that it was found by."""
    row = min(max(exc.row, 0), records.num_rows - 1)
    record = records.column("record_id")[row].as_py().hex()
    uri, locator = records.column("uri")[row].as_py(), records.column("locator")[row].as_py()
    return WrongEngine(
        f"{exc.engine} gives other tokens than the reference library for the document {uri} at {locator} of {stream}"
        f" (record {record}): {exc}",
        row=row,
        retired=RetiredEngine(tokenizer.fingerprint, exc.engine, stream, record),
    )


def retirement(error: dict[str, Any]) -> log.Entry:
    """The entry that retires the engine of a task's failure, as the child told it (see `child.py`)."""
    return log.Entry(kind="commit", retired_engines=[RetiredEngine.from_json(error["retired"])])


def encode(
    tokenizer: Tokenizer | None, records: pa.RecordBatch, slot: InFlight, suspects: list[Suspects], stream: str = ""
) -> tuple[Encoded | None, Failure | None]:
    """The samples of a record batch (None when raw), or why there are none. Out of memory ends the process.

    Raises: WrongEngine that names the document of `stream`.
    """
    failure: Failure | None = None
    encoded: Encoded | None = None
    slot.enter("encode", suspects)
    try:
        if tokenizer is not None:
            encoded = tokenizer.encode(records)
    except MemoryError:
        slot.out_of_memory()
        raise
    except EngineMismatch as exc:
        slot.leave()
        assert tokenizer is not None
        raise wrong_engine(exc, tokenizer, stream, records) from exc
    except SchemaMismatch as exc:
        failure = ("schema_mismatch", str(exc))
    except RecordError as exc:
        failure = (exc.reason, exc.message)
    except HeadraceError as exc:
        failure = ("encode_failed", str(exc))
    except Exception as exc:  # of a tokenizer of somebody else: one record is at fault, and is found by halving
        failure = ("encode_failed", f"{type(exc).__name__}: {exc}")
    slot.leave()
    return encoded, failure
