"""Where the fast engine may cut text for a SentencePiece model, and how the model must then be asked.

Only BPE models: unigram adds up float32 scores along a whole text, so what it makes of a word may depend on the text
before it; for those the library is the engine. Three kinds of models differ in what they do to spaces:

    exact     no space in front, none removed, no rules: the models that headrace trains. Parts are encoded as they are
    prefixed  a space in front, none removed, no rules (Llama 2): the space is put there for the whole text, and the
              parts go to the same model with that setting off
    squeezed  a space in front, extra spaces removed, with or without rules (nmt_nfkc): text is cut before spaces only,
              and each part gets its own space in front while the one it has is removed

A text that holds U+2581, which the library cannot tell from a space, goes to the library whole.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.engine_cuts import SPACE, Cuts, of_pieces
from headrace.tokenizers.engine_words import Rows
from headrace.tokenizers.sentencepiece_model import BPE, BYTE, NORMAL, UNUSED, USER_DEFINED, ModelSettings

_MARK = "\u2581"
_LABEL = 0x800000FF  #: of a unit of the rules' trie
_WALKED = 1 << 13  #: units of a trie that is small enough to be walked through at every start


def cuts_for(pieces: Sequence[tuple[str, int]], settings: ModelSettings) -> Cuts | str:
    """Where texts may be cut for this model, or why nowhere."""
    if settings.model_type != BPE:
        return "only BPE models divide into words"
    if not settings.escape_spaces or settings.suffix_space:
        return "the model does not write a space in front of a word"
    if any(kind == UNUSED for _, kind in pieces):
        return "the model has unused pieces, whose division depends on the text around them"
    if _MARK not in {piece for piece, kind in pieces if kind in (NORMAL, USER_DEFINED)}:
        return "the model has no piece for a space"
    squeezed = settings.remove_spaces
    if squeezed and not settings.dummy_prefix:
        return "the model removes spaces without putting one in front"
    if settings.rules and not squeezed:
        return "the model rewrites text and keeps its spaces"
    if settings.rules and _spans_spaces(settings.rules):
        return "the model rewrites spaces together with other characters"
    merged = (piece.replace(_MARK, " ") for piece, kind in pieces if kind in (NORMAL, USER_DEFINED))
    # without byte tokens neighbouring unknown characters are one id, which a cut between them would double
    cuts = of_pieces(merged, spaces_only=squeezed or not settings.byte_fallback)
    if not cuts.pair[256 * ord("e") + SPACE]:
        return "the model has pieces that reach over a space"
    return cuts


def token_bytes(pieces: Sequence[tuple[str, int]], settings: ModelSettings) -> Array | None:
    """For each id the bytes of text it stands for; None where that is not certain."""
    if settings.rules or settings.remove_spaces or not settings.byte_fallback:
        return None
    sizes = (1 if kind == BYTE else len(piece.replace(_MARK, " ").encode()) for piece, kind in pieces)
    return np.fromiter(sizes, np.int64, len(pieces))


def prefixed(fast: Callable[[pa.Array], Rows]) -> Callable[[pa.Array], Rows]:
    """`fast` on texts with a space in front; empty ones stay empty."""

    def encode(texts: pa.Array) -> Rows:
        empty = pc.equal(pc.binary_length(texts), 0)
        nothing = pa.scalar("", texts.type)
        spaced = pc.binary_join_element_wise(pa.scalar(" ", texts.type), texts, nothing)
        return fast(pc.if_else(empty, nothing, spaced))

    return encode


def apart(fast: Callable[[pa.Array], Rows], slow: Callable[[pa.Array], Rows]) -> Callable[[pa.Array], Rows]:
    """`fast` on all texts but those that hold U+2581, which go to `slow`."""

    def encode(texts: pa.Array) -> Rows:
        if _MARK.encode() not in _bytes_of(texts):  # a copy and a search are faster than a look at each text
            return fast(texts)
        marked = pc.match_substring(texts, _MARK)
        rows = [row for row, mark in enumerate(marked.to_pylist()) if mark]
        parts: list[Array] = []
        lengths: list[Array] = []
        at = 0
        for row in [*rows, len(texts)]:
            if row > at:
                values, offsets = fast(texts.slice(at, row - at))
                parts.append(values)
                lengths.append(np.diff(offsets))
            if row < len(texts):
                values, offsets = slow(texts.slice(row, 1))
                parts.append(values)
                lengths.append(np.diff(offsets))
            at = row + 1
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.concatenate(lengths), out=offsets[1:])
        return np.concatenate(parts), offsets

    return encode


def _bytes_of(texts: pa.Array) -> bytes:
    """The bytes of all texts of a large_string array."""
    if not len(texts):
        return b""
    borders = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = texts.buffers()[2]
    found: bytes = data.slice(int(borders[0]), int(borders[-1] - borders[0])).to_pybytes() if data is not None else b""
    return found


def _spans_spaces(rules: bytes) -> bool:
    """Whether a rule reads a space with other characters, or writes two spaces in a row; True if not certain.

    rules: uint32 size of a trie, the trie, and what its keys become, each ending with NUL. The trie is a double array
    of Darts-clone: the child by byte c of the unit at i with offset o is at i ^ o ^ c and has c as its label.
    """
    if len(rules) < 4:
        return True
    (size,) = struct.unpack_from("<I", rules)
    if size % 4 or size < 1024 or 4 + size > len(rules) or b"  " in rules[4 + size :]:
        return True
    units = np.frombuffer(rules, "<u4", size // 4, 4).astype(np.int64)
    below = np.arange(len(units)) ^ ((units >> 10) << ((units & (1 << 9)) >> 6))
    if not ((units & _LABEL) == SPACE).any():
        return False  # this settles the rules that come with SentencePiece; unused units may have any label
    return len(units) > _WALKED or _walked(units, below)


def _walked(units: Array, below: Array) -> bool:
    """Whether a key of the trie holds a space and something else."""
    labels = np.arange(1, 256)
    nodes, depth, space = np.zeros(1, np.int64), 0, -1
    while len(nodes):
        children = np.minimum(below[nodes][:, None] ^ labels, len(units) - 1)
        there = (units[children] & _LABEL) == labels
        if depth and (there[:, SPACE - 1].any() or there[nodes == space].any()):
            return True
        if not depth and there[0, SPACE - 1]:
            space = int(children[0, SPACE - 1])
        nodes, depth = children[there], depth + 1
    return False
