"""Whole numbers as tokens: heights, time stamps, scales. Self-delimiting, so a body decodes from its tokens alone.

    value = [head][digit]*      head = sign and number of digits, digits most significant first
    ids:   offset + 0 … base - 1                  a digit
           offset + base + 2 * digits + negative  a head

A 512 is two tokens, a time stamp in nanoseconds eight.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from headrace.schemas.errors import RecordError, TokenizerError
from headrace.tokenizers.arrays import Array

MAX_DIGITS = 12


class IntegerIds:
    """The block of ids [offset, offset + size) that spells integers of magnitude below base**12."""

    def __init__(self, offset: int, base: int = 1024) -> None:
        self.offset = offset
        self.base = base
        self.first_head = offset + base
        self.size = base + 2 * (MAX_DIGITS + 1)

    def spell(self, *values: int) -> list[int]:
        """The tokens of one or more integers, one after the other. Raises: RecordError for one too large."""
        out: list[int] = []
        for value in values:
            rest, digits = abs(value), []
            while rest:
                rest, digit = divmod(rest, self.base)
                digits.append(self.offset + digit)
            if len(digits) > MAX_DIGITS:
                raise RecordError("encode_failed", f"the number {value} is too large to be spelled in tokens")
            out.append(self.first_head + 2 * len(digits) + (value < 0))
            out.extend(reversed(digits))
        return out

    def spell_array(self, values: Array) -> tuple[Array, Array]:
        """(tokens, lengths) of an int64 array: all tokens in one array, and how many belong to each value."""
        negative = values < 0
        rest = np.where(negative, -values, values).astype(np.uint64)
        digits = []
        while rest.any():
            digits.append((rest % np.uint64(self.base)).astype(np.int64))
            rest = rest // np.uint64(self.base)
        counts = np.zeros(len(values), np.int64)
        for place, digit in enumerate(digits):
            counts[digit > 0] = place + 1
        lengths = counts + 1
        starts = np.cumsum(lengths) - lengths
        tokens = np.empty(int(lengths.sum()), np.int64)
        tokens[starts] = self.first_head + 2 * counts + negative
        for place, digit in enumerate(digits):
            has = counts > place
            tokens[starts[has] + counts[has] - place] = self.offset + digit[has]
        return tokens, lengths

    def is_head(self, tokens: Array) -> Array:
        """True where a token begins an integer."""
        return (tokens >= self.first_head) & (tokens < self.offset + self.size)

    def reader(self, tokens: Array) -> Reader:
        """Reads integers off the front of a body."""
        return Reader(self, tokens)

    def read_heads(self, tokens: Array, at: Array) -> tuple[Array, Array]:
        """(values, lengths) of the integers that begin at the positions `at`. Raises: TokenizerError."""
        heads = tokens[at].astype(np.int64) - self.first_head
        counts = heads // 2
        if len(at) and int((at + counts).max()) >= len(tokens):
            raise TokenizerError("a number's tokens are cut short")
        values = np.zeros(len(at), np.int64)
        for place in range(int(counts.max(initial=0))):
            has = counts > place
            digit = tokens[at[has] + 1 + place].astype(np.int64) - self.offset
            if ((digit < 0) | (digit >= self.base)).any():
                raise TokenizerError("a number's tokens hold something that is not a digit")
            values[has] = values[has] * self.base + digit
        return np.where(heads % 2 == 1, -values, values), counts + 1


class Reader:
    """A place in a body's tokens."""

    def __init__(self, ids: IntegerIds, tokens: Array) -> None:
        self._ids = ids
        self.tokens = np.asarray(tokens)
        self.at = 0

    def number(self) -> int:
        """The integer here; moves past it. Raises: TokenizerError if there is none."""
        return next(iter(self.numbers(1)))

    def numbers(self, count: int) -> Iterable[int]:
        """The next `count` integers, of any size."""
        ids, out = self._ids, []
        for _ in range(count):
            if self.at >= len(self.tokens):
                raise TokenizerError(f"a number is expected at token {self.at}, where the tokens end")
            head = int(self.tokens[self.at]) - ids.first_head
            if not 0 <= head < 2 * (MAX_DIGITS + 1):
                raise TokenizerError(f"a number is expected at token {self.at}, not id {int(self.tokens[self.at])}")
            digits = [int(t) - ids.offset for t in self.tokens[self.at + 1 : self.at + 1 + head // 2]]
            if len(digits) < head // 2 or not all(0 <= d < ids.base for d in digits):
                raise TokenizerError(f"the number at token {self.at} lacks digits")
            value = 0
            for digit in digits:
                value = value * ids.base + digit
            self.at += 1 + len(digits)
            out.append(-value if head % 2 else value)
        return out

    def take(self, count: int) -> Array:
        """The next `count` tokens as they are. Raises: TokenizerError if there are fewer."""
        if self.at + count > len(self.tokens):
            left = len(self.tokens) - self.at
            raise TokenizerError(f"{count} tokens are expected at token {self.at}, there are {left}")
        self.at += count
        return self.tokens[self.at - count : self.at]

    def rest(self) -> Array:
        """All tokens from here on."""
        return self.take(len(self.tokens) - self.at)

    def end(self) -> None:
        """Nothing may follow. Raises: TokenizerError."""
        if self.at != len(self.tokens):
            raise TokenizerError(f"{len(self.tokens) - self.at} tokens follow where the body should end")
