"""Broken and hostile files under a memory limit: each ends committed or with a reason, and none ends the process."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from headrace.ingest.normalizers.sensor_testing import read
from headrace.schemas.errors import REASONS

#: Reads the files named on stdin, one JSON line each on stdout, with a gibibyte beyond what the libraries take.
CHILD = textwrap.dedent(
    """
    import json, pathlib, re, resource, sys, time, warnings
    warnings.simplefilter("error")
    import pyarrow.csv, pyarrow.parquet
    from headrace.ingest.normalizers.sensor_testing import read
    read(b"t,v\\n2020-01-01,1\\n", "csv")
    base = int(re.search(r"VmData:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (base + (1 << 30), base + (1 << 30)))
    for line in sys.stdin:
        name, form = json.loads(line)
        start = time.process_time()
        out = read(pathlib.Path(name), form)
        print(json.dumps({
            "name": name, "records": len(out.records), "bad": [b.reason for b in out.bad],
            "error": out.error and [out.error.reason, out.error.message], "seconds": time.process_time() - start,
            # Not ru_maxrss, which a new process inherits from the one that started it.
            "rss": int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) >> 10,
        }), flush=True)
    """
)


def under_a_limit(files: list[tuple[Path, str]]) -> list[dict[str, Any]]:
    """What became of each file; fails with the name of the one that ended the process."""
    lines = "".join(json.dumps([str(path), form]) + "\n" for path, form in files)
    done = subprocess.run([sys.executable, "-c", CHILD], input=lines, capture_output=True, text=True, timeout=300)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{files[len(found)][0]} ended the process: {done.stderr[-2000:]}"
    assert done.stderr == ""
    return found


@pytest.mark.data
def test_every_bad_file_of_the_corpus_ends_committed_or_with_a_reason(corpus: Path) -> None:
    forms = {
        "arrow_fuzz_csv": "csv",
        "arrow_fuzz_parquet": "parquet",
        "parquet": "parquet",
        "arrow_fuzz_ipc_file": "arrow_file",
        "arrow_fuzz_ipc_stream": "arrow_stream",
        "lfs_pointer": "mcap",
    }
    files = [
        (path, form)
        for folder, form in forms.items()
        for path in sorted((corpus / "sensor/bad" / folder).rglob("*"))
        if path.is_file()
    ]
    assert len(files) > 170
    found = under_a_limit(files)
    assert len(found) == len(files)
    reasons: Counter[str] = Counter()
    for one in found:
        assert one["records"] or one["bad"] or one["error"], one["name"]
        ends = [*one["bad"], *([one["error"][0]] if one["error"] else [])]
        assert all(reason.split(":")[0] in REASONS and reason != "internal" for reason in ends), one
        assert one["seconds"] < 10, one
        reasons.update(ends or ["committed"])
    assert max(one["rss"] for one in found) < 700
    assert reasons["corrupt"] > 50 and reasons["truncated"] > 5 and reasons["bad_encoding"] > 5 and reasons["bomb"] >= 1


def mutated(data: bytes, seed: int) -> bytes:
    """The bytes cut, flipped, overwritten or shortened, by a seed."""
    draw = random.Random(seed)
    out = bytearray(data)
    at = draw.randrange(len(out))
    kind = draw.randrange(4)
    if kind == 0:
        return bytes(out[:at])
    if kind == 1:
        for _ in range(draw.randrange(1, 8)):
            out[draw.randrange(len(out))] = draw.randrange(256)
    elif kind == 2:
        size = min(len(out) - at, draw.randrange(1, 64))
        out[at : at + size] = draw.randbytes(size)
    else:
        del out[at : at + draw.randrange(1, 400)]
    return bytes(out)


@pytest.mark.data
def test_damaged_copies_of_good_files_never_end_in_anything_else(corpus: Path, tmp_path: Path) -> None:
    sources = {
        "sensor/gpx/track-with-extremes.gpx": "gpx", "sensor/parquet/alltypes_plain.parquet": "parquet",
        "sensor/parquet/nonnullable.impala.parquet": "parquet", "sensor/parquet/delta_byte_array.parquet": "parquet",
        "sensor/mcap/TenMessagesOneAttachment/TenMessagesOneAttachment-ax-ch-rch.mcap": "mcap",
    }  # fmt: skip
    files = []
    for name, form in sources.items():
        data = (corpus / name).read_bytes()
        for seed in range(12):
            path = tmp_path / f"{Path(name).stem}-{seed}"
            path.write_bytes(mutated(data, seed))
            files.append((path, form))
    assert all(one["records"] or one["bad"] or one["error"] for one in under_a_limit(files))


@pytest.mark.parametrize(
    "form",
    [
        "csv",
        "tsv",
        "jsonl",
        "json",
        "gpx",
        "ulog",
        "mcap",
        "rosbag1",
        "rosbag2",
        "parquet",
        "arrow_file",
        "arrow_stream",
    ],
)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 64,
        b"\xff" * 1000,
        b"{",
        b"[" * 5000,
        b"<gpx",
        b"a,b\n" + b"\x80,\x81\n" * 50,
        bytes(range(256)) * 8,
    ],
)
def test_no_reader_trips_over_bytes_of_another_kind(form: str, data: bytes) -> None:
    out = read(data, form)
    assert out.records or out.bad or out.error is not None


def test_a_format_that_is_not_ours_is_refused_by_name() -> None:
    assert read(b"x", "hdf5").error.reason == "unsupported:hdf5"  # type: ignore[union-attr]


def test_memory_stays_flat_over_a_long_table(tmp_path: Path) -> None:
    """30 MB of CSV take no more at the end than after a quarter."""
    path = tmp_path / "long.csv"
    block = "".join(f"2020-01-01 00:00:{i % 60:02d},{i},{i / 7},{i * 3}\n" for i in range(20_000)).encode()
    with open(path, "wb") as stream:
        stream.write(b"t,a,b,c\n")
        for _ in range(30_000_000 // len(block)):
            stream.write(block)
    script = (
        "import resource, sys\n"
        "from headrace.connectors.contract import Item, PathBlob\n"
        "from headrace.ingest.normalizers.sensor import SensorNormalizer\n"
        "normalizer = SensorNormalizer(SensorNormalizer.Config())\n"
        "rows, peaks = 0, []\n"
        "for batch in normalizer.open(Item(PathBlob('x', sys.argv[1]), 0, headers={'format': 'csv'})):\n"
        "    rows += batch.num_rows\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)\n"
        "print(rows, peaks[len(peaks) // 4], peaks[-1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    _, early, late = map(int, done.stdout.split())
    assert late - early < 48, f"peak memory grew from {early} to {late} MiB"


def test_the_limit_of_this_test_is_a_limit() -> None:
    """The child is really held to a gibibyte: an array of two does not fit."""
    code = "import resource, numpy as n; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)); n.ones(1 << 28)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0 and resource.RLIMIT_DATA is not None
