"""The tokenizers of the benchmarks: fitted by headrace to the benchmark's own text, then written for everybody.

    MADE/fitted/             a dataset that holds the tokenizer, for headrace
    MADE/tokenizer.model     SentencePiece, for who loads such
    MADE/tokenizer.json      the same, for Hugging Face's tokenizers
    MADE/ranks.tiktoken      byte-level BPE: ranks, and the same as tokenizer.json
    MADE/borders.npy         of Chronos bins
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 32_000
_TRAIN_FILES = 2


def make(work: str, pipeline: Any, source: Path, made: Path) -> None:
    """Into `made`, an empty folder. `pipeline` is the document that headrace reads `source` with."""
    if work in ("text-bpe", "text-unigram"):
        _sentencepiece(pipeline, made, work == "text-unigram")
    elif work == "text-bytes":
        _byte_level(source, made)
    elif work == "sensor":
        from headrace.tokenizers.chronos import linspace

        centres = linspace(-15, 15, 4093)
        inner = (centres[1:] + centres[:-1]) / np.float32(2)
        np.save(made / "borders.npy", np.concatenate(([np.float32(-1e20)], inner, [np.float32(1e20)])))


def _sentencepiece(document: Any, made: Path, unigram: bool) -> None:
    from headrace.ingest.artefacts import read_artefact
    from headrace.ingest.build import build
    from headrace.ingest.pipeline_file import make_pipeline
    from headrace.shards.dataset import Dataset

    build(make_pipeline(document, base=made), str(made / "fitted"), base=made, workers=1, engine="inline", fit_only=True)
    dataset = Dataset.open(str(made / "fitted"))
    (tokenizer,) = dataset.state.tokenizers
    model = read_artefact(dataset.store, tokenizer).files["tokenizer.model"]
    (made / "tokenizer.model").write_bytes(model)
    (made / "tokenizer.json").write_text(json.dumps(as_tokenizer_json(model, unigram), ensure_ascii=False))


def as_tokenizer_json(model: bytes, unigram: bool) -> dict[str, Any]:
    """A SentencePiece model with byte fall-back and no normalization, as a description for `tokenizers`.

    BPE merges are not in the file: every way to divide a piece in two pieces is a merge, ranked by the piece made. They
    are written as "left right", which old versions of the library read too.
    """
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = library.get_piece_size()
    pieces = [library.id_to_piece(i) for i in range(size)]
    scores = [library.get_score(i) for i in range(size)]
    ids = {piece: i for i, piece in enumerate(pieces)}
    if unigram:
        body: dict[str, Any] = {
            "type": "Unigram", "unk_id": library.unk_id(), "byte_fallback": True, "vocab": list(zip(pieces, scores)),
        }  # fmt: skip
    else:
        merges = []
        for piece, i in ids.items():
            if len(piece) < 2 or library.is_byte(i) or library.is_unknown(i):
                continue
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in ids and right in ids:
                    merges.append((-scores[i], ids[left], ids[right], left, right))
        merges.sort()
        body = {
            "type": "BPE", "dropout": None, "unk_token": pieces[library.unk_id()], "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": ids, "merges": [f"{left} {right}" for *_, left, right in merges],
        }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": body,
    }  # fmt: skip


def _byte_level(source: Path, made: Path) -> None:
    """Trained by Hugging Face's trainer; its ids are the ranks: bytes first, then merges in their order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = (
        json.loads(line)["text"]
        for path in sorted(source.iterdir())[:_TRAIN_FILES]
        for line in path.read_bytes().splitlines()
    )
    tokenizer.train_from_iterator(texts, trainer)
    described = json.loads(tokenizer.to_str())
    described["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    (made / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False))
    back = {character: byte for byte, character in _printable().items()}
    out = io.BytesIO()
    for token, rank in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        out.write(base64.b64encode(bytes(back[c] for c in token)) + f" {rank}\n".encode())
    (made / "ranks.tiktoken").write_bytes(out.getvalue())


def _printable() -> dict[int, str]:
    """The character that byte-level BPE writes for each byte. Source: GPT-2, encoder.py, bytes_to_unicode."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
