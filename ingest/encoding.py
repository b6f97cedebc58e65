"""One call of a tokenizer, with every way in which it can fail turned into a reason for quarantine."""

from __future__ import annotations

import pyarrow as pa

from headrace.ingest.origin import Suspects
from headrace.ingest.walk import InFlight
from headrace.schemas.errors import HeadraceError, RecordError, SchemaMismatch
from headrace.tokenizers.contract import Encoded, Tokenizer

Failure = tuple[str, str]  #: (reason code, message)


def encode(
    tokenizer: Tokenizer | None, records: pa.RecordBatch, slot: InFlight, suspects: list[Suspects]
) -> tuple[Encoded | None, Failure | None]:
    """The samples of a record batch (None when raw), or why there are none. Out of memory ends the process."""
    failure: Failure | None = None
    encoded: Encoded | None = None
    slot.enter("encode", suspects)
    try:
        if tokenizer is not None:
            encoded = tokenizer.encode(records)
    except MemoryError:
        slot.out_of_memory()
        raise
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
