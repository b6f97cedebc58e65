"""Reads an export with megatron-core and builds it again: read_megatron.py OUT STREAM=…"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from sums import Seen, tell

out, asked = Path(sys.argv[1]), [told.rpartition("=")[::2] for told in sys.argv[2:]]
found, same = [], []
for stream, _ in asked:
    seen = Seen()
    for index in sorted((out / stream).glob("*.idx")):
        prefix = str(index)[: -len(".idx")]
        data = IndexedDataset(prefix)
        assert list(data.document_indices) == list(range(len(data) + 1))
        with tempfile.TemporaryDirectory() as work:
            builder = IndexedDatasetBuilder(f"{work}/again.bin", dtype=data.index.dtype)
            for i in range(len(data)):
                seen.add(data[i])
                builder.add_document(torch.from_numpy(data[i].astype("int64")), [len(data[i])])
            builder.finalize(f"{work}/again.idx")
            for end in ("bin", "idx"):
                same.append(Path(f"{work}/again.{end}").read_bytes() == Path(f"{prefix}.{end}").read_bytes())
    found.append((stream, seen))
tell(found, same=all(same), files=len(same))
