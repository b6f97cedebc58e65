"""Hugging Face datasets: `load_dataset`, `map` in batches with a process per core, `save_to_disk`."""

from __future__ import annotations

from typing import Any

from engine import Engine
from job import Job, Sums


def begin(job: Job) -> Any:
    import datasets

    datasets.disable_progress_bars()
    if job.work == "picture":
        import pictures  # noqa: F401

        return None
    return Engine(job.made).load()


def _pictures(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    from pictures import crop

    return {"pixels": [crop(image["bytes"] or open(image["path"], "rb").read()).tobytes() for image in batch["image"]]}


def run(job: Job, engine: Any) -> None:
    import datasets
    from datasets import Dataset, Features, Image, Sequence, Value, load_dataset

    if job.work == "picture":
        files = {"image": [str(path) for path in job.files]}
        data = Dataset.from_dict(files).cast_column("image", Image(decode=False))
        data = data.map(
            _pictures, batched=True, batch_size=100, num_proc=job.cores, remove_columns=["image"],
            features=Features({"pixels": Value("binary")}),
        )  # fmt: skip
    else:
        data = load_dataset("json", data_files=[str(path) for path in job.files], split="train")
        data = data.map(
            _tokens, batched=True, num_proc=job.cores, remove_columns=data.column_names, fn_kwargs={"engine": engine},
            features=Features({"tokens": Sequence(Value("uint16"))}),
        )  # fmt: skip
    data.save_to_disk(str(job.out / "shards"))
    assert datasets


def _tokens(batch: dict[str, list[Any]], engine: Any) -> dict[str, Any]:
    return {"tokens": engine(batch["text"])}


def sums(job: Job, engine: Any) -> Sums:
    import numpy as np
    from datasets import load_from_disk

    made = Sums()
    for batch in load_from_disk(str(job.out / "shards")).with_format("arrow").iter(1000):
        column = batch.column(0).combine_chunks()
        if job.work == "picture":
            for row in column:
                made.add(np.frombuffer(row.as_py(), np.uint8))
        else:
            made.add(column.flatten().to_numpy())
    return made
