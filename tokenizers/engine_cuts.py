"""Where a text may be cut so that its parts, encoded one by one, have the ids of the whole: the rules of the engine.

A place lies between two bytes of UTF-8, `p` before it and `c` behind it, and is told by a table of 65,536 truth values.

BPE on pieces (SentencePiece): two symbols become one only if the vocabulary holds the two joined. So nothing is ever
merged across a place that lies inside no piece, and what is merged on one side of it does not depend on the other. The
table allows a cut between `p` and `c` if no piece has a character that ends with `p` before one that begins with `c`.

Byte-level BPE: a pattern divides the text first, and each division is encoded alone. The patterns known here have no
look-behind, so what they match from a place on depends only on the text behind it. At the places of their tables no
match can reach across, and none that ends there looked ahead across it. With L, D, P for ASCII letters, digits and
punctuation without the apostrophe, and V for every visible ASCII character:

                     GPT-2         cl100k        o200k         because
    V | space        yes           yes           yes           only white space and what begins with it hold a space
    L | D, D | L     yes           yes           yes           no branch holds both
    L | P, D | P     yes           yes           yes           a branch that ends in L or D has only L or D before
    P | D            yes           yes           yes           the same, the other way
    D | '            yes           yes           yes
    L | '            yes           yes           no            o200k takes `'s` with the word
    L | LF, D | LF   yes           yes           yes
    P | LF           yes           no            no            newlines go with the punctuation before them
    P | L            yes           no            no            one of P goes with the word behind it
    LF | V           no            yes           but not /     GPT-2 leaves the last white space to what follows

A pattern may be added only with a look at each of these rows against each of its branches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headrace.tokenizers.arrays import Array

SPACE = 0x20
#: Everything that any regular expression library takes for white space beyond ASCII.
_WHITE = "\u0085\u00a0\u1680\u180e\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200C)))

_LETTERS = [b for b in range(128) if chr(b).isalpha()]
_DIGITS = [b for b in range(128) if chr(b).isdigit()]
_APOSTROPHE, _NEWLINE, _SLASH = 0x27, 0x0A, 0x2F
_VISIBLE = list(range(0x21, 0x7F))
_PUNCTUATION = [b for b in _VISIBLE if b not in {*_LETTERS, *_DIGITS, _APOSTROPHE}]

Family = Literal["gpt2", "cl100k", "o200k"]


@dataclass(frozen=True)
class Cuts:
    """Where a text may be cut.

    pair: bool, 65,536; at 256 * p + c whether a cut between the bytes p and c is allowed.
    never_after: bool, 65,536, or None; at 256 * o + p whether a cut behind the bytes o and p is forbidden all the same.
    """

    pair: Array
    never_after: Array | None = None


def of_pieces(pieces: Iterable[str], spaces_only: bool) -> Cuts:
    """Cuts for a model that merges these pieces, in which a space is written as a space.

    spaces_only: cut before a space that follows something else, and nowhere else.
    """
    spelled = [piece.encode() for piece in pieces]
    joined = np.frombuffer(b"".join(spelled), np.uint8)
    pair = np.ones((256, 256), np.bool_)
    if len(joined):
        inside = np.ones(len(joined), np.bool_)
        begins = np.cumsum([0, *(len(piece) for piece in spelled)])
        inside[begins[begins < len(joined)]] = False
        at = np.flatnonzero(inside)
        pair[joined[at - 1], joined[at]] = False
    pair[:, 0x80:0xC0] = False  # inside a character
    if spaces_only:
        pair[:, :SPACE] = False
        pair[:, SPACE + 1 :] = False
        pair[SPACE, SPACE] = False
    return Cuts(pair.ravel())


def of_pattern(family: Family) -> Cuts:
    """Cuts that are right for every pattern of a family, by the table above."""
    pair = np.zeros((256, 256), np.bool_)
    words = [*_LETTERS, *_DIGITS]
    pair[_VISIBLE, SPACE] = True
    pair[0x80:, SPACE] = True
    pair[np.ix_(_LETTERS, _DIGITS)] = pair[np.ix_(_DIGITS, _LETTERS)] = True
    pair[np.ix_(words, [_NEWLINE, *_PUNCTUATION])] = True
    pair[np.ix_(_PUNCTUATION, _DIGITS)] = True
    pair[_DIGITS, _APOSTROPHE] = True
    if family != "o200k":
        pair[_LETTERS, _APOSTROPHE] = True
    if family == "gpt2":
        pair[np.ix_(_PUNCTUATION, [_NEWLINE, *_LETTERS])] = True
    else:
        pair[_NEWLINE, _VISIBLE] = True
        pair[_NEWLINE, _SLASH] = family == "cl100k"
    never = np.zeros((256, 256), np.bool_)
    for character in _WHITE:
        *_, first, last = character.encode()
        never[first, last] = True
    return Cuts(pair.ravel(), never.ravel())


def inside(cuts: Cuts, text: str) -> bool:
    """Whether a cut may fall into this text."""
    data = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    return bool(cuts.pair[256 * data[:-1] + data[1:]].any())


#: How GPT-2 divides, as `ByteLevel` of Hugging Face has it, and models after it, as their tokenizer.json say.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
FAMILIES: dict[str, Family] = {
    GPT2: "gpt2",
    _WORDS + r"\p{N}{1,3}" + _REST: "cl100k",  # Llama 3
    _WORDS + r"\p{N}" + _REST: "cl100k",  # Qwen 2
}
