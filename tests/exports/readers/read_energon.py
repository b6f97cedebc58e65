"""Reads an export with megatron-energon: read_energon.py OUT STREAM=PART …; and prepares a copy to compare indexes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    WorkerConfig,
    basic_sample_keys,
    get_savable_loader,
    get_train_dataset,
    stateless,
)
from megatron.energon.epathlib import EPath
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator
from sums import Seen, tell


class Crude(dict):
    pass


@stateless
def cook(sample):
    return {**basic_sample_keys(sample), "sample": dict(sample)}


class Encoder(DefaultTaskEncoder):
    cookers = [Cooker(cook)]

    def batch(self, samples):
        return samples

    def encode_sample(self, sample):
        return sample


def loader(path):
    data = get_train_dataset(
        path,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        shuffle_over_epochs_multiplier=None,
        parallel_shard_iters=1,
        repeat=False,
        task_encoder=Encoder(),
    )
    return get_savable_loader(data)


def rows(path, table):
    db = sqlite3.connect(path)
    try:
        return sorted(db.execute(f"SELECT * FROM {table}").fetchall())
    finally:
        db.close()


out, asked = Path(sys.argv[1]), [told.rpartition("=")[::2] for told in sys.argv[2:]]
found, differ = [], []
for stream, part in asked:
    seen = Seen()
    for cooked in loader(str(out / stream)):
        sample = cooked["sample"]
        about, value = sample["json"], sample[part]
        about = json.loads(about) if isinstance(about, bytes) else about
        seen.add(value.encode() if isinstance(value, str) else value, about)
    found.append((stream, seen))
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "copy"
        shutil.copytree(out / stream, copy, ignore=shutil.ignore_patterns(".nv-meta", "*.idx"))
        tars = sorted(p.name for p in copy.glob("*.tar"))
        WebdatasetPreparator.prepare_dataset(
            EPath(str(copy)), tars, split_parts_ratio=[("train", 1.0)], shuffle_seed=None, workers=1
        )
        ours, theirs = out / stream / ".nv-meta", copy / ".nv-meta"
        for table in ("samples", "sample_parts", "sqlite_master"):
            columns = "SELECT * FROM" if table != "sqlite_master" else ""
            if columns and rows(ours / "index.sqlite", table) != rows(theirs / "index.sqlite", table):
                differ.append(f"{stream}: {table}")
        if json.loads((ours / ".info.json").read_text()) != json.loads((theirs / ".info.json").read_text()):
            differ.append(f"{stream}: .info.json")
        for tar in tars:
            if (out / stream / f"{tar}.idx").read_bytes() != (copy / f"{tar}.idx").read_bytes():
                differ.append(f"{stream}: {tar}.idx")
blended = sum(1 for _ in loader(str(out / "metadataset.yaml")))
tell(found, differ=differ, blended=blended)
