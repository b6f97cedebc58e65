"""One contender in a process of its own: measure.py FD_IN FD_OUT MODULE JOB SPAWNED; JSON lines, one stage at a time.

    → {"ready": true, "startup_s": 1.2}      after `begin`
    ← go    → {"seconds": 3.4}               after `run`
    ← sums  → {"count": 4, "total": 9}       after `sums`, where it is asked for
    ← end

What libraries print goes to stdout and stderr, which the parent keeps in a log.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import json
import os
import sys
import time
from typing import Any

from job import Job

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Serve the three stages."""
    ask, answer = os.fdopen(int(sys.argv[1]), "r"), os.fdopen(int(sys.argv[2]), "w")
    module, job, spawned = sys.argv[3], Job.from_json(json.loads(sys.argv[4])), float(sys.argv[5])
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # whose parent ends stays in this tree, where it is counted
    contender = importlib.import_module(module)
    state = contender.begin(job)
    _tell(answer, ready=True, startup_s=time.monotonic() - spawned)
    if not ask.readline():
        return
    began = time.monotonic()
    own = contender.run(job, state)
    whole = time.monotonic() - began
    _tell(answer, seconds=own or whole, whole_s=whole)
    if ask.readline().strip() == "sums":
        _tell(answer, **dataclasses.asdict(contender.sums(job, state)))
        ask.readline()
    end = getattr(contender, "end", None)
    if end:
        end(state)


def _tell(answer: Any, **value: Any) -> None:
    answer.write(json.dumps(value) + "\n")
    answer.flush()


if __name__ == "__main__":
    main()
