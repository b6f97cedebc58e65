"""What a contender is: a module with three functions, and the job it is given. Imported under every interpreter.

    begin(job) -> state        start-up: imports, tokenizers, pools of processes, Ray
    run(job, state)            from opening the input to the last closed shard, as the tool's own documentation does it
    sums(job, state) -> Sums   what lies in `job.out` then, read back; not timed

`run` may give back the seconds of its own clock, where the tool tells start-up and work apart by itself.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 512  #: sensor samples in a window
TILE = 256  #: raster pixels along a tile
SIDE = 224  #: of a picture
FPS = 2
FRAME = (256, 144)  #: width, height of a video frame


@dataclass(frozen=True)
class Job:
    """work: a name in works.py. source: the folder of input files. made: tokenizers, the same for everybody."""

    work: str
    source: Path
    made: Path
    out: Path
    cores: int

    @property
    def files(self) -> list[Path]:
        """The input, in order."""
        return sorted(self.source.iterdir())

    def to_json(self) -> dict[str, Any]:
        """For another process."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Job:
        """The job of a message."""
        return cls(value["work"], *(Path(value[name]) for name in ("source", "made", "out")), value["cores"])


@dataclass
class Sums:
    """What all must agree on: how many values (tokens, or pixels) there are, and what they add up to."""

    count: int = 0
    total: int = 0

    def add(self, values: Any) -> None:
        """Numbers of any shape."""
        array = np.asarray(values)
        self.count += array.size
        self.total += int(array.sum(dtype=np.int64))


def sums_of_arrays(folder: Path, dtype: Any) -> Sums:
    """Of all plain files of numbers in a folder."""
    sums = Sums()
    for path in sorted(folder.glob("*.bin")):
        sums.add(np.fromfile(path, dtype))
    return sums


def workers(cores: int, begin: Callable[..., None], *args: Any) -> Any:
    """A pool of processes in each of which `begin(*args)` has run: forked, so imports of this process are theirs."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(cores + 1)
    pool = context.Pool(cores, _begin, (barrier, begin, args))
    barrier.wait(120)
    return pool


def _begin(barrier: Any, begin: Callable[..., None], args: tuple[Any, ...]) -> None:
    begin(*args)
    barrier.wait(120)


def over(pool: Any, function: Callable[..., Any], jobs: Iterable[Any]) -> list[Any]:
    """What `function` gives for each, one after another to whoever is free."""
    return list(pool.imap_unordered(function, jobs, chunksize=1))
