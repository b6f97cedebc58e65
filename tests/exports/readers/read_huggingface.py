"""Reads an export with datasets (Parquet by load_dataset): read_huggingface.py OUT STREAM=COLUMN …"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HOME"] = os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
os.environ["HF_HUB_OFFLINE"] = "1"
import datasets
from sums import Seen, tell

datasets.disable_progress_bars()
out, asked = Path(sys.argv[1]), [told.rpartition("=")[::2] for told in sys.argv[2:]]
found, features = [], {}
for stream, column in asked:
    seen = Seen()
    if (out / stream / "state.json").is_file():
        data = datasets.load_from_disk(str(out / stream))
    else:
        splits = datasets.load_dataset(str(out), stream)
        (split,) = splits
        data = splits[split]
    features[stream] = sorted(data.features)
    for row in data:
        value = row[column]
        seen.add(
            value.encode() if isinstance(value, str) else value, {**row, "record_id": row["record_id"].hex()}
        )
    found.append((stream, seen))
tell(found, features=features)
