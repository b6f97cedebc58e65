"""Reads an export with webdataset: read_webdataset.py OUT STREAM=PART …"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import webdataset as wds
from sums import Seen, tell

out, asked = Path(sys.argv[1]), [told.rpartition("=")[::2] for told in sys.argv[2:]]
found = []
for stream, part in asked:
    seen = Seen()
    shards = sorted(str(p) for p in (out / stream).glob("*.tar"))
    data = wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode()
    keys = set()
    for sample in data:
        keys.add(sample["__key__"])
        about, value = sample["json"], sample[part]
        about = json.loads(about) if isinstance(about, bytes) else about
        seen.add(value.encode() if isinstance(value, str) else value, about)
    assert len(keys) == seen.samples, "keys are not unique"
    found.append((stream, seen))
tell(found)
