"""Where a document that is too long for one record is divided.

Up to `max_chars` a document stays whole. A longer one is cut at the last border within `max_chars`, the best kind that
is found in the second half of them: after a blank line, else after a sentence, else after white space, else anywhere
that does not tear a line end or a combined character. So parts are never shorter than half, save the last, and

    "".join(parts) == document

A cut depends only on the characters up to one behind it: a stream of pieces is divided as the whole text would be.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

_BLANK_LINE = re.compile(r"\n[ \t\r]*\n|\u2029")
#: The end of a sentence with what closes it and the white space behind it; CJK stops need no white space.
_SENTENCE = re.compile(r"[.!?…؟।։]+[\"'”’»)\]]*\s+|[。！？]+[”’」』）]*")
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")  # what binds the character before it to a cluster


def cut(text: str, start: int, max_chars: int) -> int:
    """Where the part that begins at `start` ends, in a text with more than `max_chars` characters from there."""
    end = start + max_chars
    low = start + max_chars // 2
    for pattern in (_BLANK_LINE, _SENTENCE):
        last = 0
        for match in pattern.finditer(text, low, end):
            last = match.end()
        if last > low:
            return last
    for at in range(end, low, -1):
        if text[at - 1].isspace() and not _tears(text, at):
            return at
    for at in range(end, max(low, end - 64), -1):
        if not _tears(text, at):
            return at
    return end


def _tears(text: str, at: int) -> bool:
    """Whether a cut before `text[at]` would part what belongs together."""
    after = text[at : at + 1]
    if not after:
        return False
    if after == "\n":
        return text[at - 1] == "\r"
    return after in _JOINERS or text[at - 1] == "\u200d" or unicodedata.combining(after) != 0


def divide(pieces: Iterable[str], max_chars: int) -> Iterator[str]:
    """The parts of the document that the pieces make when joined. An empty document has no part."""
    text = ""
    for piece in pieces:
        text += piece
        if len(text) > 2 * max_chars:
            start = 0
            while len(text) - start > max_chars:
                end = cut(text, start, max_chars)
                yield text[start:end]
                start = end
            text = text[start:]
    start = 0
    while len(text) - start > max_chars:
        end = cut(text, start, max_chars)
        yield text[start:end]
        start = end
    if len(text) > start:
        yield text[start:] if start else text
