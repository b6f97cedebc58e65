"""A tokenizer for character-level models: each token is one Unicode code point, one per letter in any language."""

import numpy as np
import pyarrow as pa

from headrace.schemas.errors import TokenizerError
from headrace.schemas.record import RecordBuilder
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer


class CodePoints(Tokenizer):
    modalities = ("text",)
    vocab_size = 0x110000
    artefact = Artefact("codepoints", {"encoding": "utf-32-le"})

    def encode(self, records: pa.RecordBatch) -> Encoded:
        rows = [np.frombuffer(text.encode("utf-32-le"), "<u4") for text in records.column("text").to_pylist()]
        return Encoded.of(rows, [0.0] * len(rows), [0.0] * len(rows), np.uint32)

    def decode(self, tokens):
        builder = RecordBuilder("text")
        for i, row in enumerate(tokens):
            try:
                text = np.asarray(row, "<u4").tobytes().decode("utf-32-le")
            except UnicodeDecodeError as exc:
                raise TokenizerError(
                    f"row {i}: token {row[exc.start // 4]} is not a code point of Unicode text"
                ) from exc
            builder.add(locator=f'{{"row":{i}}}', text=text)
        return builder.finish()
