"""The whole corpus of real files, good and bad, built as a newcomer would: everything ends where it should."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from headrace.shards.dataset import Dataset

pytestmark = pytest.mark.data

#: Formats that are declared out of scope: why a `good` file may be quarantined whole.
OUT_OF_SCOPE = {
    "unsupported:vrt": "a VRT only names other files",
    "unsupported:variant": "Parquet variants",
}

#: Files classed good whose quarantine is right, each with the reason it must have.
EXCEPTIONS = {
    "raster/gdal_gtiff/byte.pnm.aux.xml": "corrupt",  # not well-formed XML: text before the declaration
    "raster/gdal_gtiff/byte_gcp.tif.aux.xml": "empty",  # a sidecar without a word of text
    "sensor/parquet/rle-dict-uncompressed-corrupt-checksum.parquet": "checksum",  # made to fail its page checksums
    "text/tokenizers/test_model.model": "unknown_format",  # a SentencePiece model is no text
    "text/warc/example-digest.warc": "empty",  # holds four requests and no response
}


#: Runs a command and says how large its largest process was; in a process of its own, since the tests before this one
#: had children too.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
sys.stderr.write(f"\\n{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}\\n")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, int]:
    out = tmp_path_factory.mktemp("corpus") / "out"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _MEASURED,
            sys.executable,
            "-m",
            "headrace",
            "build",
            str(corpus),
            "--out",
            str(out),
            "--engine",
            "inline",
            "--workers",
            "2",
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout), int(done.stderr.splitlines()[-1])


@pytest.fixture(scope="module")
def fate(built: tuple[Path, dict, int]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Samples by uri, and quarantine reasons by uri."""
    dataset = Dataset.open(str(built[0]))
    samples: dict[str, int] = defaultdict(int)
    for stream in dataset.streams():
        for batch in dataset.batches(stream, ["uri"]):
            for uri in batch.column("uri").to_pylist():
                samples[uri] += 1
    reasons: dict[str, list[str]] = defaultdict(list)
    for _, batch in dataset.quarantine():
        for row in batch.select(["uri", "reason"]).to_pylist():
            reasons[row["uri"]].append(row["reason"])
    return samples, reasons


def of(path: str, found: dict) -> list:
    """What is known of a file or of members inside it."""
    return [value for uri, value in found.items() if uri == path or uri.startswith((path + "/", path + "#"))]


def test_the_books_balance_for_every_source_and_verify_is_clean(built: tuple[Path, dict, int]) -> None:
    for source in built[1]["sources"]:
        assert source["items"] == source["closed"] + source["quarantined"] + source["open"], source
        assert source["open"] == 0
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "verify", str(built[0]), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["content_digest"] == built[1]["content_digest"]


def test_no_process_takes_two_gib(built: tuple[Path, dict, int]) -> None:
    assert built[2] < 2 << 20


def test_every_file_ends_as_samples_or_in_quarantine(manifest: list[dict[str, str]], fate: tuple[dict, dict]) -> None:
    lost = [row["path"] for row in manifest if not of(row["path"], fate[0]) and not of(row["path"], fate[1])]
    assert lost == []


def test_every_good_file_arrives(manifest: list[dict[str, str]], fate: tuple[dict, dict]) -> None:
    wrong = {}
    for row in manifest:
        path = row["path"]
        if row["class"] != "good" or of(path, fate[0]):
            continue
        reasons = sorted({reason for some in of(path, fate[1]) for reason in some})
        if path in EXCEPTIONS and reasons == [EXCEPTIONS[path]]:
            continue
        if not set(reasons) <= set(OUT_OF_SCOPE):
            wrong[path] = reasons
    assert wrong == {}


def test_nothing_is_blamed_on_headrace_itself(fate: tuple[dict, dict]) -> None:
    internal = {uri: reasons for uri, reasons in fate[1].items() if any(r.startswith("internal") for r in reasons)}
    assert internal == {}
