"""What encodes the text of a tokenizer: the fast engine where it is proven, else the reference library.

A tokenizer builds one of these when it is loaded. The engine is proven against the reference library on the spot; where
it cannot be built or is disproven, the reference encodes and `reason` says why. From then on one document in
`CHECKED_SHARE`, chosen by its record id, is encoded by both, for ever; a difference raises EngineMismatch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from headrace.schemas.errors import EngineMismatch
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.contract import Encoded, Tokenizer
from headrace.tokenizers.engine_cuts import Cuts
from headrace.tokenizers.engine_proof import Encode, disproof, first_difference
from headrace.tokenizers.engine_words import Reference, Rows, WordEngine

#: One document in so many is compared with the reference library for ever; 0 compares none. Tokens do not depend on it.
CHECKED_SHARE = 1024
#: Whether texts may be encoded by anything but the reference library, in this process.
ENABLED = True
#: The name of the engine. Its number grows with every change of engine_words.py or engine_cuts.py that could matter.
NAME = "words 1"
REFERENCE = "reference"


def configure(fast: bool, check_one_in: int) -> None:
    """Set ENABLED and CHECKED_SHARE for this process: before a tokenizer is loaded."""
    global ENABLED, CHECKED_SHARE
    ENABLED, CHECKED_SHARE = fast, check_one_in


class TextEngine:
    """Encodes text columns (large_string without nulls) to `dtype`."""

    def __init__(self, reference: Encode, library: str, dtype: str) -> None:
        """reference: the library on a column; library: its name and version."""
        self._reference = reference
        self._library = library
        self._dtype = np.dtype(dtype)
        self._fast: Encode | None = None
        self.reason: str | None = "no engine was built"  #: why the reference encodes; None while the engine does
        self.checked = 0  #: documents compared with the reference library so far

    @property
    def name(self) -> str:
        """`reference`, or the engine's name with its version and that of the library it asks."""
        return REFERENCE if self._fast is None else f"{NAME} ({self._library})"

    def use(self, fast: Encode, pieces: Sequence[str]) -> None:
        """Encode by `fast` from now on, if it is equal to the reference on the proof's texts for these pieces."""
        if not ENABLED:
            self.reason = "switched off"
            return
        self.reason = disproof(fast, self._by_reference, pieces)
        self._fast = fast if self.reason is None else None

    def use_words(
        self,
        cuts: Cuts | str,
        parts: Reference,
        pieces: Sequence[str],
        token_bytes: Array | None = None,
        around: Callable[[Encode, Encode], Encode] | None = None,
    ) -> None:
        """`use` a WordEngine.

        cuts: or why there are none; parts: the library on parts of texts; token_bytes: see there.
        around: makes of (the engine, the reference) what encodes a column.
        """
        if isinstance(cuts, str):
            self.reason = cuts
            return
        words = WordEngine(cuts, parts, self._dtype, token_bytes)
        self.use(words.encode if around is None else around(words.encode, self._by_reference), pieces)

    def retire(self, reason: str = "retired") -> None:
        """The reference library encodes from now on."""
        self._fast, self.reason = None, reason

    def encode(self, records: pa.RecordBatch) -> Rows:
        """(ids of all rows end to end, rows + 1 offsets). Raises: EngineMismatch."""
        texts = records.column("text")
        if self._fast is None:
            return self._by_reference(texts)
        values, offsets = self._fast(texts)
        for row in _chosen(records):
            self._compare(records, row, values[offsets[row] : offsets[row + 1]])
        return values, offsets

    def _by_reference(self, texts: pa.Array) -> Rows:
        values, offsets = self._reference(texts)
        return values.astype(self._dtype, copy=False), offsets

    def _compare(self, records: pa.RecordBatch, row: int, fast: Array) -> None:
        slow, _ = self._by_reference(records.column("text").slice(row, 1))
        self.checked += 1
        at = first_difference(fast, slow)
        if at is not None:
            record = records.column("record_id")[row].as_py().hex()
            ids = [f"id {rows[at]}" if at < len(rows) else "no id" for rows in (fast, slow)]
            message = f"record {record}: {self.name} gives {ids[0]} at token {at}, {self._library} gives {ids[1]}"
            raise EngineMismatch(message, engine=self.name, row=row)


class EngineTokenizer(Tokenizer):
    """Base of text tokenizers that encode by a TextEngine: what is told of it, and how it is retired."""

    _engine: TextEngine | None = None  #: made when there is an artefact

    @property
    def engine(self) -> str:
        return REFERENCE if self._engine is None else self._engine.name

    @property
    def engine_reason(self) -> str | None:
        """Why the reference library encodes; None while the engine does."""
        return "not fitted" if self._engine is None else self._engine.reason

    @property
    def checked(self) -> int:
        """Documents that were compared with the reference library so far."""
        return 0 if self._engine is None else self._engine.checked

    def retire_engine(self) -> None:
        if self._engine is not None:
            self._engine.retire()


def _chosen(records: pa.RecordBatch) -> list[int]:
    """The rows to compare: by record id alone, so the same ones in every run. Drafts have no ids and none is chosen."""
    if CHECKED_SHARE <= 0 or "record_id" not in records.schema.names or not records.num_rows:
        return []
    ids = records.column("record_id")
    words = np.frombuffer(ids.buffers()[1], "<u8", 2 * len(ids), 16 * ids.offset)[::2]
    rows: list[int] = np.flatnonzero(words % np.uint64(CHECKED_SHARE) == 0).tolist()
    return rows


def encoded(values: Array, offsets: Array, unknown: int | None) -> Encoded:
    """Tokens with the share of the unknown id in each row; there is no error to measure in text."""
    rows = len(offsets) - 1
    clips = np.zeros(rows, np.float32)
    if unknown is not None and unknown >= 0:
        found = np.flatnonzero(values == unknown)
        if len(found):
            lengths = np.diff(offsets)
            counts = np.diff(np.searchsorted(found, offsets))
            np.divide(counts, lengths, out=clips, where=lengths > 0, casting="unsafe")
    return Encoded(values, offsets, np.full(rows, np.nan, np.float32), clips)


def rows_of(found: Sequence[Array], dtype: np.dtype[np.generic]) -> Rows:
    """Ids of texts that a library gave one array each, end to end."""
    offsets = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(ids) for ids in found], out=offsets[1:])
    return (np.concatenate(found).astype(dtype, copy=False) if found else np.empty(0, dtype)), offsets
