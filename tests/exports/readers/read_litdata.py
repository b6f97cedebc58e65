"""Reads an export with litdata's TokensLoader: read_litdata.py OUT STREAM=…; samples cannot be told apart there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from litdata import StreamingDataset, TokensLoader
from sums import Seen, tell

out, asked = Path(sys.argv[1]), [told.rpartition("=")[::2] for told in sys.argv[2:]]
found = []
for stream, _ in asked:
    seen = Seen()
    data = StreamingDataset(str(out / stream), item_loader=TokensLoader(block_size=1), shuffle=False)
    blocks = [data[i].numpy() for i in range(len(data))]
    seen.add(np.concatenate(blocks) if blocks else np.empty(0, np.int64))
    found.append((stream, seen))
tell(found)
