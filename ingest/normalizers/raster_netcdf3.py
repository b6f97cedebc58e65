"""The header of a classic netCDF file (CDF-1, CDF-2, CDF-5): where its data must end.

The netCDF library fills what lies behind the end of a file with zeros, so a cut file would look complete.

    [CDF][version][numrecs] [dimensions] [attributes] [variables]
    list      [u32 tag][n] n × …            tag 10 dimension, 11 variable, 12 attribute; 0 and n = 0: none
    dimension [name][length]                length 0: the record dimension
    attribute [name][u32 type][n][values, padded to 4 bytes]
    variable  [name][n][dimension ids][attributes][u32 type][vsize][begin]

n and sizes are u32, in CDF-5 u64; `begin` is u32 in CDF-1 and u64 in the others. All big-endian.
Source: "NetCDF Classic Format Specification", Unidata.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrace.ingest.normalizers.raster_tiff import ReadAt
from headrace.schemas.errors import RecordError

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_MAX_HEADER = 64 << 20
_MAX_LIST = 1 << 20
_CHUNK = 1 << 16


@dataclass(frozen=True)
class ClassicHeader:
    """What the header promises: variables by name with their shape, and the byte where the last value ends."""

    variables: dict[str, tuple[int, ...]]
    end: int


def read_classic_header(read_at: ReadAt, size: int) -> ClassicHeader:
    """The header of a classic netCDF file of `size` bytes. Raises: RecordError `truncated` or `corrupt`."""
    cursor = _Cursor(read_at, size)
    magic = cursor.take(4)
    if magic[:3] != b"CDF" or magic[3] not in (1, 2, 5):
        raise RecordError("corrupt", f"a classic netCDF file begins with CDF and 1, 2 or 5, this one with {magic!r}")
    cursor.wide = magic[3] == 5
    records = cursor.count(limit=None)
    streaming = records == (1 << (64 if cursor.wide else 32)) - 1  # the writer did not know; the file's size says
    dims = [(cursor.name(), cursor.count(limit=None))[1] for _ in range(cursor.list_of(10))]
    cursor.skip_attributes()
    variables: dict[str, tuple[int, ...]] = {}
    fixed_end, record_size, record_begin, last = cursor.at, 0, None, 0
    found: list[tuple[bool, int, int]] = []
    for _ in range(cursor.list_of(11)):
        name = cursor.name()
        ids = [cursor.count(limit=None) for _ in range(cursor.count())]
        cursor.skip_attributes()
        kind = cursor.number(4)
        cursor.count(limit=None)  # vsize is redundant and overflows in large files: computed instead
        begin = cursor.number(4 if magic[3] == 1 else 8)
        if any(i >= len(dims) for i in ids) or kind not in _TYPE_BYTES:
            raise RecordError("corrupt", f"variable {name!r} has type {kind} and dimensions {ids} of {len(dims)}")
        shape = tuple(dims[i] for i in ids)
        is_record = bool(shape) and shape[0] == 0
        length = math.prod(shape[1:] if is_record else shape) * _TYPE_BYTES[kind]
        variables[name] = (0 if streaming else records, *shape[1:]) if is_record else shape
        found.append((is_record, begin, length))
    record_vars = [(begin, length) for is_record, begin, length in found if is_record]
    for is_record, begin, length in found:
        if not is_record and length:
            fixed_end = max(fixed_end, begin + length)
    for begin, length in record_vars:
        # A single record variable is not padded (the specification's "special case").
        record_size += length if len(record_vars) == 1 else -(-length // 4) * 4
        record_begin = begin if record_begin is None else min(record_begin, begin)
        last = max(last, begin + length)
    end = fixed_end
    if record_vars and records and not streaming:
        end = max(end, last + (records - 1) * record_size)
    return ClassicHeader(variables, end)


class _Cursor:
    """Reads the header forward, in pieces."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at, self.size = read_at, size
        self.at, self.wide = 0, False
        self._start, self._buffer = 0, b""

    def take(self, length: int) -> bytes:
        if self.at + length > min(self.size, _MAX_HEADER):
            reason = "truncated" if self.at + length > self.size else "too_large"
            raise RecordError(reason, f"the netCDF header goes on behind byte {min(self.size, _MAX_HEADER)}")
        begin = self.at - self._start
        if begin + length > len(self._buffer):
            self._start, self._buffer = self.at, self._read_at(self.at, max(length, _CHUNK))
            begin = 0
        self.at += length
        return self._buffer[begin : begin + length]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def count(self, limit: int | None = _MAX_LIST) -> int:
        value = self.number(8 if self.wide else 4)
        if limit is not None and value > limit:
            raise RecordError("corrupt", f"a list of {value} entries at byte {self.at}; a real one has at most {limit}")
        return value

    def list_of(self, tag: int) -> int:
        found, count = self.number(4), self.count()
        if found != tag and (found or count):
            raise RecordError("corrupt", f"list tag {tag} was expected before byte {self.at}, {found} stands there")
        return count

    def name(self) -> str:
        length = self.count()
        return self.take(-(-length // 4) * 4)[:length].decode("utf-8", "replace")

    def skip_attributes(self) -> None:
        for _ in range(self.list_of(12)):
            self.name()
            kind = self.number(4)
            if kind not in _TYPE_BYTES:
                raise RecordError("corrupt", f"an attribute of type {kind} before byte {self.at}; types are 1 to 11")
            length = self.count(limit=None) * _TYPE_BYTES[kind]
            self.take(-(-length // 4) * 4)
