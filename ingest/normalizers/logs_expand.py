"""Compressed chunks of recordings, expanded to exactly what they declare and not a byte more."""

from __future__ import annotations

from headrace.schemas.errors import MissingExtra, RecordError


def expand(compression: str, data: bytes, size: int) -> bytes:
    """The bytes of a compressed chunk, which must be `size`. Raises: RecordError."""
    if compression in ("", "none"):
        found = bytes(data)
    elif compression == "zstd":
        found = _zstd(data, size)
    elif compression == "lz4":
        found = _lz4(data, size)
    elif compression == "bz2":
        found = _bz2(data, size)
    else:
        raise RecordError(
            f"unsupported:{compression[:20]}",
            f"its compression is {compression[:40]!r}; zstd, lz4, bz2 and none are read",
        )
    if len(found) != size:
        raise RecordError("corrupt", f"it expands to {len(found)} bytes, {size} were declared")
    return found


def _zstd(data: bytes, size: int) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            return bytes(reader.read(size + 1))
    except zstandard.ZstdError as exc:
        raise RecordError("corrupt", f"not zstd: {exc}") from exc


def _lz4(data: bytes, size: int) -> bytes:
    try:
        import lz4.frame  # type: ignore[import-untyped]
    except ImportError as exc:
        raise MissingExtra("lz4", "sensor", need="reading recordings compressed with lz4") from exc
    try:
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1))
    except (RuntimeError, ValueError, EOFError) as exc:
        raise RecordError("corrupt", f"not lz4: {exc}") from exc


def _bz2(data: bytes, size: int) -> bytes:
    import bz2

    try:
        return bz2.BZ2Decompressor().decompress(data, max_length=size + 1)
    except (OSError, ValueError, EOFError) as exc:
        raise RecordError("corrupt", f"not bzip2: {exc}") from exc
