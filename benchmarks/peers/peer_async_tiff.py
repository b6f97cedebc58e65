"""async-tiff: a row of blocks fetched together and decoded by its pool of threads, then tiles."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from job import TILE, Job, Sums, sums_of_arrays


def begin(job: Job) -> Any:
    import async_tiff
    from async_tiff.store import LocalStore

    return async_tiff, LocalStore(str(job.source)), async_tiff.ThreadPool(job.cores)


def run(job: Job, state: Any) -> None:
    asyncio.run(_run(job, *state))


async def _run(job: Job, async_tiff: Any, store: Any, pool: Any) -> None:
    tiff = await async_tiff.TIFF.open(job.files[0].name, store=store)
    first = tiff.ifds[0]
    size = first.tile_width
    across, down = -(-first.image_width // size), -(-first.image_height // size)
    with open(job.out / "tiles.bin", "wb") as out:
        for y in range(down):
            blocks = await tiff.fetch_tiles([(x, y) for x in range(across)], 0)
            arrays = [np.asarray(a) for a in await asyncio.gather(*(block.decode(pool=pool) for block in blocks))]
            for i in range(0, size, TILE):
                for array in arrays:
                    for j in range(0, size, TILE):
                        tile = array[i : i + TILE, j : j + TILE]
                        out.write(np.ascontiguousarray(tile.transpose(2, 0, 1)).data)


def sums(job: Job, state: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)
