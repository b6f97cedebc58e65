"""Reads an export with mosaicml-streaming: read_mds.py OUT STREAM=COLUMN …"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from no_torchvision import stand_in
from sums import Seen, tell

stand_in()
from streaming import StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402

out, asked = Path(sys.argv[1]), [told.rpartition("=")[::2] for told in sys.argv[2:]]
clean_stale_shared_memory()
found = []
for stream, payload in asked:
    seen = Seen()
    # Through `remote`, so that the reader copies each shard and compares it with the sha256 of the index.
    with tempfile.TemporaryDirectory() as cache:
        data = StreamingDataset(
            remote=str(out / stream), local=cache, batch_size=1, shuffle=False, validate_hash="sha256"
        )
        for i in range(len(data)):
            sample = data[i]
            value = sample[payload]
            seen.add(value.encode() if isinstance(value, str) else value, sample["meta"])
    found.append((stream, seen))
tell(found)
