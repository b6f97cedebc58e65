"""A training process for tests: reads, writes a line for each batch (what it held, and its state), and may be killed.

    python trainer.py '{"dataset": …, "log": …, "state": null, "settings": {…}, "workers": null, "pause_s": 0}'

With `workers` it reads through torch's DataLoader. A line is written with one write, so it is there whole or not.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from headrace.shards.loader.dataset import ShardDataset


def main(told: dict[str, Any]) -> None:
    data = ShardDataset(told["dataset"], **told["settings"])
    if told["state"] is not None:
        data.load_state_dict(told["state"])
    batches: Any = data
    if told["workers"] is not None:
        import torch

        batches = torch.utils.data.DataLoader(
            data.torch(), batch_size=None, num_workers=told["workers"], multiprocessing_context="fork"
        )
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for batch in batches:
        edges = [int(e) for e in batch["cu_seqlens"]]
        samples = [[*s.tolist(), at, b - at] for s, at, b in zip(batch["samples"], edges, edges[1:])]
        line = {"g": batch["g"], "samples": samples, "state": batch["state"], "tokens": batch["tokens"].tolist()}
        os.write(log, json.dumps(line).encode() + b"\n")
        time.sleep(told["pause_s"])
    os.write(log, b'{"end": true}\n')


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
