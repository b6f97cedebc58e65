"""Proves a fast engine against the reference library: texts that break tokenizers, and texts of the model's own pieces.

The texts are fixed by this file and the model, so every process finds the same verdict. Markers are among them as text:
an engine that turns `<s>` into a control id fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from headrace.tokenizers.arrays import Array

#: Pieces of the model that the proof's texts are made of.
_PIECES = 1500

_CONTROL = (
    "<s>", "</s>", "<unk>", "<pad>", "<0x0A>", "<|endoftext|>", "<|im_start|>system", "[INST]", "[CLS]", "<mask>",
)  # fmt: skip
_ALONE = (
    "", " ", "  ", "\n", "\r\n", "\t", "\x00", "\u2581", "\u2585", "\u2047", "\ufeff", "\ufffd", "\u3000", "\u200b",
    "\ue000", "a", ".", "'", "é", "e\u0301", "水", "🎡",
)  # fmt: skip
_SENTENCES = (
    "The mill race carries water to the wheel, and the tail race carries it away again.",
    "It's 12,345.67 (or so), isn't it?  We'LL see: don't \"quote\" me -- I'd've said so!",
    "  two  spaces,\tone tab;\n\na blank line\r\nand a carriage return \n trailing  ",
    "def f(x: int = 0) -> dict[str, int]:\n    return {'a': x + 1}  # comment\n\n\n\tpass\n",
    "http://example.org/a/b?c=1&d=%20#e\n/usr/lib/x.so\n!\n/ ?\n\n//\n'\n's\n1st 2nd '90s rock'n'roll a1b2 9z",
    "Der Mühlgraben führt dem Rad das Wasser zu.\u00a0»Ja«, sagte er … „so“\u2009!",
    "Τὸ νερὸ κινεῖ. Вода вращает колесо, и вотя! на\u2003два",
    "水車は水の力で回る。\n川の流れ\u3000絶えずして abc。1234",
    "الماء يدير العجلة، पानी चक्की को घुमाता है กังหันน้ำ",
    "👩\u200d👩\u200d👧 🇫🇮 a\u0308\u0301 ﬁ Ⅷ ẞ ＡＢ ½ ¨x \u00a0y \u2028z \u0085 q",
)


def proof_texts(pieces: Sequence[str]) -> list[str]:
    """The texts of the proof for a model with these pieces, in which a space is a space."""
    controls = "".join(map(chr, [*range(32), *range(0x7F, 0xA1)]))
    texts = [*_ALONE, *_CONTROL, *_SENTENCES, controls, " ".join(controls), "x".join(controls)]
    for mark in (*_CONTROL, *_ALONE):
        texts.append(f"a{mark}b {mark} {mark}{mark}c, {mark}\n{mark}.")
    texts += ["".join(_SENTENCES), "\n".join(_SENTENCES), " ".join(_SENTENCES[::-1])]
    texts += ["a" * 3000, " " * 3000, "\n" * 3000, "ab " * 1000, "\u6c34" * 1000, "\u00e9" * 1001, "7" * 3000]
    chosen = list(pieces[:: max(1, len(pieces) // _PIECES)])
    step = 7919  # a prime, so that neighbours in the texts are no neighbours in the model
    mixed = [chosen[i * step % len(chosen)] for i in range(len(chosen))] if chosen else []
    for number, between in enumerate(("", " ", "\n", ".", ", ")):
        part = mixed[number::5]
        texts += [between.join(part[at : at + 40]) for at in range(0, len(part), 40)]
    return texts


def first_difference(fast: Array, slow: Array) -> int | None:
    """The first place at which two rows of ids differ; None if they are equal."""
    if np.array_equal(fast, slow):
        return None
    least = min(len(fast), len(slow))
    differing = np.flatnonzero(fast[:least] != slow[:least])
    return int(differing[0]) if len(differing) else least


Encode = Callable[[pa.Array], tuple[Array, Array]]  #: ids end to end and rows + 1 offsets of a large_string column


def disproof(fast: Encode, slow: Encode, pieces: Sequence[str]) -> str | None:
    """Why `fast` is not equal to `slow`, in words; None if it is on every text of the proof, in one batch and alone."""
    texts = proof_texts(pieces)
    column = pa.array(texts, pa.large_string())
    values, offsets = slow(column)
    batches = [(0, column), (0, column)]  # the second time everything is known
    batches += [(at, column.slice(at, 1)) for at in range(0, len(texts), 3)]
    for first, batch in batches:
        found, borders = fast(batch)
        if len(borders) != len(batch) + 1:
            return f"{len(borders) - 1} rows for {len(batch)} texts"
        for row in range(len(batch)):
            expected = values[offsets[first + row] : offsets[first + row + 1]]
            at = first_difference(found[borders[row] : borders[row + 1]], expected)
            if at is not None:
                return f"other ids from token {at} on for the text {texts[first + row][:40]!a}"
    return None
