"""Documents with the statistics of natural text, from a seed alone: JSON Lines, about as many bytes as asked.

Word frequencies follow Zipf and Mandelbrot, p(rank) ~ (rank + 12)^-1.3, without an end: new words keep coming, as in
text of many people (Heaps), so an engine that remembers words meets new ones until the last line. A word's spelling is
made of syllables, from its rank alone: frequent words are short, one in seven is Cyrillic and one in fourteen Greek.
There are sentences, paragraphs, capitals, numbers, and documents of log-normal length, 1.7 kB on average.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

_SHIFT, _POWER = 12.0, 0.3
_WORDS = 300  # in a document, on average
_FILE = 2_500_000


def _words(text: str) -> list[str]:
    return text.split()


_LATIN = _words(
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you "
    "were her all she there would their we him been has when who will more no if out so said what up its about into than them "
    "can only other new some could time these two may then do first any my now such like our over man me even most made after "
    "al an ar as at ba be bi bo ca ce ci co cu da de di do du el en er es et fa fe fi fo ga ge gi go ha he hi ho hu il in ing "
    "ion ir is it ja ka ke ki ko la le li lo lu ly ma me mi mo mu na ne ni no nu of ol on or os ou pa pe pi po pre pro qua ra "
    "re ri ro ru sa se si so sta stra su ta te ter ti tion to tra tu ul un ur us va ve vi vo wa we wi yl za ze zo äi ö é ñ ß š"
)
_CYRILLIC = _words(
    "ва ве во го да де ел ем ен ест за ий ин ка ки ко ла ле ли ло ма ми мо на не ни но об ов ой ом он пе по пра про ра ре ри ро ска ста сти та те ти то ть ть че ше щи ый ю я"
)
_GREEK = _words(
    "αι αν απο γι δε δια ει εν επι η θε ια ικο κα και κο λο μα με μο να νι ξε ο ου πα περι πο ρα σε στο συ τα τε τη το τρο υ φω χρ ω"
)
_SCRIPTS = [_LATIN] * 11 + [_CYRILLIC] * 2 + [_GREEK]


def make(folder: Path, size: int, seed: int = 1) -> None:
    """Write files of about 2.5 MB each, `size` bytes together."""
    rng = np.random.default_rng(seed)
    spelled: dict[int, str] = {}
    number = written = 0
    while written < size:
        at_least = min(_FILE, size - written)
        lines, length = [], 0
        while length < at_least:
            for text in _documents(rng, spelled):
                line = json.dumps({"id": number, "source": "made", "text": text}, ensure_ascii=False).encode() + b"\n"
                number, length = number + 1, length + len(line)
                lines.append(line)
                if length >= at_least:
                    break
        (folder / f"{written // 1000:09d}.jsonl").write_bytes(b"".join(lines))
        written += length


def _documents(rng: Any, spelled: dict[int, str]) -> list[str]:
    """Two hundred documents. `spelled` remembers words by rank."""
    lengths = np.clip(rng.lognormal(np.log(_WORDS) - 0.32, 0.8, 200).astype(np.int64), 3, 20_000)
    total = int(lengths.sum())
    ranks = (_SHIFT * (rng.random(total) ** (-1 / _POWER) - 1)).clip(0, 2.0**50).astype(np.int64)
    for rank in np.unique(ranks).tolist():
        if rank not in spelled:
            spelled[rank] = _spelled(rank)
    words = [spelled[rank] for rank in ranks.tolist()]
    dice = rng.random(total)
    for i in np.flatnonzero(dice > 0.985).tolist():
        words[i] = str(int(ranks[i]) % 3000)
    after = np.where(dice < 0.07, 1, np.where(dice < 0.12, 2, np.where(dice < 0.132, 3, 0)))
    out, start = [], 0
    for length in lengths.tolist():
        parts, capital = [], True
        for i in range(start, start + length):
            word = words[i]
            parts.append(word.capitalize() if capital else word)
            kind = int(after[i])
            parts.append((" ", ". ", ", ", ".\n")[kind])
            capital = kind in (1, 3)
        out.append("".join(parts).rstrip() + ".")
        start += length
    return out


def _spelled(rank: int) -> str:
    """A word for a rank: the first are English, the others syllables chosen by a hash of the rank (splitmix64)."""
    if rank < 100:
        return _LATIN[rank]
    bits = (rank + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    bits ^= bits >> 31
    syllables = _SCRIPTS[bits % len(_SCRIPTS)]
    bits >>= 4
    count = 2 + min(4, rank.bit_length() // 8) - bits % 2
    word = ""
    for _ in range(count):
        bits >>= 1
        word += syllables[(bits % 9973) * (bits % 997) % len(syllables)]
        bits = bits >> 9 | (bits & 0x1FF) << 54
    return word
