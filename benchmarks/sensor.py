"""Tables of sensor readings to windows of tokens, against the same by pyarrow, polars and pandas.

    python benchmarks/sensor.py [--quick] [--scaling] [--json] [WORK …]

Two CSV files of six channels, a reading a second. Each bare loop reads a whole table at once, cuts it into windows of
512 samples, and gives them to the same tokenizer; `read` stops after pyarrow's reader and makes no tokens at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from media_race import Work, arguments, main

from headrace.schemas.record import RecordBuilder

CHANNELS, WINDOW, FILES = 6, 512, 2
_AT_ONCE = 512  #: windows that are tokenized together
_BYTES_A_ROW = 21 + CHANNELS * 8.3
_PIECE = 200_000

Table = tuple[npt.NDArray[np.int64], list[tuple[str, npt.NDArray[np.float64]]]]  #: times in ns, channels


def make_tables(folder: Path, megabytes: int) -> float:
    """Random walks of four decimals; in MB of text."""
    import pyarrow as pa
    from pyarrow import csv

    rows = int(megabytes * 1e6 / FILES / _BYTES_A_ROW)
    for number in range(FILES):
        rng = np.random.default_rng(4 + number)
        level = np.full(CHANNELS, 10.0)
        with open(folder / f"{number}.csv", "wb") as file:
            file.write(b"time," + ",".join(f"c{i}" for i in range(CHANNELS)).encode() + b"\n")
            for start in range(0, rows, _PIECE):
                count = min(_PIECE, rows - start)
                walk = np.cumsum(rng.normal(0, 0.01, (count, CHANNELS)), axis=0) + level
                level = walk[-1]
                times = (np.datetime64("2025-01-01T00:00:00") + np.arange(start, start + count)).astype(str)
                columns = {"time": pa.array([f"{t}Z" for t in times.tolist()])}
                columns |= {f"c{i}": pa.array(walk[:, i].round(4).tolist()) for i in range(CHANNELS)}
                options = csv.WriteOptions(include_header=False, quoting_style="none")
                csv.write_csv(pa.table(columns), file, options)
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def by_arrow(path: Path) -> Table:
    """pyarrow's reader, which knows time stamps."""
    import pyarrow as pa
    from pyarrow import csv

    table = csv.read_csv(path, read_options=csv.ReadOptions(use_threads=False)).combine_chunks()
    columns = [column.chunk(0) for column in table.columns]
    times = np.frombuffer(columns[0].cast(pa.timestamp("ns", "UTC")).buffers()[1], np.int64)
    named = zip(table.column_names[1:], columns[1:])
    return times, [(name, np.frombuffer(column.buffers()[1], np.float64)) for name, column in named]


def by_polars(path: Path) -> Table:
    """polars' reader."""
    import polars as pl

    frame = pl.read_csv(path, try_parse_dates=True).rechunk()
    times = frame["time"].dt.cast_time_unit("ns").to_physical().to_numpy()
    return times, [(name, frame[name].to_numpy()) for name in frame.columns[1:]]


def by_pandas(path: Path) -> Table:
    """pandas' C reader."""
    import pandas as pd

    frame = pd.read_csv(path, parse_dates=["time"])
    times = frame["time"].dt.as_unit("ns").astype("int64").to_numpy()
    return times, [(name, frame[name].to_numpy()) for name in frame.columns[1:]]


def bare(read: Callable[[Path], Table], files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """Read, window, tokenize."""
    kept = 0
    for path in files:
        times, channels = read(path)
        for name, values in channels:
            builder = RecordBuilder("sensor")
            for at in range(0, len(values), WINDOW):
                part = slice(at, at + WINDOW)
                valid = np.isfinite(values[part])
                builder.add(locator="", t=times[part], value=values[part], valid=valid, channel=name)
                if len(builder) == _AT_ONCE:
                    kept += len(tokenizer.encode(builder.finish()).values)
            kept += len(tokenizer.encode(builder.finish()).values)
    return kept


def bare_read(files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """pyarrow's reader alone."""
    from pyarrow import csv

    options = csv.ReadOptions(use_threads=False)
    return sum(csv.read_csv(path, read_options=options).num_rows for path in files)


def works() -> list[Work]:
    """The lines of the table."""
    loops: dict[str, Callable[[Sequence[Path], Any, int], int]] = {
        "arrow": partial(bare, by_arrow),
        "polars": partial(bare, by_polars),
        "pandas": partial(bare, by_pandas),
        "read": bare_read,
    }
    return [Work(f"csv-{name}", "sensor", "MB", make_tables, (50, 200), {}, loop) for name, loop in loops.items()]


if __name__ == "__main__":
    WORKS = works()
    main(arguments(__doc__, [work.name for work in WORKS]).parse_args(), WORKS)
