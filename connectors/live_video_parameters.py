"""What a packet says of its own encoding: the parameters by which it is decoded, and whether decoding can start at it.

Demuxers of live streams report sizes and profiles once, at the beginning. A camera that is switched to another
resolution says so only inside its packets: there it is looked for. Plain functions on bytes, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_START_CODE = re.compile(rb"\x00\x00\x01")
#: NAL unit types (H.264 table 7-1; H.265 table 7-1).
_H264_SPS, _H264_IDR = 7, 5
_HEVC_VPS, _HEVC_SPS = 32, 33
_HEVC_IRAP, _HEVC_CRA = range(16, 24), 21
#: JPEG start-of-frame markers, the four that are no frames of their own (DHT, JPG, DAC) left out.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_AV1_SEQUENCE, _AV1_HAS_SIZE = 1, 2
#: Packets are looked into this far: parameter sets and the first slice header come first.
_LOOK_BYTES = 1 << 16


def parameters(codec: str, data: bytes) -> bytes | None:
    """The decoding parameters that a packet carries, as bytes to compare; None if it carries none.

    H.264, HEVC: the sequence parameter sets (a picture set may change with each picture). MJPEG: the frame header with
    size and sampling. AV1: the sequence header. AAC with ADTS: profile, rate, channels.
    """
    if codec == "h264":
        return _joined(unit for unit in nal_units(data) if unit[0] & 31 == _H264_SPS)
    if codec == "hevc":
        return _joined(unit for unit in nal_units(data) if unit[0] >> 1 & 63 in (_HEVC_VPS, _HEVC_SPS))
    if codec == "mjpeg":
        return _jpeg_frame_header(data)
    if codec == "av1":
        return _joined(body for kind, body in _av1_units(data) if kind == _AV1_SEQUENCE)
    if codec == "aac" and len(data) >= 4 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return bytes((data[1] & 0xF8, data[2] & 0xFD, data[3] & 0xC0))
    return None


def starts_closed(codec: str, data: bytes) -> bool:
    """Whether all that follows a key frame can be decoded without what came before it.

    False for the I pictures of open groups: pictures that are shown before them refer to the group before.
    """
    if codec == "h264":
        return any(unit[0] & 31 == _H264_IDR for unit in nal_units(data))
    if codec == "hevc":
        kinds = [unit[0] >> 1 & 63 for unit in nal_units(data)]
        return any(kind in _HEVC_IRAP and kind != _HEVC_CRA for kind in kinds)
    return True


def nal_units(data: bytes) -> Iterator[bytes]:
    """The NAL units at the head of an access unit: separated by start codes, or each with its length before it."""
    if data[:3] == b"\x00\x00\x01" or data[:4] == b"\x00\x00\x00\x01":
        starts = [found.end() for found in _START_CODE.finditer(data, 0, _LOOK_BYTES)]
        for start, following in zip(starts, [*(s - 3 for s in starts[1:]), len(data)]):
            unit = data[start:following].rstrip(b"\x00") if following < len(data) else data[start:following]
            if unit:
                yield unit
        return
    at = 0
    while at + 5 <= len(data) and at < _LOOK_BYTES:
        size = int.from_bytes(data[at : at + 4], "big")
        if not 0 < size <= len(data) - at - 4:
            return
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _joined(units: Iterator[bytes]) -> bytes | None:
    return b"\x00\x00\x01".join(units) or None


def _jpeg_frame_header(data: bytes) -> bytes | None:
    at = 2
    while at + 4 <= min(len(data), _LOOK_BYTES) and data[at] == 0xFF:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] in _SOF:
            return data[at + 1 : at + 2 + size]
        at += 2 + size
    return None


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of open bitstream units (AV1 specification 5.3), as far as they state their sizes."""
    at = 0
    while at < min(len(data), _LOOK_BYTES):
        header = data[at]
        at += 2 if header & 4 else 1
        size = shift = 0
        if not header & _AV1_HAS_SIZE:
            yield header >> 3 & 15, data[at:]
            return
        while at < len(data) and shift < 56:
            byte = data[at]
            size |= (byte & 127) << shift
            shift += 7
            at += 1
            if not byte & 128:
                break
        yield header >> 3 & 15, data[at : at + size]
        at += size
