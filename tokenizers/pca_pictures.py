"""Bodies of pictures and videos: patches of uint8 pixels through the integer PCA.

    picture  height width [code]*
    video    height width time_base_num time_base_den { FRAME pts-minus-pts-before [code]* }*

All words in lower case are integers spelled as tokens (see integers.py); the first frame's pts counts from 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.schemas.errors import RecordError, TokenizerError
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.fidelity import psnr_db
from headrace.tokenizers.fit_rows import thinned
from headrace.tokenizers.integer_pca import IntegerPca
from headrace.tokenizers.integers import Reader
from headrace.tokenizers.patch_ids import PatchIds
from headrace.tokenizers.patches import cut_picture, grid, inside, join_picture

#: Largest input of the integer PCA: uint8.
LIMIT = 255
_MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class Body:
    """One record's tokens, its error in dB and the share of coefficients beyond what the fit saw."""

    tokens: Array
    error: float
    clip_fraction: float


class Pictures:
    """Codes pictures of `channels` uint8 channels, and stacks of them."""

    def __init__(self, pca: IntegerPca, ids: PatchIds, patch: int, channels: int) -> None:
        self._pca = pca
        self._ids = ids
        self._patch = patch
        self._channels = channels

    def encode_picture(self, pixels: Array) -> Body:
        """The body of a (height, width, channels) picture."""
        head = self._ids.integers.spell(*pixels.shape[:2])
        return self._body([np.array(head)], pixels[None])

    def encode_video(self, frames: Array, pts: Array, time_base: tuple[int, int]) -> Body:
        """The body of (frames, height, width, channels) with their time stamps in units of `time_base`."""
        spell = self._ids.integers.spell
        stamps = pts.tolist()
        if len(stamps) != len(frames):
            raise RecordError("inconsistent", f"{len(frames)} frames with {len(stamps)} time stamps")
        marks = [[self._ids.frame, *spell(now - before)] for before, now in itertools.pairwise([0, *stamps])]
        first = spell(*frames.shape[1:3], *time_base)
        heads = [first + marks[0], *marks[1:]] if marks else [first]
        return self._body([np.array(head) for head in heads], frames)

    def _body(self, heads: list[Array], frames: Array) -> Body:
        """Tokens of frames, each after its head (there is one head even without frames)."""
        parts: list[Array] = [] if len(frames) else [heads[0]]
        squares = 0.0
        outside = patches = 0
        height, width = frames.shape[1:3]
        within = inside(height, width, self._patch)
        for head, frame in zip(heads, frames):
            parts.append(head)
            for coded in self._pca.encode(cut_picture(frame, self._patch)):
                parts.append(coded.codes.reshape(-1))
                outside += int(coded.outside.sum())
                patches += len(coded.codes)
                squares += self._squared_error(coded.start, coded.given, coded.rebuilt, within)
        values = height * width * self._channels * len(frames)
        clip = outside / (patches * self._pca.components) if patches else 0.0
        return Body(np.concatenate(parts), psnr_db(squares, values, 255.0), clip)

    def _squared_error(self, start: int, given: Array, rebuilt: Array, within: Array | None) -> float:
        """Sum over the true pixels; exact, because all terms are integers below 2^53."""
        difference = np.clip(rebuilt, 0.0, 255.0, out=rebuilt)
        difference -= given
        if within is not None:
            mask = within[start : start + len(given), :, None]
            difference = difference.reshape(len(given), -1, self._channels) * mask
        flat = difference.reshape(-1)
        return float(np.dot(flat, flat))

    def decode_picture(self, reader: Reader) -> Array:
        """The (height, width, channels) picture of a body. Raises: TokenizerError."""
        height, width = self._size(reader)
        pixels = self._frame(reader, height, width)
        reader.end()
        return pixels

    def decode_video(self, reader: Reader) -> tuple[Array, list[int], tuple[int, int]]:
        """(frames, pts, time base) of a body. Raises: TokenizerError."""
        height, width = self._size(reader)
        num, den = reader.numbers(2)
        frames: list[Array] = []
        pts: list[int] = []
        while reader.at < len(reader.tokens):
            mark = int(reader.take(1)[0])
            if mark != self._ids.frame:
                raise TokenizerError(f"a frame is expected at token {reader.at - 1}, not id {mark}")
            pts.append(reader.number() + (pts[-1] if pts else 0))
            frames.append(self._frame(reader, height, width))
        empty = np.zeros((0, height, width, self._channels), np.uint8)
        return np.stack(frames) if frames else empty, pts, (num, den)

    def _size(self, reader: Reader) -> tuple[int, int]:
        height, width = reader.numbers(2)
        if not (0 <= height <= _MAX_SIDE and 0 <= width <= _MAX_SIDE):
            raise TokenizerError(f"a picture of {height} by {width} cannot be")
        return height, width

    def _frame(self, reader: Reader, height: int, width: int) -> Array:
        rows, cols = grid(height, width, self._patch)
        codes = reader.take(rows * cols * self._pca.stages).reshape(rows * cols, self._pca.stages)
        pixels = np.clip(self._pca.decode(codes), 0.0, 255.0).astype(np.uint8)
        if not len(pixels):
            return np.zeros((height, width, self._channels), np.uint8)
        return join_picture(pixels, height, width, self._patch)


def sample_patches(pictures: Sequence[Array], patch: int, most: int, seed: int) -> Array:
    """Up to about `most` patches of (…, height, width, channels) pictures, in their order."""
    frames = [frame for pixels in pictures for frame in pixels.reshape(-1, *pixels.shape[-3:]) if frame.size]
    total = sum(rows * cols for rows, cols in (grid(f.shape[0], f.shape[1], patch) for f in frames))
    out = [np.zeros((0, patch * patch * pictures[0].shape[-1]), np.uint8)]
    for frame in frames:
        patches = cut_picture(frame, patch)
        out.append(patches[thinned(len(patches), most / max(1, total), seed)])
    return np.concatenate(out)
