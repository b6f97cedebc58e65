"""CSV and TSV as chunks of typed columns, with one bad row costing one row.

Three ways to read a block, each for what the one before it refused:

    fast      Arrow's reader with the columns' types; nothing is looked at twice
    strings   Arrow's reader with strings, each column then converted, and the rows with a cell that does not fit leave
    by rows   the rows one at a time, where some have another number of cells or quotes that never close

Types come from the first block: numbers are what reads as float64 with at most a tenth of the cells (or one cell) not
fitting; times that are numbers, and what names devices, stay text, so that no digit is lost. A column that is empty
there counts as numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_csv_blocks import Block, Row, TextBlocks, rows_of
from headrace.ingest.normalizers.sensor_plan import Plan
from headrace.ingest.normalizers.sensor_rows import MAX_RAW, BadRow
from headrace.ingest.normalizers.sensor_table import Chunk
from headrace.ingest.normalizers.sensor_time import Bool, mask_of

_EXACT = float(1 << 53)
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf(inity)?)$"


class CsvTable:
    """One table of text. `dialect` is known at once; `chunks` reads the rows."""

    def __init__(self, stream: BinaryIO, config: SensorConfig, *, tabs: bool) -> None:
        self.config = config
        self._blocks = TextBlocks(stream, config, tabs=tabs)
        self.dialect = self._blocks.dialect
        self.flags = self.dialect.flags
        self.units = self.dialect.units
        self.position: tuple[str, str] | None = None
        self.max_text = sys.maxsize  # rows of text are hardly longer than their lines
        self._kinds: dict[str, pa.DataType] = {}

    def chunks(self) -> Iterator[Chunk]:
        """All rows in file order; `rows` count every row that is neither blank nor a comment."""
        row = 0
        for block in self._blocks:
            if not self._kinds:
                self._kinds = self._infer(block)
            chunk, taken = self._parse(block, row)
            row += taken
            yield chunk

    def _parse(self, block: Block, row: int) -> tuple[Chunk, int]:
        """(chunk, how many rows the block has)."""
        if self._quotes_open(block):
            return self._by_rows(block, row)
        try:
            batch = self._read(block.data, self._kinds)
        except pa.ArrowInvalid:
            batch = None
        if batch is not None and not _beyond_exact(batch):
            rows = np.arange(row, row + batch.num_rows, dtype=np.int64)
            return Chunk(batch, rows, raw=self._places(block, None)), batch.num_rows
        try:
            strings = self._read(block.data, {name: pa.string() for name in self.dialect.names})
        except pa.ArrowInvalid:
            return self._by_rows(block, row)
        return self._converted(block, list(strings.columns), row, None)

    def _quotes_open(self, block: Block) -> bool:
        """Whether a quote of the block never closes: Arrow would take the rest of the block for one cell."""
        quote = self.dialect.quote.encode()
        return quote in block.data and block.data.count(quote) % 2 == 1

    def _read(self, data: bytes, kinds: Mapping[str, pa.DataType]) -> pa.RecordBatch:
        """All rows of a block. Raises: ArrowInvalid if any does not fit."""
        import pyarrow.csv as pacsv

        table = pacsv.read_csv(
            pa.py_buffer(data),
            read_options=pacsv.ReadOptions(
                use_threads=False, block_size=len(data) + 1, column_names=list(self.dialect.names)
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=self.dialect.delimiter, quote_char=self.dialect.quote, newlines_in_values=True
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict(kinds),
                null_values=list(self.config.missing),
                true_values=list(_TRUE),
                false_values=list(_FALSE),
                strings_can_be_null=False,
                decimal_point=self.dialect.decimal,
            ),
        )
        columns = [c.combine_chunks() if c.num_chunks != 1 else c.chunk(0) for c in table.columns]
        return pa.RecordBatch.from_arrays(columns, names=table.column_names)

    # types ------------------------------------------------------------------------------------------------------------

    def _infer(self, block: Block) -> dict[str, pa.DataType]:
        try:
            if self._quotes_open(block):
                raise pa.ArrowInvalid("a quote never closes")
            strings = list(self._read(block.data, {name: pa.string() for name in self.dialect.names}).columns)
        except pa.ArrowInvalid:
            rows = [r.cells for r in rows_of(block, self.dialect) if r.cells is not None]
            rows = [cells for cells in rows if len(cells) == len(self.dialect.names)]
            strings = [pa.array([cells[i] for cells in rows], pa.string()) for i in range(len(self.dialect.names))]
        declared = self.config.channels if isinstance(self.config.channels, dict) else {}
        kinds = {
            name: pa.float64() if name in declared else self._kind(texts)
            for name, texts in zip(self.dialect.names, strings)
        }
        for name in (self.config.device, self.config.channel, self.config.text_column):
            if name in kinds:
                kinds[name] = pa.string()
        if len(strings[0]) == 0:
            return kinds
        self._kinds = kinds
        plan = Plan(self._converted_whole(block, strings), self.config)
        exact = {leaf.top for leaf in (plan.device, plan.names) if leaf is not None}
        if plan.clock.how in ("number", "excel", "text"):
            exact |= set(plan.clock.columns)
        return {name: pa.string() if name in exact else kind for name, kind in kinds.items()}

    def _converted_whole(self, block: Block, strings: list[pa.Array]) -> pa.RecordBatch:
        """The first block in its types; cells that do not fit are null."""
        try:
            if not self._quotes_open(block):
                return self._read(block.data, self._kinds)
        except pa.ArrowInvalid:
            pass  # some cell does not fit: each column says which
        converted = [self._column(name, texts)[0] for name, texts in zip(self.dialect.names, strings)]
        return pa.RecordBatch.from_arrays(converted, names=list(self.dialect.names))

    def _kind(self, texts: pa.Array) -> pa.DataType:
        kept = self._filled(texts).drop_null()
        wrong = len(kept) - mask_of(self._is_number(kept)).sum()
        if len(kept) == 0 or (wrong <= max(1, len(kept) // 10) and wrong * 2 < len(kept)):
            return pa.float64()
        if mask_of(pc.is_in(kept, pa.array([*_TRUE, *_FALSE]))).all():
            return pa.bool_()
        return pa.string()

    def _filled(self, texts: pa.Array) -> pa.Array:
        """Trimmed cells, null where the cell says that there is no value."""
        trimmed = pc.utf8_trim_whitespace(texts)
        missing = pa.array([m.strip() for m in self.config.missing], pa.string())
        return pc.if_else(pc.is_in(trimmed, missing), None, trimmed)

    def _is_number(self, texts: pa.Array) -> pa.Array:
        return pc.match_substring_regex(self._pointed(texts), _NUMBER)

    def _pointed(self, texts: pa.Array) -> pa.Array:
        return pc.replace_substring(texts, ",", ".") if self.dialect.decimal == "," else texts

    # blocks with something wrong --------------------------------------------------------------------------------------

    def _by_rows(self, block: Block, row: int) -> tuple[Chunk, int]:
        width = len(self.dialect.names)
        kept: list[tuple[int, Row]] = []
        bad: list[BadRow] = []
        rows = [found for found in rows_of(block, self.dialect) if _fits(found, width) or not self._is_comment(found)]
        for index, found in enumerate(rows):
            if _fits(found, width):
                kept.append((index, found))
                continue
            cut = block.last and index == len(rows) - 1 and not block.data.endswith((b"\n", b"\r"))
            reason = "truncated" if cut else "bad_encoding" if "UTF-8" in found.why else "invalid_row"
            why = found.why or f"it has {len(found.cells or [])} cells, the table has {width} columns"
            bad.append(_bad(row + index, reason, found, why))
        columns = [pa.array([found.cells[i] for _, found in kept if found.cells], pa.string()) for i in range(width)]
        chunk, _ = self._converted(block, columns, row, kept)
        chunk.bad.extend(bad)
        return chunk, len(rows)

    def _converted(
        self, block: Block, strings: list[pa.Array], row: int, kept: list[tuple[int, Row]] | None
    ) -> tuple[Chunk, int]:
        """The chunk of rows whose cells are `strings`; `kept`: their index in the block, None if they are all of it."""
        count = len(strings[0])
        if count == 0:
            nothing = [pa.array([], kind) for kind in self._kinds.values()]
            batch = pa.RecordBatch.from_arrays(nothing, names=list(self._kinds))
            return Chunk(batch, np.empty(0, np.int64)), 0
        wrong = np.zeros(count, np.bool_)
        why: dict[int, str] = {}
        columns, lossy = [], {}
        for name, texts in zip(self.dialect.names, strings):
            array, misfit = self._column(name, texts)
            columns.append(array)
            for at in np.flatnonzero(misfit & ~wrong)[:10_000]:
                what = "true and false" if pa.types.is_boolean(self._kinds[name]) else "numbers"
                why[int(at)] = f"{name} is {texts[int(at)].as_py()[:60]!r}, the column holds {what}"
            wrong |= misfit
            lost = _lost(texts, array)
            if lost is not None:
                lossy[name] = lost
        if wrong.any() and kept is None:
            kept = list(enumerate(rows_of(block, self.dialect)))
            if len(kept) != count:
                return self._by_rows(block, row)
        index = np.array([i for i, _ in kept], dtype=np.int64) if kept is not None else np.arange(count, dtype=np.int64)
        batch = pa.RecordBatch.from_arrays(columns, names=list(self.dialect.names))
        bad: list[BadRow] = []
        if kept is not None and wrong.any():
            for at in np.flatnonzero(wrong):
                if self._is_comment(kept[at][1]):
                    continue
                bad.append(
                    _bad(
                        row + kept[at][0], "wrong_type", kept[at][1], why.get(int(at), "a cell does not fit its column")
                    )
                )
            good = np.flatnonzero(~wrong)
            batch = batch.take(
                pa.Array.from_buffers(pa.int64(), len(good), [None, pa.py_buffer(good.astype(np.int64))])
            )
            lossy = {name: mask[good] for name, mask in lossy.items()}
            index, kept = index[good], [kept[i] for i in good]
        return Chunk(batch, index + row, bad, raw=self._places(block, kept), lossy=lossy), count

    def _column(self, name: str, texts: pa.Array) -> tuple[pa.Array, Bool]:
        """(the column in its type, where a cell does not fit it)."""
        kind = self._kinds[name]
        if pa.types.is_string(kind):
            return texts, np.zeros(len(texts), np.bool_)
        filled = self._filled(texts)
        if pa.types.is_boolean(kind):
            fits = pc.fill_null(pc.is_in(filled, pa.array([*_TRUE, *_FALSE])), True)
            fits = pc.or_(fits, pc.is_null(filled))
            return pc.if_else(pc.is_null(filled), None, pc.is_in(filled, pa.array(_TRUE))), ~mask_of(fits)
        fits = pc.fill_null(self._is_number(filled), True)
        return pc.cast(self._pointed(pc.if_else(fits, filled, None)), pa.float64()), ~mask_of(fits)

    def _is_comment(self, found: Row) -> bool:
        mark = self.config.comment
        return mark is not None and found.data.lstrip().startswith(mark.encode())

    def _places(
        self, block: Block, kept: list[tuple[int, Row]] | None
    ) -> Callable[[int], tuple[Mapping[str, Any], bytes]]:
        """Where row i of a chunk stands, and its bytes: found only when it is asked for."""
        found: list[Row] = [row for _, row in kept] if kept is not None else []

        def raw(index: int) -> tuple[Mapping[str, Any], bytes]:
            if not found:
                found.extend(rows_of(block, self.dialect))
            return _place(found[index])

        return raw


def _fits(found: Row, width: int) -> bool:
    return found.cells is not None and len(found.cells) == width


def _bad(row: int, reason: str, found: Row, why: str) -> BadRow:
    place, data = _place(found)
    return BadRow(row, reason, f"line {found.line}: {why}", place, data)


def _place(found: Row) -> tuple[Mapping[str, Any], bytes]:
    return {"line": found.line}, found.data[:MAX_RAW]


def _beyond_exact(batch: pa.RecordBatch) -> bool:
    """Whether a number is so large that, if it was an integer, it may have lost bits; only its text can tell."""
    for column in batch.columns:
        if pa.types.is_float64(column.type):
            values = np.frombuffer(column.buffers()[1], np.float64)[column.offset : column.offset + len(column)]
            if (values >= _EXACT).any() or (values <= -_EXACT).any():
                return True
    return False


def _lost(texts: pa.Array, values: pa.Array) -> Bool | None:
    """Where an integer of the text is not the value that it became; None if nowhere."""
    if not pa.types.is_float64(values.type):
        return None
    long = mask_of(pc.match_substring_regex(pc.fill_null(texts, ""), r"^\s*[+-]?\d{16,400}\s*$"))
    lost = np.zeros(len(long), np.bool_)
    for i in np.flatnonzero(long):
        value = values[int(i)].as_py()
        lost[i] = value is not None and int(texts[int(i)].as_py()) != int(value)
    return lost if lost.any() else None
