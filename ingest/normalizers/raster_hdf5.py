"""Finds what an HDF5 file takes from elsewhere, before the HDF5 library follows it.

Three kinds of data lead out of an HDF5 file, and the library opens all of them without asking: a dataset with external
storage (raw bytes of any file of this machine), a virtual dataset, and an external link. Neither netCDF nor GDAL has a
switch against them (measured: all three read a file outside, through both drivers). So the object headers are read
here, and a file that has one is refused.

Object headers and links are never compressed. New-style headers and heap blocks bear a signature and are found by it,
wherever they lie; old headers bear none and are reached from the superblock, from symbol table nodes and from links.
What nothing refers to any more may be found as well: refusing that costs nothing.

    header v1   [u8 1][u8][u16 n][u32 refs][u32 size][4 B] n × [u16 type][u16 size][u8 flags][3 B][body]
    header v2   [OHDR][u8 2][u8 flags][times 16 B?][4 B?][1-8 B size] n × [u8 type][u16 size][u8 flags][u16?][body]
    chunk  v2   [OCHK] n × messages [u32 checksum]         continues a header, with its flags
    symbol node [SNOD][u8 1][u8][u16 n] n × [name][header address][u32][u32][16 B]
    heap block  [FHDB][u8 0] … link messages of a large group, one behind the other
    link        [u8 1][u8 flags][u8 type?][u64 order?][u8 charset?][1-8 B length][name][header address, or other names]

Source: "HDF5 File Format Specification Version 3.0", The HDF Group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from headrace.ingest.normalizers.raster_tiff import ReadAt
from headrace.schemas.errors import RecordError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_BLOCK = 8 << 20
_LINK, _EXTERNAL_FILES, _LAYOUT, _CONTINUATION = 6, 7, 8, 16
_VIRTUAL = 3  # layout class
_HARD, _EXTERNAL = 0, 64  # link types
_MAX_LINK = 1 << 17
_HEAP_BLOCK = 1 << 20  # a direct block of a group's heap is far smaller
_SIGNED = (b"OHDR\x02", b"SNOD\x01", b"FHDB\x00", b"FRHP\x00")
_LINK_START = re.compile(rb"\x01[\x00-\x1f]")


def refuse_references(read_at: ReadAt, size: int) -> None:
    """Check an HDF5 file of `size` bytes.

    Raises: RecordError `external_reference` if it takes data from elsewhere, `unsupported:hdf5-filtered-heap` if its
    links are compressed and cannot be checked, `corrupt` or `truncated` if its structure cannot be read.
    """
    file = _File(read_at, size)
    for at, signature in file.signatures():
        if signature.startswith(b"OHDR"):
            file.header_v2(at)
        elif signature.startswith(b"SNOD"):
            file.symbol_node(at)
        elif signature.startswith(b"FHDB"):
            file.heap_blocks.append(at)
        else:
            file.heap_header(at)
    file.scan_heap_blocks()
    file.follow_old_headers()


class _File:
    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at, self.size = read_at, size
        # Structures do not overlap, so reading them costs less than the file is long; hostile ones may claim to.
        self._budget = 3 * size + (16 << 20)
        self.heap_blocks: list[int] = []
        self._old: list[int] = []
        self._seen: set[int] = set()
        start = next((at for at in (0, *(512 << k for k in range(40))) if read_at(at, 8) == _SIGNATURE), None)
        if start is None:
            raise RecordError("corrupt", "no HDF5 superblock at byte 0 or at 512 · 2^k")
        head = read_at(start, 128)
        if len(head) < 48:
            raise RecordError("truncated", f"the file ends at byte {size}, inside the superblock")
        if head[8] > 3:
            raise RecordError("corrupt", f"superblock version {head[8]}; 0 to 3 are known")
        old = head[8] < 2
        self.offset_bytes, self.length_bytes = (head[13], head[14]) if old else (head[9], head[10])
        if self.offset_bytes not in (2, 4, 8) or self.length_bytes not in (2, 4, 8):
            raise RecordError("corrupt", f"offsets of {self.offset_bytes} and lengths of {self.length_bytes} bytes")
        addresses = 12 if not old else 24 if head[8] == 0 else 28
        # Of an old superblock four addresses and the root entry's name come before, of a new one three addresses.
        root = addresses + (5 if old else 3) * self.offset_bytes
        self.base = start  # the library uses the place where it found the superblock, whatever that says
        self._visit(self._address(head, root))

    def _read(self, at: int, length: int) -> bytes:
        length = max(0, min(length, self.size - at))
        self._budget -= length
        if self._budget < 0:
            raise RecordError("corrupt", "object headers overlap: together they are longer than the file")
        return self._read_at(at, length)

    def _address(self, data: bytes, at: int) -> int:
        """An address as a byte of the file; -1 where it is undefined or outside."""
        field = data[at : at + self.offset_bytes]
        if len(field) < self.offset_bytes or field == b"\xff" * self.offset_bytes:
            return -1
        found = self.base + int.from_bytes(field, "little")
        return found if found < self.size else -1

    def _visit(self, at: int) -> None:
        if at >= 0 and at not in self._seen:
            self._seen.add(at)
            self._old.append(at)

    def signatures(self) -> Iterator[tuple[int, bytes]]:
        """Every place that looks like a signed structure."""
        for at in range(0, self.size, _BLOCK):
            block = self._read_at(at, _BLOCK + 4)
            for signature in _SIGNED:
                found = block.find(signature)
                while 0 <= found < _BLOCK:
                    yield at + found, signature
                    found = block.find(signature, found + 1)

    def follow_old_headers(self) -> None:
        """Read every version 1 header that was referred to, and what those refer to."""
        while self._old:
            at = self._old.pop()
            head = self._read(at, 16)
            if len(head) < 16 or head[0] != 1:
                continue  # version 2 headers were found by their signature
            blocks = [(at + 16, int.from_bytes(head[8:12], "little"))]
            while blocks:
                data = self._read(*blocks.pop())
                place = 0
                while place + 8 <= len(data):
                    kind = int.from_bytes(data[place : place + 2], "little")
                    end = place + 8 + int.from_bytes(data[place + 2 : place + 4], "little")
                    blocks += self._message(kind, data[place + 8 : end])
                    place = end

    def header_v2(self, at: int) -> None:
        """Read one signed header with its continuations."""
        head = self._read(at, 40)
        if len(head) < 8:
            return
        flags = head[5]
        start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        blocks = [(at + start + width, int.from_bytes(head[start : start + width], "little"))]
        prefix = 6 if flags & 4 else 4  # with the order in which messages were made
        while blocks:
            data = self._read(*blocks.pop())
            place = 0
            while place + prefix <= len(data):
                end = place + prefix + int.from_bytes(data[place + 1 : place + 3], "little")
                for begin, length in self._message(data[place], data[place + prefix : end]):
                    if self._read(begin, 4) == b"OCHK":
                        blocks.append((begin + 4, length - 8))
                place = end

    def symbol_node(self, at: int) -> None:
        """Note the objects of an old-style group."""
        entry = 2 * self.offset_bytes + 24
        count = int.from_bytes(self._read(at + 6, 2), "little")
        data = self._read(at + 8, count * entry)
        for i in range(len(data) // entry):
            self._visit(self._address(data, i * entry + self.offset_bytes))

    def heap_header(self, at: int) -> None:
        """Refuse a heap whose blocks are compressed: the links in it could not be read."""
        head = self._read(at, 14 + 12 * 8)
        start = 14 + 10 * self.length_bytes + 2 * self.offset_bytes
        block = int.from_bytes(head[start : start + self.length_bytes], "little")
        # The size of the first block is a power of two: what merely looks like a header seldom has one.
        if len(head) > start and head[9] <= 3 and block and not block & (block - 1) and head[7:9] != b"\0\0":
            raise RecordError("unsupported:hdf5-filtered-heap", f"the heap at byte {at} hides its links")

    def scan_heap_blocks(self) -> None:
        """Look for links in the heap blocks of large groups; where blocks lie side by side nothing is read twice."""
        runs: list[list[int]] = []
        for at in sorted(self.heap_blocks):
            if runs and at <= runs[-1][1]:
                runs[-1][1] = at + _HEAP_BLOCK
            else:
                runs.append([at, at + _HEAP_BLOCK])
        for begin, end in runs:
            for at in range(begin, min(end, self.size), _BLOCK):
                stop = min(end - at, _BLOCK)
                data = self._read(at, stop + _MAX_LINK)
                for match in _LINK_START.finditer(data, 0, stop + 2):
                    self._link(data[match.start() : match.start() + _MAX_LINK])

    def _message(self, kind: int, body: bytes) -> list[tuple[int, int]]:
        """Judge one message; answers with the block it continues in, if it does."""
        if kind == _EXTERNAL_FILES and len(body) >= 8 and body[0] == 1:
            if int.from_bytes(body[6:8], "little") and self._signature_at(self._address(body, 8)) == b"HEAP":
                raise _reference("a dataset keeps its values in another file")
        elif kind == _LAYOUT and len(body) >= 2 and body[0] >= 4 and body[1] == _VIRTUAL:
            if self._signature_at(self._address(body, 2)) == b"GCOL":
                raise _reference("a virtual dataset takes its values from other files")
        elif kind == _LINK:
            self._link(body)
        elif kind == _CONTINUATION and len(body) >= self.offset_bytes + self.length_bytes:
            start = self._address(body, 0)
            length = int.from_bytes(body[self.offset_bytes : self.offset_bytes + self.length_bytes], "little")
            if start >= 0 and start not in self._seen:
                self._seen.add(start)
                return [(start, length)]
        return []

    def _signature_at(self, at: int) -> bytes:
        return self._read(at, 4) if at >= 0 else b""

    def _link(self, body: bytes) -> None:
        """Judge a link message: external ones are refused, hard ones are followed."""
        if len(body) < 4 or body[0] != 1:
            return
        flags = body[1]
        kind = body[2] if flags & 8 else _HARD
        start = 2 + (1 if flags & 8 else 0) + (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        end = start + width + int.from_bytes(body[start : start + width], "little")
        if kind == _HARD:
            self._visit(self._address(body, end))
        elif kind == _EXTERNAL and end + 2 <= len(body):
            value = body[end + 2 : end + 2 + int.from_bytes(body[end : end + 2], "little")]
            # [u8 version and flags, 0][file name, NUL][object name, NUL]
            if value[:1] == b"\0" and value[-1:] == b"\0" and value.count(b"\0") >= 3:
                raise _reference(f"a link leads to the file {value[1:81].split(bytes(1))[0]!r}")


def _reference(what: str) -> RecordError:
    return RecordError("external_reference", f"{what}; all values must lie in the file itself")
