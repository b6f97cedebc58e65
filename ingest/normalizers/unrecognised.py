"""Files that no format claims: each becomes one quarantined record, so that nothing is passed over silently."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.connectors.contract import Blob, Item
from headrace.ingest.normalizers.contract import Normalized, Normalizer
from headrace.schemas.errors import RecordError


class UnrecognisedNormalizer(Normalizer):
    """Refuses every item, with a reason that names what its first bytes look like."""

    modality = "tensor"

    def open(self, item: Item) -> Iterator[Normalized]:
        blob = item.data if isinstance(item.data, Blob) else None
        head = blob.read(16) if blob else bytes(item.data)[:16] if isinstance(item.data, (bytes, bytearray)) else b""
        name = item.headers.get("format", "unknown")
        if name == "lfs_pointer":
            raise RecordError(
                "external_reference", "a Git LFS pointer: the file itself was never fetched (run `git lfs pull`)"
            )
        if name not in ("unknown", ""):
            raise RecordError(f"unsupported:{name}", f"{name} files are out of scope")
        raise RecordError("unknown_format", f"no known format begins with {head.hex(' ') or 'nothing'}")
        yield  # makes this a generator, as the contract asks
