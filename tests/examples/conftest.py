"""A dataset of a few dozen samples with text, sound and raw pictures, for examples and pages that train on one."""

from __future__ import annotations

import math
import random
import wave
from pathlib import Path

import numpy as np
import pytest

import headrace

SENTENCE = "the tide at the north quay rises until noon and the pilot waits for the ship with the red light"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streams letters and reports (one tokenizer), sounds, and photos without a tokenizer."""
    image = pytest.importorskip("PIL.Image")
    folder, rng = tmp_path_factory.mktemp("examples"), random.Random(5)
    words = SENTENCE.split()
    for name in ("letters", "reports", "sounds", "photos"):
        (folder / name).mkdir()
    for i in range(60):
        for name in ("letters", "reports"):
            start = rng.randrange(len(words))
            text = " ".join((words * 9)[start : start + rng.randint(5, 120)])
            (folder / name / f"{i:02d}.txt").write_text(f"{name}: {text}.\n")
    for i in range(4):
        with wave.open(str(folder / "sounds" / f"{i}.wav"), "wb") as f:
            f.setnchannels(1)
            f.setsampwidth(2)
            f.setframerate(16_000)
            f.writeframes((np.sin(np.arange(6000) * (i + 1) * math.tau / 80) * 9000).astype("<i2").tobytes())
        image.new("RGB", (16 + i, 16), (50 * i, 9, 99)).save(folder / "photos" / f"{i}.png")
    text = {"record": {"type": "text"}, "tokenizer": {"type": "bytes"}}
    kinds = {
        "letters": text,
        "reports": text,
        "sounds": {"record": {"type": "audio"}, "tokenizer": {"type": "mu-law"}},
        "photos": {"record": {"type": "image"}, "tokenizer": {"type": "raw"}},
    }
    streams = {
        name: {"source": {"type": "files", "root": str(folder / name)}, **kind} for name, kind in kinds.items()
    }
    pipeline = {"license": "CC-BY-4.0", "folds": {"validation": 0.2}, "streams": streams}
    headrace.build(pipeline, folder / "corpus", engine="inline", workers=1)
    return folder / "corpus"
