"""tiktoken: `encode_ordinary_batch` on both cores, and a plain file of ids."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
from job import Job, Sums, sums_of_arrays

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def begin(job: Job) -> Any:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(job.made / "ranks.tiktoken"))
    return tiktoken.Encoding("bench", pat_str=_GPT2, mergeable_ranks=ranks, special_tokens={})


def run(job: Job, encoding: Any) -> None:
    with open(job.out / "ids.bin", "wb") as out:
        for path in job.files:
            with open(path, "rb") as lines:
                while some := lines.readlines(1 << 20):
                    texts = [json.loads(line)["text"] for line in some]
                    rows = encoding.encode_ordinary_batch(texts, num_threads=job.cores)
                    out.write(np.fromiter(itertools.chain.from_iterable(rows), np.uint16).tobytes())


def sums(job: Job, encoding: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)
