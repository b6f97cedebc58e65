"""datatrove: JsonlReader and DocumentTokenizer under its local executor, a task for each core."""

from __future__ import annotations

from typing import Any

import numpy as np
from job import Job, Sums


def begin(job: Job) -> Any:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    return LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(job.source)),
            DocumentTokenizer(
                output_folder=str(job.out / "tokens"),
                tokenizer_name_or_path=str(job.made / "tokenizer.json"),
                eos_token=None,
                shuffle_documents=False,
                save_filename="text",
            ),
        ],
        tasks=job.cores,
        workers=job.cores,
        logging_dir=str(job.out / "logs"),
    )


def run(job: Job, executor: Any) -> None:
    executor.run()


def sums(job: Job, executor: Any) -> Sums:
    made = Sums()
    for path in sorted((job.out / "tokens").glob("*.ds")):
        made.add(np.fromfile(path, np.uint16))
    return made
