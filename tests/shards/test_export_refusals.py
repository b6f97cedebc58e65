"""What bad input gets: damage is named and never exported, wrong settings stop before the first byte."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from headrace.cli import app
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, FormatTooNew, ShardError
from headrace.shards.dataset import Dataset
from headrace.shards.entry import entry_name
from headrace.shards.exports.columns import lists
from headrace.shards.exports.export import export
from headrace.shards.exports.journal import MANIFEST
from headrace.shards.exports.offset_file import LIMIT, OffsetFile
from headrace.shards.exports.options import NO_EMPTY, TARGETS, ExportOptions, Target
from headrace.shards.forget import Selection, forget
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore

from .exporting import Maker, bodies, filled, full_dataset, settings_for, token_rows
from .test_export_formats import tokens_of


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    store = LocalStore(str(tmp_path / "dataset"), create=True)
    maker = Maker(store, {name: settings_for(name) for name in ("tide", "tide@2", "empty")})
    for lane in (0, 1):
        maker.add("tide", token_rows(40, lane), lane=lane, block_bytes=2000)
    maker.add("tide@2", token_rows(10, 5))
    return Dataset(store)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def test_a_flipped_bit_is_named_with_shard_and_block_and_never_written(dataset: Dataset, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    export(dataset, clean, ExportOptions(to="mds", max_shard_bytes=2500))
    good = {p.name: p.read_bytes() for p in (clean / "tide").glob("*.mds")}
    rng = random.Random(4)
    for n in range(12):
        shard = rng.choice(dataset.state.live_shards("tide"))
        path = Path(dataset.store.local_path(shard.path) or "")
        bit = rng.randrange(shard.bytes * 8)
        flip(path, bit)
        out = tmp_path / f"out{n}"
        with pytest.raises(ShardError, match=rf"{shard.path}: (head|block \d+|tail) \(bytes .* was altered"):
            export(dataset, out, ExportOptions(to="mds", max_shard_bytes=2500))
        assert not (out / MANIFEST).exists()
        for written in (out / "tide").glob("*.mds"):
            assert written.read_bytes() == good[written.name], (shard.path, bit)
        flip(path, bit)
        export(dataset, out, ExportOptions(to="mds", max_shard_bytes=2500))
        assert {p.name: p.read_bytes() for p in (out / "tide").glob("*.mds")} == good


def test_a_missing_shard_and_a_newer_format_are_named(dataset: Dataset, tmp_path: Path) -> None:
    shard = dataset.state.live_shards("tide")[1]
    path = Path(dataset.store.local_path(shard.path) or "")
    path.rename(tmp_path / "away")
    with pytest.raises(ShardError, match=f"{shard.path} is missing"):
        export(dataset, tmp_path / "out", ExportOptions(to="parquet"))
    (tmp_path / "away").rename(path)
    first = Path(dataset.store.local_path(entry_name(dataset.version)) or "")
    line = json.loads(first.read_bytes().splitlines()[0])
    text = canonical_json({**line, "format": 99}) + b"\n"
    first.write_bytes(text + hashlib.sha256(text).hexdigest().encode() + b"\n")
    with pytest.raises(FormatTooNew, match="install a newer one"):
        Dataset.open(dataset.store)
    told = CliRunner().invoke(app, ["export", dataset.store.url, "--to", "mds", "--out", str(tmp_path / "o")])
    assert isinstance(told.exception, FormatTooNew)


@pytest.mark.parametrize("target", TARGETS)
def test_forgotten_samples_are_left_out_and_counted(target: Target, dataset: Dataset, tmp_path: Path) -> None:
    log = CommitLog(dataset.store)
    log.claim({"pyarrow": "1"}, {})
    forget(log, Selection(where="stream = 'tide' and lane = 1 and seq < 20"))
    now = Dataset(dataset.store)
    out = tmp_path / "out"
    told = export(now, out, ExportOptions(to=target, streams=("tide",))).manifest["streams"]["tide"]
    wanted = list(bodies(now, "tide", empty=target not in NO_EMPTY))
    assert tokens_of(target, out, "tide", told["dtype"]) == wanted
    assert told["left_out"]["deleted"] == 20 and told["samples"] + told["left_out"]["empty"] == 60


def test_a_fold_is_chosen_by_its_column(dataset: Dataset, tmp_path: Path) -> None:
    counts = {}
    for fold in ("train", "validation", "all"):
        out = tmp_path / fold
        told = export(dataset, out, ExportOptions(to="megatron", fold=fold)).manifest["streams"]["tide"]  # type: ignore[arg-type]
        wanted = list(bodies(dataset, "tide", fold=fold, empty=False))
        assert tokens_of("megatron", out, "tide", "uint16") == wanted and wanted
        counts[fold] = told["samples"]
        assert told["samples"] + told["left_out"]["fold"] + told["left_out"]["empty"] == 80
    assert counts["train"] + counts["validation"] == counts["all"]


def test_a_fold_without_samples_leaves_nothing_behind(tmp_path: Path) -> None:
    maker = Maker(LocalStore(str(tmp_path / "d"), create=True), {"tide": settings_for("tide")})
    maker.add("tide", [{"tokens": [1], "fold": "train"}])
    with pytest.raises(ConfigError, match="no sample of these streams is in the fold validation"):
        export(Dataset(maker.store), tmp_path / "out", ExportOptions(to="mds", fold="validation"))
    assert not any((tmp_path / "out").iterdir())


def test_streams_are_chosen_by_name_and_by_name_with_versions(dataset: Dataset, tmp_path: Path) -> None:
    manifest = export(dataset, tmp_path / "a", ExportOptions(to="mds", streams=("tide@*",))).manifest
    assert list(manifest["streams"]) == ["tide", "tide@2"]
    manifest = export(dataset, tmp_path / "b", ExportOptions(to="mds", streams=("tide@2",))).manifest
    assert list(manifest["streams"]) == ["tide@2"]
    manifest = export(dataset, tmp_path / "c", ExportOptions(to="mds")).manifest
    assert manifest["left_out_streams"] == {"empty": "no samples"}
    with pytest.raises(ConfigError, match=r"--stream: no stream 'ebb'; there are"):
        export(dataset, tmp_path / "d", ExportOptions(to="mds", streams=("ebb",)))
    with pytest.raises(ConfigError, match="nothing to export"):
        export(dataset, tmp_path / "d", ExportOptions(to="mds", streams=("empty",)))
    assert not (tmp_path / "d").exists()


def test_folders_of_others_are_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    root = Path(dataset.store.url)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("")
    link = tmp_path / "link"
    link.symlink_to(root, target_is_directory=True)
    for out, message in (
        (foreign, "holds other files"),
        (file, "is a file"),
        (root, "lies in the dataset"),
        (root / "data" / "new", "lies in the dataset"),
        (tmp_path, "is, holds or lies"),
        (link / "x", "lies in the dataset"),
        (Path("s3://bucket/x"), "local folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(dataset, out, ExportOptions(to="mds"))
    assert os.listdir(foreign) == ["thesis.txt"] and not (root / "data" / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "tfrecord"}, "--to: 'tfrecord' is unknown: mds, webdataset"),
        ({"to": "mds", "ids": "mine"}, "--ids"),
        ({"to": "mds", "fold": "test"}, "--fold"),
        ({"to": "mds", "max_shard_bytes": 1 << 32}, "less than 4 GiB"),
        ({"to": "litdata", "max_shard_bytes": 1 << 32}, "less than 4 GiB"),
        ({"to": "mds", "max_shard_bytes": 0}, "at least one byte"),
        ({"to": "mds", "eod": -1}, "--eod: should be a token id"),
        ({"to": "mds", "bos": True}, "--bos: should be a token id"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportOptions(**options)


def test_a_sample_that_no_shard_of_mds_holds_is_refused() -> None:
    shard = OffsetFile.__new__(OffsetFile)
    shard._size, shard._sizes, shard._limit = 100, [], 64 << 20  # type: ignore[assignment]
    assert shard.room(np.array([100 << 20, 5]), 0) == 1  # larger than a shard should be: a shard of its own
    with pytest.raises(ConfigError, match="holds less than 4 GiB: export to parquet or webdataset"):
        shard.room(np.array([LIMIT]), 0)


def test_the_command_prints_a_table_or_json_and_checks(dataset: Dataset, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    base = ["export", dataset.store.url, "--to", "megatron", "--out", out]
    told = CliRunner().invoke(app, base)
    assert told.exit_code == 0 and "tide@2" in told.stdout and "no id ends its documents" in told.stdout
    again = json.loads(CliRunner().invoke(app, [*base, "--json"]).stdout)
    assert again["found"] and again["samples"] == sum(s["samples"] for s in again["streams"].values())
    assert CliRunner().invoke(app, [*base, "--check"]).exit_code == 0
    flip(Path(out) / "tide" / "tide.bin", 11)
    checked = CliRunner().invoke(app, [*base, "--check", "--json"])
    assert checked.exit_code == 1 and "tide.bin was altered" in json.loads(checked.stdout)["problems"][0]
    shutil.rmtree(out)
    inside = next(body[0] for body in bodies(Dataset.open(dataset.store, 2), "tide", empty=False))
    told = CliRunner().invoke(app, [*base, "--eod", str(inside), "--max-shard-size", "1KB", "--version", "2"])
    assert told.exit_code == 0 and "version 2" in told.stdout and "inside documents" in told.stdout


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    """Anonymous memory, which is what a run needs; mapped files are the page cache's."""
    maker = Maker(LocalStore(str(tmp_path / "big"), create=True), {"tide": settings_for("tide")})
    schema = maker.schema("tide")
    rows = [filled(schema, "tide", 0, n, {"tokens": []}) for n in range(64)]
    small = pa.RecordBatch.from_pylist(rows, schema=schema)
    tokens = lists((np.arange(64 * 16_384) % 50_000).astype(np.uint16), np.arange(65) * 16_384)
    at = schema.get_field_index("tokens")
    batch = pa.RecordBatch.from_arrays(
        [tokens.cast(schema.field(at).type) if i == at else c for i, c in enumerate(small.columns)], schema=schema
    )
    for _ in range(30):  # 2 MiB each
        maker.add("tide", batch)
    script = (
        "import sys;from pathlib import Path;from headrace.shards.dataset import Dataset;"
        "from headrace.shards.exports.export import export;from headrace.shards.exports.options import ExportOptions;"
        "r=lambda:int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1]);"
        "seen=[];o=ExportOptions(to=sys.argv[2],max_shard_bytes=4<<20);"
        "export(Dataset.open(sys.argv[1]),Path(sys.argv[3]),o,watch=lambda p:seen.append(r()));"
        "half=len(seen)*2//3;print(max(seen[:half]),max(seen[half:]))"
    )
    for target in ("mds", "megatron", "parquet"):
        command = [sys.executable, "-c", script, maker.store.url, target, str(tmp_path / target)]
        environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}  # the others keep what was freed
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        early, late = map(int, done.stdout.split())
        assert late - early < 16 << 10 and late < 160 << 10, f"{target}: {early} KiB at first, then {late}"


def test_the_whole_dataset_goes_with_every_modality(tmp_path: Path) -> None:
    dataset = full_dataset(LocalStore(str(tmp_path / "d"), create=True))
    result = export(dataset, tmp_path / "out", ExportOptions(to="webdataset"))
    assert set(result.manifest["streams"]) == set(dataset.state.settings)
    assert result.manifest["samples"] == sum(info.rows for info in dataset.streams().values())
