"""Who reads what: rank, world size and worker of this process, and which sequences are its own.

Batch n of the job is sequences [base + n*R*B, base + (n+1)*R*B); rank r of R takes rows [r*B, (r+1)*B) of it, and of
its batches, worker w of W makes those with n % W == w: the order in which torch's DataLoader asks its workers.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.schemas.errors import ConfigError, StorageError
from headrace.shards.loader.table import Longs


@dataclass(frozen=True)
class Share:
    """The part of one process; `base` is a sequence number."""

    rank: int
    world: int
    batch: int
    base: int
    worker: int = 0
    workers: int = 1

    @property
    def step(self) -> int:
        """Sequences of a batch of the whole job."""
        return self.world * self.batch

    def own(self, sequences: Longs) -> npt.NDArray[np.bool_]:
        """Which of these this process assembles."""
        number, place = np.divmod(sequences - self.base, self.step)
        return (place // self.batch == self.rank) & (number % self.workers == self.worker)

    def after(self, number: int) -> int:
        """The sequence number after batch `number`."""
        return self.base + (number + 1) * self.step


def rank_and_world(rank: int | None, world: int | None) -> tuple[int, int]:
    """As given, else of torch.distributed if it is up, else of the environment (torchrun, Slurm), else (0, 1).

    Raises: ConfigError unless 0 <= rank < world.
    """
    if rank is None and world is None:
        torch = sys.modules.get("torch")
        if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
            return int(torch.distributed.get_rank()), int(torch.distributed.get_world_size())
        for a, b in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if a in os.environ and b in os.environ:
                rank, world = _number(a), _number(b)
                break
        else:
            return 0, 1
    if rank is None or world is None:
        raise ConfigError("give both `rank` and `world_size`, or neither", field="rank", value=rank)
    if world < 1 or not 0 <= rank < world:
        raise ConfigError(f"rank {rank} of {world} cannot be: it lies in 0 … world_size - 1", field="rank", value=rank)
    return rank, world


def worker_of() -> tuple[int, int]:
    """(worker, workers) of torch's DataLoader if this is one of its processes, else (0, 1)."""
    torch = sys.modules.get("torch")
    info = torch.utils.data.get_worker_info() if torch is not None else None
    return (0, 1) if info is None else (int(info.id), int(info.num_workers))


def watch(closed: threading.Event) -> Callable[[], None]:
    """A function for whoever waits for samples in a thread: it raises StorageError once nobody wants them any more.

    That is when the reading was `closed`, when the interpreter ends, and in a worker process when the trainer that
    started it was killed: nobody else ends such a worker.
    """
    torch = sys.modules.get("torch")
    worker = torch is not None and torch.utils.data.get_worker_info() is not None
    parent = os.getppid() if worker else 0

    def look() -> None:
        if parent and os.getppid() != parent:
            raise StorageError("the process that read these samples is gone")
        # At the end of the interpreter threads are joined after the main thread was marked as ended.
        if closed.is_set() or not threading.main_thread().is_alive():
            raise StorageError("the reading was closed")

    return look


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as exc:
        raise ConfigError(f"the variable {name} is not a number", field=name, value=os.environ[name]) from exc
