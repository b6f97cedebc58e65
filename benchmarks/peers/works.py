"""What is measured: the works, their inputs at two sizes, and who does each.

A contender's module is named here with the interpreter that it runs under: `own` is headrace's environment, `peers` the
one that scripts/bench-peers.sh makes, another name one of those that it makes for a peer alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import array_input
import text_input
import tokenizers_made
from job import SIDE, TILE, WINDOW

MB = 1_000_000
_CLIP_S = 10


@dataclass(frozen=True)
class Contender:
    """who: as the table names it. kind: ours, bare (the limit) or peer. heavy: --quick leaves it out."""

    module: str
    who: str
    kind: str = "peer"
    venv: str = "peers"
    heavy: bool = False


@dataclass(frozen=True)
class Work:
    """`make(folder, amount)` writes the input; `amounts` are in `unit`: quick, small, large."""

    name: str
    title: str
    unit: str
    amounts: tuple[float, float, float]
    make: Callable[[Path, float], None]
    stream: dict[str, Any]
    contenders: tuple[Contender, ...]
    values: str = "tokens"  #: what is counted: tokens, or values of pixels
    #: how much the sum of values may differ from ours, relatively; beyond it one is refused. None: it is only marked
    within: float | None = 0.0
    divide: int | None = None  #: `divide_bytes` of our source
    seconds: float = 60  #: share of a whole run's time
    notes: tuple[str, ...] = field(default=())

    def pipeline(self, root: Path) -> dict[str, Any]:
        """What headrace is given."""
        source: dict[str, Any] = {"type": "files", "root": str(root)}
        if self.divide:
            source["divide_bytes"] = self.divide
        return {"streams": {"work": {"source": source, **self.stream}}}


def _text(tokenizer: dict[str, Any]) -> dict[str, Any]:
    return {"record": {"type": "text", "field": "text"}, "tokenizer": tokenizer}


OURS = Contender("peer_headrace", "**headrace build**", "ours", "own")

_SENTENCEPIECE = (
    Contender("bare_fused", "bare: our tokenizer, 2 processes", "bare", "own"),
    Contender("bare_sentencepiece", "bare: sentencepiece, 2 processes", "bare", "own"),
)
_TEXT_PEERS = (
    Contender("peer_tokenizers", "Hugging Face tokenizers, encode_batch"),
    Contender("peer_mds", "mosaicml-streaming, MDSWriter"),
    Contender("peer_megatron", "Megatron preprocess_data"),
    Contender("peer_datasets", "Hugging Face datasets, map"),
    Contender("peer_datatrove", "datatrove, DocumentTokenizer", venv="datatrove"),
    Contender("peer_dolma", "dolma tokens", venv="dolma", heavy=True),
    Contender("peer_litdata", "litdata, optimize", heavy=True),
    Contender("peer_ray_data", "Ray Data, map_batches", heavy=True),
)
_PICTURE_PEERS = (
    Contender("peer_datasets", "Hugging Face datasets, map"),
    Contender("peer_webdataset", "webdataset, ShardWriter"),
    Contender("peer_mds", "mosaicml-streaming, MDSWriter"),
    Contender("peer_litdata", "litdata, optimize", heavy=True),
    Contender("peer_daft", "Daft", venv="daft", heavy=True),
    Contender("peer_ray_data", "Ray Data, map_batches", heavy=True),
)


def _make_text(folder: Path, amount: float) -> None:
    text_input.make(folder, int(amount * MB))


def _make_pictures(folder: Path, amount: float) -> None:
    from image import make_photographs  # of benchmarks/image.py

    make_photographs(folder, int(amount))


def _make_clips(folder: Path, amount: float) -> None:
    from video import make_clips  # of benchmarks/video.py

    make_clips(int(amount // _CLIP_S), folder, _CLIP_S)


WORKS: dict[str, Work] = {
    work.name: work
    for work in (
        Work(
            "text-bpe",
            "JSON Lines, SentencePiece BPE of 32,000 pieces",
            "MB",
            (4, 20, 100),
            _make_text,
            _text({"type": "sentencepiece", "vocab_size": 32_000, "fit": {"records": 2000, "splits": 2}}),
            (OURS, *_SENTENCEPIECE, *_TEXT_PEERS),
            seconds=300,
        ),
        Work(
            "text-unigram",
            "JSON Lines, SentencePiece unigram of 32,000 pieces",
            "MB",
            (4, 20, 100),
            _make_text,
            _text({"type": "sentencepiece", "vocab_size": 32_000, "model_type": "unigram", "fit": {"records": 2000, "splits": 2}}),
            (OURS, *_SENTENCEPIECE, *(c for c in _TEXT_PEERS if c.module != "peer_dolma")),
            within=1e-4,
            notes=("the library adds scores in 32 bits along a whole document, so that ties may fall otherwise: †",),
            seconds=170,
        ),
        Work(
            "text-bytes",
            "JSON Lines, byte-level BPE of 32,000 ranks (GPT-2's pattern)",
            "MB",
            (4, 20, 100),
            _make_text,
            _text({"type": "tiktoken", "model": "ranks.tiktoken", "pattern": "gpt2"}),
            (
                OURS,
                Contender("bare_fused", "bare: our tokenizer, 2 processes", "bare", "own"),
                Contender("peer_tiktoken", "tiktoken, encode_ordinary_batch", venv="own"),
                *(c for c in _TEXT_PEERS if c.module in ("peer_tokenizers", "peer_datasets", "peer_datatrove", "peer_dolma")),
            ),
            seconds=120,
        ),
        Work(
            "picture",
            f"JPEG of 1024 x 768 → {SIDE}² crop, 8-bit RGB",
            "pictures",
            (60, 400, 1600),
            _make_pictures,
            {"record": {"type": "image", "crop": SIDE, "scaled": "fastest"}, "tokenizer": {"type": "raw"}},
            (OURS, Contender("bare_pictures", "bare: Pillow with draft, 2 threads", "bare", "own"), *_PICTURE_PEERS),
            values="pixel values",
            within=None,
            seconds=150,
        ),
        Work(
            "video",
            "H.264 of 1080p, clips of 10 s → 2 fps, 256 x 144",
            "s",
            (10, 20, 60),
            _make_clips,
            {"record": {"type": "video", "fps": 2, "max_side": 256, "audio": False}, "tokenizer": {"type": "raw"}},
            (
                OURS,
                Contender("bare_video", "bare: PyAV, 2 processes", "bare", "own"),
                Contender("peer_decord", "decord"),
                Contender("peer_torchcodec", "torchcodec"),
                Contender("peer_ray_data", "Ray Data, read_videos", heavy=True),
            ),
            values="pixel values",
            within=None,
            seconds=130,
        ),
        Work(
            "raster",
            f"a deflate COG of four uint16 bands → {TILE}² tiles",
            "Mpixel",
            (1.048576, 4.194304, 16.777216),
            lambda folder, amount: array_input.make_raster(folder, round((amount * 1e6) ** 0.5)),
            {"record": {"type": "raster", "tile": TILE}, "tokenizer": {"type": "raw"}},
            (
                OURS,
                Contender("bare_raster", "bare: rasterio, block rows, 2 threads", "bare", "own"),
                Contender("peer_tifffile", "tifffile", venv="own"),
                Contender("peer_async_tiff", "async-tiff"),
                Contender("peer_xbatcher", "xbatcher over rioxarray"),
            ),
            values="pixel values",
            divide=1 << 20,
            seconds=60,
        ),
        Work(
            "sensor",
            f"CSV of six channels → windows of {WINDOW} as Chronos tokens",
            "MB",
            (25, 50, 200),
            lambda folder, amount: array_input.make_table(folder, max(1, round(amount / 25)), min(337_500, round(amount * 13_500))),
            {"record": {"type": "sensor", "window": WINDOW}, "tokenizer": {"type": "chronos"}},
            (
                OURS,
                Contender("bare_table", "bare: pyarrow CSV and numpy, 2 threads", "bare", "own"),
                Contender("peer_polars", "polars", venv="own"),
                Contender("peer_pandas", "pandas, 2 processes", venv="own"),
                Contender("peer_torch_series", "pandas and torch, as Chronos", venv="own"),
            ),
            seconds=100,
        ),
    )
}


def prepare(work: Work, folder: Path, amounts: tuple[float, ...]) -> tuple[list[tuple[float, Path]], Path]:
    """[(amount, folder of files)] from small to large, and the folder of tokenizers; made where they are not there."""
    kind = "text" if work.name.startswith("text") else work.name
    sources = [(amount, _input(work, folder / f"{kind}-{amount:g}", amount)) for amount in amounts]
    made = folder / f"made-{work.name}-{amounts[0]:g}"
    if not made.exists():
        with _whole(made) as part:
            tokenizers_made.make(work.name, work.pipeline(sources[0][1]), sources[0][1], part)
    return sources, made


def _input(work: Work, folder: Path, amount: float) -> Path:
    if not folder.exists():
        with _whole(folder) as part:
            work.make(part, amount)
    return folder


class _whole:
    """A folder that bears its name only when it is whole."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._part = folder, folder.with_name(folder.name + ".part")

    def __enter__(self) -> Path:
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        return self._part

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            os.rename(self._part, self._folder)
