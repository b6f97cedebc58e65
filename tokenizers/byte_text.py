"""`bytes`: text as its UTF-8 bytes, 256 ids. Needs no fit, keeps every string, spells nothing it should not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from headrace.schemas.errors import SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, modality_of
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer, TokenizerConfig

KIND = "bytes"


class Bytes(Tokenizer):
    """See the module."""

    Config = TokenizerConfig
    modalities: ClassVar[tuple[Modality, ...]] = ("text",)

    def __init__(self, config: TokenizerConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        if artefact is not None:
            check_artefact(artefact, KIND)

    @property
    def artefact(self) -> Artefact:
        return self._artefact or Artefact(KIND, {})

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, records: pa.RecordBatch) -> Encoded:
        if modality_of(records) != "text":
            raise SchemaMismatch(f"`{KIND}` takes text records, not {modality_of(records)}")
        column = records.column("text")
        borders = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
        data = column.buffers()[2]
        first, last = (int(borders[0]), int(borders[-1])) if len(column) else (0, 0)
        flat = np.frombuffer(data, np.uint8, last - first, first) if last > first else np.zeros(0, np.uint8)
        nothing = np.zeros(len(column), np.float32)
        return Encoded(flat.astype(np.uint16), (borders - first).astype(np.int64), nothing + np.nan, nothing)

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        builder = RecordBuilder("text")
        for body in tokens:
            if len(body) and int(np.max(body)) > 255:
                raise TokenizerError(f"id {int(np.max(body))} is not a byte")
            try:
                builder.add(locator="{}", text=np.asarray(body).astype(np.uint8).tobytes().decode())
            except UnicodeDecodeError as exc:
                raise TokenizerError(f"the bytes are not UTF-8: {exc}") from exc
        return builder.finish()
