"""pandas and torch, in the steps of Chronos's own tokenizer: mean magnitude, `bucketize`, one batch of windows a channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from job import WINDOW, Job, Sums, sums_of_arrays


def begin(job: Job) -> Any:
    import pandas
    import torch

    torch.set_num_threads(job.cores)
    return pandas, torch, torch.from_numpy(np.load(job.made / "borders.npy"))


def run(job: Job, state: Any) -> None:
    pandas, torch, borders = state
    for path in job.files:
        table = pandas.read_csv(path, parse_dates=["time"])
        with open(job.out / f"{path.stem}.bin", "wb") as out:
            for name in table.columns[1:]:
                x = torch.from_numpy(table[name].to_numpy(np.float32, copy=True))
                whole = len(x) // WINDOW * WINDOW
                for windows in (x[:whole].reshape(-1, WINDOW), x[None, whole:]):
                    if windows.numel():
                        scale = windows.abs().sum(dim=1, keepdim=True) / windows.shape[1]
                        scale[~(scale > 0)] = 1.0
                        ids = torch.bucketize(windows / scale, borders, right=True) + 2
                        out.write(ids.clamp(0, 4095).numpy().astype(np.uint16).data)


def sums(job: Job, state: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)
