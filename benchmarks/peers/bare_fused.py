"""The limit of text with the same engine: headrace's tokenizer alone, fed in batches of a mebibyte, two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import works
from job import Job, Sums, over, sums_of_arrays, workers

from headrace.ingest.artefacts import read_artefact
from headrace.schemas.record import RecordBuilder
from headrace.shards.dataset import Dataset
from headrace.tokenizers.registry import choose

_tokenizer: Any = None


def _load(work: str, made: Path) -> None:
    global _tokenizer
    artefact = None
    if (made / "fitted").exists():
        dataset = Dataset.open(str(made / "fitted"))
        artefact = read_artefact(dataset.store, next(iter(dataset.state.tokenizers)))
    _tokenizer = choose(works.WORKS[work].stream["tokenizer"], made).create(artefact)


def _encode(job: tuple[Path, Path]) -> None:
    source, out = job
    with open(source, "rb") as lines, open(out, "wb") as ids:
        while some := lines.readlines(1 << 20):
            builder = RecordBuilder("text")
            for line in some:
                builder.add(locator="", text=orjson.loads(line)["text"])
            ids.write(memoryview(_tokenizer.encode(builder.finish()).values))


def begin(job: Job) -> Any:
    return workers(job.cores, _load, job.work, job.made)


def run(job: Job, pool: Any) -> None:
    over(pool, _encode, [(path, job.out / f"{path.stem}.bin") for path in job.files])


def sums(job: Job, pool: Any) -> Sums:
    return sums_of_arrays(job.out, "<u2")


def end(pool: Any) -> None:
    pool.terminate()
