"""Every tokenizer that comes with headrace passes the conformance kit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from headrace.schemas.record import list_views, payload_views
from headrace.tokenizers.testing import TokenizerKit
from headrace.tokenizers.testing_rows import audio, images, picture, rasters, regular, sensors, smooth, texts, video

STRINGS = (
    "A headrace brings the water to the wheel.\n",
    "",
    "  two  spaces\tand a tab\r\n\r\n",
    "Η θάλασσα, das Wasser, vesi ja ▁▁ 水車 🎡 \x00\x1b",
    "<s></s><|endoftext|><unk><0x0A>[INST]",
)


class TextKit(TokenizerKit):
    def records(self) -> pa.RecordBatch:
        return texts(*STRINGS)

    def check_decoded(self, given: pa.RecordBatch, decoded: pa.RecordBatch) -> None:
        assert decoded.column("text").to_pylist() == given.column("text").to_pylist()


class TestBytes(TextKit):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "bytes"}


class TestSentencePieceBpe(TextKit):
    def settings(self) -> Mapping[str, Any]:
        pytest.importorskip("sentencepiece")
        return {"type": "sentencepiece"}


class TestHuggingFace(TextKit):
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        library = pytest.importorskip("tokenizers")
        if "folder" in type(self).__dict__:
            return
        made = library.Tokenizer(library.models.BPE())
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = library.decoders.ByteLevel()
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
        trainer = library.trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>", "<s>"], show_progress=False
        )
        made.train_from_iterator(STRINGS[:2], trainer)
        type(self).folder = tmp_path_factory.mktemp("hf")
        made.save(str(self.folder / "tokenizer.json"))

    def base(self) -> Path | None:
        return self.folder

    def settings(self) -> Mapping[str, Any]:
        return {"type": "huggingface", "model": "tokenizer.json"}


@pytest.mark.data
class TestTiktoken(TextKit):
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _file(self, corpus: Path) -> None:
        pytest.importorskip("tiktoken")
        type(self).folder = corpus / "text" / "tokenizers"

    def base(self) -> Path | None:
        return self.folder

    def settings(self) -> Mapping[str, Any]:
        return {"type": "tiktoken", "model": "gpt2.tiktoken", "pattern": "gpt2"}


class TestImagePcaFsq(TokenizerKit):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "pca-fsq"}

    def records(self) -> pa.RecordBatch:
        return images(picture(24, 32, 1), picture(13, 7, 2), picture(1, 1, 3), np.full((8, 8, 3), 9, np.uint8))

    def check_decoded(self, given: pa.RecordBatch, decoded: pa.RecordBatch) -> None:
        for a, b in zip(payload_views(given), payload_views(decoded), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype


class TestVideoPcaFsq(TokenizerKit):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "pca-fsq", "stages": 2, "codes": 4000}

    def records(self) -> pa.RecordBatch:
        frames = np.stack([picture(18, 16, s) for s in range(3)])
        one = video(frames, [-90_000, 12, 2**40])
        two = video(frames[:1], [0], (1001, 30_000))
        return pa.Table.from_batches([one, two]).combine_chunks().to_batches()[0]

    def check_decoded(self, given: pa.RecordBatch, decoded: pa.RecordBatch) -> None:
        for name in ("pts", "time_base_num", "time_base_den", "shape", "dtype"):
            assert decoded.column(name).to_pylist() == given.column(name).to_pylist()


class TestRasterPcaFsq(TokenizerKit):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "pca-fsq", "stages": 2, "scaling": "sqrt"}

    def records(self) -> pa.RecordBatch:
        mask = np.ones((16, 24), np.bool_)
        mask[3:, 5:20] = False
        tiles = [smooth((4, 16, 24), s, 9000.0).astype(np.uint16) for s in range(3)]
        return rasters(*tiles, masks=[None, mask, np.zeros_like(mask)])

    def check_decoded(self, given: pa.RecordBatch, decoded: pa.RecordBatch) -> None:
        assert decoded.column("valid").to_pylist() == given.column("valid").to_pylist()
        for a, b in zip(payload_views(given), payload_views(decoded), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype


class TestBandPcaFsq(TokenizerKit):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "band-pca-fsq"}

    def records(self) -> pa.RecordBatch:
        mask = np.random.default_rng(5).random((11, 19)) > 0.3
        floats = smooth((2, 11, 19), 1, 40.0).astype(np.float32) - 20
        floats[1, 3, 3] = np.nan
        return rasters(
            floats,
            smooth((1, 16, 16), 2, 60_000.0).astype(np.uint16),
            np.full((1, 8, 8), 7.25),
            np.full((2, 9, 9), -9999, np.int16),
            masks=[mask, None, None, None],
            nodata=-9999.0,
        )

    def check_decoded(self, given: pa.RecordBatch, decoded: pa.RecordBatch) -> None:
        back = list(payload_views(decoded))
        for i, (a, b) in enumerate(zip(payload_views(given), back, strict=True)):
            assert a.shape == b.shape and b.dtype.kind == "f"
            mask = np.frombuffer(given.column("valid")[i].as_buffer(), np.uint8).reshape(a.shape[1:]) != 0
            known = mask & np.isfinite(a.astype(np.float64)) & (a != -9999)
            assert np.array_equal(np.isfinite(b), known)
        assert (back[2] == 7.25).all()


class TestMuLaw(TokenizerKit):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "mu-law"}

    def records(self) -> pa.RecordBatch:
        t = np.arange(400)[:, None]
        wave = 12_000 * np.sin(t / [9.0])
        return audio(wave.astype(np.int16), (wave[:50] / 32768).astype(np.float32), np.zeros((3, 1), np.int16))

    def check_decoded(self, given: pa.RecordBatch, decoded: pa.RecordBatch) -> None:
        assert decoded.column("rate").to_pylist() == given.column("rate").to_pylist()
        assert decoded.column("shape").to_pylist() == given.column("shape").to_pylist()


def windows() -> pa.RecordBatch:
    random = np.random.default_rng(0)
    walk = random.normal(size=64).cumsum()
    t = 1_700_000_000_000_000_000 + np.cumsum(random.integers(-3, 9, 64)) * 1_000_000
    return sensors(
        regular(walk),
        regular(walk * 1e-9 + 4e5, valid=random.random(64) > 0.2),
        (t, walk, np.ones(64, np.bool_)),
        regular(np.full(20, 21.5)),
        regular([np.nan, np.inf, 1.0, 2.0, -np.inf]),
        regular([5.0]),
        regular([]),
        regular(np.full(4, np.nan), valid=np.zeros(4, np.bool_)),
    )


class TestZScoreMuLaw(TokenizerKit):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "zscore-mu-law"}

    def records(self) -> pa.RecordBatch:
        return windows()

    def check_decoded(self, given: pa.RecordBatch, decoded: pa.RecordBatch) -> None:
        assert decoded.column("t").to_pylist() == given.column("t").to_pylist()
        backs = list_views(decoded, "valid")
        for value, valid, back in zip(list_views(given, "value"), list_views(given, "valid"), backs, strict=True):
            assert np.array_equal(back, valid & np.isfinite(value))


class TestChronos(TokenizerKit):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "chronos"}

    def records(self) -> pa.RecordBatch:
        return windows()


class TestChronosWithScale(TestChronos):
    def settings(self) -> Mapping[str, Any]:
        return {"type": "chronos", "n_tokens": 1024, "scale_in_tokens": True}
