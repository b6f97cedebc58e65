"""Facts of the flat formats: where RIFF, MXF, Ogg, FLV, AMR and MPEG-TS should end, how long an MP3 says it is."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO

from headrace.connectors.sniff_media import adts_frame, mpeg_audio_frame

MAX_STEPS = 1 << 20
_UNKNOWN = (0, 0xFFFFFFFF)


def riff_end(stream: BinaryIO, size: int) -> int | None:
    """The first byte after a WAV's data, or after an AVI's last RIFF chunk; None if the header was never completed.

    RIFF: [4cc][u32 LE size][content, padded to even]. RF64 and BW64 keep the size of `data` in `ds64` (EBU Tech 3306).
    """
    stream.seek(0)
    head = stream.read(12)
    if head[8:12] != b"WAVE":
        return _avi_end(stream)
    at, data_size = 12, None
    for _ in range(MAX_STEPS):
        stream.seek(at)
        chunk = stream.read(8)
        if len(chunk) < 8:  # no data chunk: the header itself is cut, or there is none
            return at + 8 if chunk else at if at > size else None
        name, length = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"ds64":
            data_size = int.from_bytes(stream.read(16)[8:16], "little")
        if name == b"data":
            if length == 0xFFFFFFFF and data_size:
                length = data_size
            return None if length in _UNKNOWN else at + 8 + length
        at += 8 + length + (length & 1)
    return None


def _avi_end(stream: BinaryIO) -> int | None:
    end, at = None, 0
    for _ in range(MAX_STEPS):  # OpenDML: one RIFF chunk after another
        stream.seek(at)
        head = stream.read(12)
        if len(head) < 12 or head[:4] != b"RIFF":
            break
        length = int.from_bytes(head[4:8], "little")
        if length in _UNKNOWN:
            return None
        at += 8 + length
        end = at
        at += length & 1
    return end


def mxf_end(stream: BinaryIO) -> int | None:
    """The least a whole file has: the footer's place by its header (SMPTE ST 377-1); None if it was left open."""
    stream.seek(0)
    head = stream.read(1 << 16)
    at = head.find(bytes.fromhex("060e2b34020501010d01020101"))
    if at < 0 or at + 57 > len(head):
        return None
    length = head[at + 16]
    at += 17 + (length & 0x7F if length & 0x80 else 0)
    if at + 32 > len(head):
        return None
    (footer,) = struct.unpack_from(">Q", head, at + 24)
    return footer + 1 if footer else None


def ogg_cut(stream: BinaryIO, size: int) -> tuple[str | None, int | None]:
    """(why the file is known to be cut, bytes it should have): its last page is torn or does not end its stream.

    Page: "OggS" version flags u64 granule u32 serial u32 sequence u32 crc u8 segments [lacing]; flag 4 ends a stream
    (RFC 3533). A recording that was never closed is cut in just this way.
    """
    window = min(size, 27 + 255 + 255 * 255 + 1)  # one page at its largest
    stream.seek(size - window)
    tail = stream.read(window)
    at = tail.rfind(b"OggS")
    while at >= 0 and at + 5 <= len(tail) and tail[at + 4] != 0:
        at = tail.rfind(b"OggS", 0, at)
    if at < 0:
        return None, None
    if at + 27 > len(tail) or at + 27 + tail[at + 26] > len(tail):
        return "its last page is torn", size + 1
    end = at + 27 + tail[at + 26] + sum(tail[at + 27 : at + 27 + tail[at + 26]])
    if end > len(tail):
        return f"its last page is torn: {end - len(tail)} bytes are missing", size - len(tail) + end
    if not tail[at + 5] & 4:
        return "its last page does not end the stream", None
    return None, None


def flv_cut(stream: BinaryIO, size: int) -> tuple[str | None, int | None]:
    """(why the file is known to be cut, bytes it should have).

    Tag: [u8 type][u24 size][u24+u8 time][u24 0][content][u32 size of this tag], so the end names where it begins.
    """
    if size < 17:
        return "it ends before its first tag", None
    stream.seek(size - 4)
    (last,) = struct.unpack(">I", stream.read(4))
    if 11 <= last <= size - 17:
        stream.seek(size - 4 - last)
        if int.from_bytes(stream.read(4)[1:], "big") + 11 == last:
            return None, None
    stream.seek(5)
    at = int.from_bytes(stream.read(4), "big") + 4
    for _ in range(MAX_STEPS):
        stream.seek(at)
        head = stream.read(4)
        if len(head) < 4:
            return ("its last tag is torn", at + 11) if head else (None, None)
        if head[0] & 0x1F not in (8, 9, 18):
            return None, None  # not a tag: nothing can be said
        at += 11 + int.from_bytes(head[1:], "big")
        if at > size:
            return f"its last tag is torn: {at - size} bytes are missing", at
        at += 4
    return None, None


#: Bytes of a frame by its type, with the header byte: RFC 4867 (8 and 9 are comfort noise, 15 is no data).
_AMR = {
    b"#!AMR\n": (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1),
    b"#!AMR-WB\n": (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1),
}


def amr_end(stream: BinaryIO, size: int) -> int | None:
    """The first byte after the last frame that begins in the file; None for the multi-channel kinds."""
    stream.seek(0)
    data = stream.read(min(size, 64 << 20))
    for magic, sizes in _AMR.items():
        if data.startswith(magic):
            at = len(magic)
            while at < len(data):
                at += sizes[data[at] >> 3 & 15]
            return at if len(data) == size else None
    return None


def transport(stream: BinaryIO, size: int) -> tuple[int | None, bool]:
    """(bytes that whole packets would take, whether most packets are scrambled) of an MPEG transport stream.

    Packet: 188 bytes from 0x47 on; bits 6-7 of byte 3 say how its payload is scrambled (ISO/IEC 13818-1). M2TS puts
    four bytes before each packet, DVB-ASI may put 16 behind.
    """
    stream.seek(0)
    head = stream.read(204 * 2048)
    for packet, sync in ((188, 0), (192, 4), (204, 0)):
        count = min(len(head) // packet, 2048)
        if count >= 2 and all(head[i * packet + sync] == 0x47 for i in range(min(count, 5))):
            controls = [head[i * packet + sync + 3] >> 6 for i in range(count)]
            payload = [c for i, c in enumerate(controls) if head[i * packet + sync + 3] & 0x10]
            scrambled = 2 * sum(c >= 2 for c in payload) > len(payload)
            return -(-size // packet) * packet, scrambled
    return None, False


def _ac3_frame(data: bytes, at: int) -> int:
    """Bytes of the AC-3 or E-AC-3 frame at `at`, 0 if there is none (ETSI TS 102 366, 4.4 and E.1.2.2)."""
    if data[at : at + 2] != b"\x0bw" or at + 6 > len(data):
        return 0
    if data[at + 5] >> 3 > 10:
        return (((data[at + 2] & 7) << 8 | data[at + 3]) + 1) * 2
    rate, code = data[at + 4] >> 6, data[at + 4] & 63
    if rate == 3 or code >= 2 * len(_AC3_KBITS):
        return 0
    kbits = _AC3_KBITS[code >> 1]
    return (kbits * 4, (kbits * 320 // 147 + (code & 1)) * 2, kbits * 6)[rate]


_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_FRAMES = {"mp3": mpeg_audio_frame, "aac": adts_frame, "ac3": _ac3_frame, "eac3": _ac3_frame}


def frames_cut(stream: BinaryIO, size: int, format: str) -> tuple[str | None, int | None]:
    """(why the file is known to be cut, bytes it should have) of frames end to end: the last one is not whole.

    Frames are followed from four in a row near the end; tags behind the last one (ID3v1, APE, Lyrics3) end the chain.
    """
    frame = _FRAMES[format]
    start = max(0, size - (1 << 15))
    stream.seek(start)
    tail = stream.read(size - start)
    at = next((i for i in range(len(tail)) if frame(tail, i) and _chain(tail, i, frame)), -1)
    if at < 0:
        return None, None
    sync = tail[at]
    while at < len(tail):
        length = frame(tail, at)
        if not length:
            torn = len(tail) - at < 8 and tail[at] == sync
            return ("it ends inside a frame's header", size + 1) if torn else (None, None)
        at += length
    return (f"its last frame lacks {at - len(tail)} bytes", start + at) if at > len(tail) else (None, None)


def _chain(data: bytes, at: int, frame: Callable[[bytes, int], int]) -> bool:
    """Whether four frames follow one another."""
    for _ in range(4):
        length = frame(data, at)
        if not length:
            return False
        at += length
    return True


def mp3_frames(stream: BinaryIO) -> int | None:
    """How many frames an MP3 says it has (Xing, Info or VBRI header); None if it does not say."""
    stream.seek(0)
    at = 0
    for _ in range(8):  # ID3v2 tags may follow one another
        stream.seek(at)
        head = stream.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        at += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    stream.seek(at)
    head = stream.read(1 << 14)
    first = next((i for i in range(len(head) - 4) if head[i] == 0xFF and mpeg_audio_frame(head, i)), -1)
    if first < 0:
        return None
    mpeg1, mono = head[first + 1] >> 3 & 3 == 3, head[first + 3] >> 6 == 3
    xing = first + 4 + ((17 if mono else 32) if mpeg1 else (9 if mono else 17))
    if head[xing : xing + 4] in (b"Xing", b"Info") and len(head) >= xing + 12 and head[xing + 7] & 1:
        return int.from_bytes(head[xing + 8 : xing + 12], "big")
    vbri = first + 36
    if head[vbri : vbri + 4] == b"VBRI" and len(head) >= vbri + 18:
        return int.from_bytes(head[vbri + 14 : vbri + 18], "big")
    return None
