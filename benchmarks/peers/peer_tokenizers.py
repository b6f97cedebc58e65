"""Hugging Face tokenizers: `encode_batch` on both cores, as its documentation has it, and a plain file of ids."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import numpy as np
from job import Job, Sums, sums_of_arrays


def begin(job: Job) -> Any:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(job.cores)
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(job.made / "tokenizer.json"))


def run(job: Job, tokenizer: Any) -> None:
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)  # the same ids without offsets
    with open(job.out / "ids.bin", "wb") as out:
        for path in job.files:
            with open(path, "rb") as lines:
                while some := lines.readlines(1 << 20):
                    rows = encode([json.loads(line)["text"] for line in some], add_special_tokens=False)
                    out.write(np.fromiter(itertools.chain.from_iterable(row.ids for row in rows), np.uint16).tobytes())


def sums(job: Job, tokenizer: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)
