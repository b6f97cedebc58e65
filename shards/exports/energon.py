"""Megatron Energon: `get_train_dataset("OUT/<stream>", …)`, or OUT/metadataset.yaml for all streams at once.

    OUT/<stream>/<stream>-000000.tar, .tar.idx …     as WebDataset; [u64 LE start of each sample] [u64 end of the last]
    OUT/<stream>/.nv-meta/.info.json                 samples of each shard; the order is the number of a shard
    OUT/<stream>/.nv-meta/split.yaml, dataset.yaml   all shards in one split, read as CrudeWebdataset
    OUT/<stream>/.nv-meta/index.sqlite, index.uuid   the place of every sample and part
    OUT/metadataset.yaml                             every sample of all streams once an epoch

Layout: what `energon prepare` of megatron-energon 7.4.1 makes of the same shards. Its authors say that the layout of
the database may change with any release.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headrace.shards.exports.contract import Cut, FileLine
from headrace.shards.exports.energon_index import sample_starts, write_sqlite
from headrace.shards.exports.outfile import write_file
from headrace.shards.exports.webdataset import WebDatasetSink

#: The release whose layout this is.
ENERGON = "7.4.1"
_META = ".nv-meta"


class EnergonSink(WebDatasetSink):
    """Writes one stream; see the module."""

    def cut(self, last: bool) -> Cut:
        made = super().cut(last)
        files = []
        for line in made.files:
            starts = np.array(sample_starts(self._out / line.path), "<u8")
            path = f"{line.path}.idx"
            files += [line, write_file(self._out, path, self._work / "idx", starts.tobytes())]
        return Cut(files)

    def finish(self, shards: list[FileLine]) -> list[FileLine]:
        stream, split = self._plan.name, split_of(self._plan.options.fold)
        names = [Path(line.path).name for line in shards]
        counts = {name: line.samples for name, line in zip(names, shards)}
        parts = "".join(f"  - {json.dumps(name)}\n" for name in names)
        others = "".join(f"  {other}: []\n" for other in ("train", "val", "test") if other != split)
        texts = {
            ".info.json": json.dumps({"energon_version": ENERGON, "shard_counts": counts}, indent=2),
            "split.yaml": f"exclude: []\nsplit_parts:\n  {split}:\n{parts}{others}",
            "dataset.yaml": "__module__: megatron.energon\n__class__: CrudeWebdataset\n",
            "index.uuid": as_uuid4(f"{self._plan.export_id}/{stream}"),
        }
        files = [
            write_file(self._out, f"{stream}/{_META}/{name}", self._work / name, text.encode())
            for name, text in texts.items()
        ]
        tars = [self._out / line.path for line in shards]
        files.append(write_sqlite(self._out, f"{stream}/{_META}/index.sqlite", self._work, tars))
        return files


def split_of(fold: str) -> str:
    """Energon's name of a fold."""
    return {"all": "train", "validation": "val"}.get(fold, fold)


def as_uuid4(text: str) -> str:
    """A UUID in the form of a random one that is the same for the same text."""
    return str(uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4))


def metadataset(streams: Sequence[str], split: str) -> bytes:
    """metadataset.yaml: every sample of every stream once an epoch."""
    lines = ["__module__: megatron.energon", "__class__: MetadatasetV2", "splits:"]
    lines += [f"  {split}:", "    blend_epochized:"]
    for name in streams:
        lines += ["    - repetitions: 1", f"      path: {json.dumps(f'./{name}')}"]
        lines += ["      subflavors:", f"        stream: {json.dumps(name)}"]
    return ("\n".join(lines) + "\n").encode()
