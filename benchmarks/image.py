"""JPEG photographs to image records, against a bare loop of Pillow.

    python benchmarks/image.py [--quick] [--scaling] [--json] [WORK …]

    default        what a pipeline does that says nothing: long side 512, exact, tokens
    crop           a 224 x 224 crop, exact, tokens
    crop-fastest   the same, the JPEG decoder scaling down first, tokens
    crop-raw       the same, pixels kept as they are: what tools that store crops do
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from media_race import Work, arguments, main

from headrace.schemas.record import RecordBuilder

SIDE = 224


def make_photographs(folder: Path, count: int) -> float:
    """JPEG of 1024 x 768, 4:2:0, quality 88, with structure at all scales: `count` parts of eight larger pictures."""
    from PIL import Image

    rng = np.random.default_rng(2)
    bases = []
    for _ in range(8):
        total = np.zeros((1152, 1536, 3), np.float32)
        for k in range(2, 10):
            noise = Image.fromarray(rng.integers(0, 255, (2**k, 2**k, 3), np.uint8))
            total += np.asarray(noise.resize((1536, 1152), Image.Resampling.BICUBIC), np.float32) / 2.0 ** (k - 1)
        bases.append(Image.fromarray((total / total.max() * 255).astype(np.uint8)))
    for i in range(count):
        x, y = rng.integers(0, 512), rng.integers(0, 384)
        bases[i % 8].crop((x, y, x + 1024, y + 768)).save(folder / f"{i:05d}.jpg", quality=88)
    return float(count)


def _tokens(array: Any, tokenizer: Any) -> int:
    builder = RecordBuilder("image")
    builder.add(locator="", pixels=array, mode="RGB")
    return len(tokenizer.encode(builder.finish()).values)


def bare_default(files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """Long side 512, tokens."""
    from PIL import Image

    kept = 0
    for path in files:
        image = Image.open(path, formats=["JPEG"]).convert("RGB")
        kept += _tokens(np.asarray(image.resize((512, 384), Image.Resampling.LANCZOS, reducing_gap=2.0)), tokenizer)
    return kept


def _cropped(path: Path, draft: bool) -> Any:
    from PIL import Image, ImageOps

    image = Image.open(path, formats=["JPEG"])
    if draft:
        image.draft("RGB", (SIDE, SIDE))
    return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS))


def bare_crop(files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """An exact crop, tokens."""
    return sum(_tokens(_cropped(path, False), tokenizer) for path in files)


def bare_draft(files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """A crop by Pillow's draft, tokens."""
    return sum(_tokens(_cropped(path, True), tokenizer) for path in files)


def bare_raw(files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """A crop by Pillow's draft, pixels."""
    kept = [_cropped(path, True) for path in files]
    return sum(array.size for array in kept)


SIZES = (100, 400)
WORKS = [
    Work("default", "image", "pictures", make_photographs, SIZES, {}, bare_default),
    Work("crop", "image", "pictures", make_photographs, SIZES, {"crop": SIDE}, bare_crop),
    Work("crop-fastest", "image", "pictures", make_photographs, SIZES, {"crop": SIDE, "scaled": "fastest"}, bare_draft),
    Work(
        "crop-raw", "image", "pictures", make_photographs, SIZES, {"crop": SIDE, "scaled": "fastest"}, bare_raw, raw=True
    ),
]

if __name__ == "__main__":
    main(arguments(__doc__, [work.name for work in WORKS]).parse_args(), WORKS)
