"""The tokenizer that a peer's user would call in a worker process: SentencePiece's own library, else `tokenizers`.

SentencePiece is faster than `tokenizers` for SentencePiece models (both are exact), so peers that let one choose get it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Engine:
    """Texts → ids, on one core; loaded at the first call, in whatever process that is."""

    def __init__(self, made: Path) -> None:
        self._made = str(made)
        self._encode: Any = None

    def load(self) -> Engine:
        """Be ready."""
        model = Path(self._made, "tokenizer.model")
        if model.exists():
            import sentencepiece

            library = sentencepiece.SentencePieceProcessor(model_file=str(model))
            self._encode = lambda texts: library.encode(texts, num_threads=1)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(Path(self._made, "tokenizer.json")))
            self._encode = lambda texts: [row.ids for row in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        return self

    def __call__(self, texts: list[str]) -> list[list[int]]:
        if self._encode is None:
            self.load()
        return self._encode(texts)  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": self._made, "_encode": None}
