"""What a file is: `sniff(head, name)` answers with a format, its modality and whether it holds other objects.

Magic bytes decide; a name's extension only breaks ties and names text, which has no magic. The answer is a pure
function of the head, the name and what `read_at` returns for them; it never raises, whatever the bytes. 64 KiB of head
are enough for every format here; TIFF and JP2 may keep their directory further behind, which `read_at` reaches.

Left out: whether the file is intact. `GIF87a` and nothing else is a GIF; decoders find the damage.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from headrace.connectors import sniff_media, sniff_text, sniff_tiff
from headrace.schemas.record import Modality

HEAD_BYTES = 1 << 16  #: what `sniff` wants to see

ReadAt = sniff_tiff.ReadAt


@dataclass(frozen=True, slots=True)
class Format:
    """A format by name. `container`: the files connector opens it, and what lies inside has formats of its own."""

    name: str
    modality: Modality | None
    container: bool = False


_BY_MODALITY: dict[Modality, str] = {
    "text": "text markdown xml html json jsonl csv tsv warc arc srt webvtt ttml",
    "image": "jpeg png webp tiff gif avif bmp jp2 j2k ico psd ppm tga sgi pcx dds blp icns msp spider fli eps heif jxl",
    "video": "mp4 matroska mpegts mpegps mxf avi flv",
    "audio": "wav flac mp3 ogg aac ac3 eac3 amr",
    "raster": "geotiff jp2-geo netcdf3 hdf5 grib envi vrt wcs-xml",
    "sensor": "parquet arrow_file arrow_stream gpx ulog mcap rosbag1 rosbag2 avro line_protocol",
}
#: Every format by name, with the modality it has when its content does not say otherwise.
FORMATS: dict[str, Format] = {
    name: Format(name, modality) for modality, names in _BY_MODALITY.items() for name in names.split()
}
FORMATS.update({name: Format(name, None, True) for name in ("zip", "tar", "gzip", "zstd", "xz", "bzip2")})
FORMATS["lfs_pointer"] = Format("lfs_pointer", None)
UNKNOWN = FORMATS["unknown"] = Format("unknown", None)

#: Signatures at byte 0 that need no second look.
_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"),
    (b"8BPS\0\1", "psd"), (b"\xff\x4f\xff\x51", "j2k"), (b"DDS \x7c\0\0\0", "dds"), (b"BLP1", "blp"),
    (b"BLP2", "blp"), (b"icns", "icns"), (b"DanM", "msp"), (b"LinS", "msp"), (b"%!PS", "eps"),
    (b"\xc5\xd0\xd3\xc6", "eps"), (b"\xff\x0a", "jxl"), (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"), (b"fLaC", "flac"),
    (b"#!AMR", "amr"), (b"FLV\1", "flv"), (b"\0\0\1\xba", "mpegps"), (b"CDF\1", "netcdf3"), (b"CDF\2", "netcdf3"),
    (b"CDF\5", "netcdf3"), (b"PAR1", "parquet"), (b"PARE", "parquet"), (b"ARROW1", "arrow_file"),
    (b"Obj\x01", "avro"),
    (b"ULog\x01\x12\x35", "ulog"), (b"\x89MCAP0\r\n", "mcap"), (b"#ROSBAG V", "rosbag1"), (b"WARC/", "warc"),
    (b"filedesc://", "arc"), (b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"),
    (b"version https://git-lfs.github.com/spec/", "lfs_pointer"),
    (b"version https://hawser.github.com/spec/", "lfs_pointer"),
)  # fmt: skip
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
_HDF5 = b"\x89HDF\r\n\x1a\n"
#: ZIP-based documents are not archives of data: their first member says so (OPC, OpenDocument, EPUB, Java).
_ZIP_DOCUMENTS = (b"[Content_Types].xml", b"mimetype", b"_rels/.rels", b"META-INF/")


def sniff(head: bytes, name: str, read_at: ReadAt | None = None) -> Format:
    """The format of a file from its first bytes (64 KiB if it has them) and its name.

    read_at: (offset, size) → bytes anywhere in the file, for directories behind the head; without it they are guessed.
    """
    head = bytes(head)
    extension = _extension(name)
    reach = read_at or (lambda offset, size: head[offset : offset + size])
    found = _magic(head, extension, reach)
    if found is None:
        found = _text(head, extension, len(head) < HEAD_BYTES)
    return found or _binary_without_magic(head, extension) or UNKNOWN


def sniff_stream(stream: BinaryIO, name: str) -> Format:
    """The format of an open, seekable file, which is left at byte 0. Raises: what the stream raises."""

    def read_at(offset: int, size: int) -> bytes:
        if offset > 1 << 62:
            return b""
        stream.seek(offset)
        return stream.read(size)

    stream.seek(0)
    try:
        return sniff(stream.read(HEAD_BYTES), name, read_at)
    finally:
        stream.seek(0)


def _extension(name: str) -> str:
    base = name.rsplit("/", 1)[-1].lower()
    return base.rsplit(".", 1)[-1] if "." in base else ""


def _magic(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            return FORMATS[name]
    for probe in (_tiff_or_jp2, _riff, _movies, _sound, _tables, _archives, _pictures, _grids):
        found = probe(head, extension, read_at)
        if found is not None:
            return found
    return None


def _tiff_or_jp2(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    if sniff_tiff.is_tiff(head):
        geo = sniff_tiff.is_geotiff(head, read_at)
        # A directory out of reach: what writes it at the end of a .gtiff, .cog or .ovr is GDAL.
        guess = extension in ("gtiff", "geotiff", "cog", "ovr")
        return FORMATS["geotiff" if geo or (geo is None and guess) else "tiff"]
    if head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x0cjP\x1a\x1a\r\n\x87\n")):
        return FORMATS["jp2-geo" if sniff_tiff.is_geo_jp2(head, read_at) else "jp2"]
    return None


def _riff(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX"):
        name = {b"WAVE": "wav", b"AVI ": "avi", b"WEBP": "webp"}.get(head[8:12])
        return FORMATS[name] if name else None
    return None


def _movies(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    iso = sniff_media.iso_media(head)
    if iso:
        name, only_audio = iso
        return Format(name, "audio") if only_audio or (name == "mp4" and extension in ("m4a", "m4b")) else FORMATS[name]
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        if extension in ("mka", "weba") or sniff_media.matroska_only_audio(head):
            return Format("matroska", "audio")
        return FORMATS["matroska"]
    if sniff_media.ts_packets(head):
        return FORMATS["mpegts"]
    # SMPTE ST 377-1: a run-in of less than 64 KiB may come before the first partition pack.
    if head.startswith(_MXF_PARTITION) or (extension == "mxf" and _MXF_PARTITION in head):
        return FORMATS["mxf"]
    return None


def _sound(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    if head.startswith(b"OggS"):
        return Format("ogg", "video") if sniff_media.ogg_has_video(head) else FORMATS["ogg"]
    start = 0
    if head.startswith(b"ID3") and len(head) >= 10 and head[3] < 0x10:
        # ID3v2: four 7-bit bytes of length after the ten bytes of header. What follows it says what the file is.
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        start = 10 + size + (10 if head[5] & 0x10 else 0)
        after = read_at(start, 4096)
        if after.startswith(b"fLaC"):
            return FORMATS["flac"]
        name = sniff_media.ac3_name(after) or sniff_media.audio_frames(after, 0)
        if name is None:
            name = {"aac": "aac", "adts": "aac", "ac3": "ac3", "flac": "flac"}.get(extension, "mp3")
        return FORMATS[name]
    if head.startswith(b"ADIF"):
        return FORMATS["aac"]
    if head[:3] == b"\xff\xfe\0" or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None  # a byte order mark looks like the sync word of MPEG layer 1
    name = sniff_media.ac3_name(head) or sniff_media.audio_frames(head, 0)
    return FORMATS[name] if name else None


def _tables(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    if head.startswith(b"SQLite format 3\0"):
        tables = (b"CREATE TABLE messages", b"CREATE TABLE topics", b'CREATE TABLE "messages"')
        return FORMATS["rosbag2"] if any(table in head for table in tables) else UNKNOWN
    # An encapsulated IPC message: continuation marker, metadata size (a multiple of 8), flatbuffer root offset.
    if len(head) >= 16 and head[:4] == b"\xff\xff\xff\xff":
        size, root = struct.unpack_from("<iI", head, 4)
        if 0 < size < 1 << 28 and size % 8 == 0 and 4 <= root < size:
            return FORMATS["arrow_stream"]
    if len(head) >= 12 and extension in ("arrow", "arrows", "ipc"):
        size, root = struct.unpack_from("<iI", head)  # the marker came with Arrow 0.15
        if 0 < size < 1 << 28 and 4 <= root < size:
            return FORMATS["arrow_stream"]
    return None


def _archives(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    if head[:4] in (b"PK\3\4", b"PK\5\6", b"PK\7\x08"):
        return UNKNOWN if head[30 : 30 + 19].startswith(_ZIP_DOCUMENTS) else FORMATS["zip"]
    if head[:3] == b"BZh" and head[3:4].isdigit() and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return FORMATS["bzip2"]
    if head[257:262] == b"ustar" or (extension == "tar" and tar_checksum_holds(head[:512])):
        return FORMATS["tar"] if tar_checksum_holds(head[:512]) or extension == "tar" else None
    return None


def tar_checksum_holds(header: bytes) -> bool:
    """Whether 512 bytes are a tar header by its checksum, signed or unsigned (POSIX.1-1988, `chksum`)."""
    if len(header) < 512:
        return False
    digits = header[148:156].strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        return False
    blank = header[:148] + b"        " + header[156:512]
    return int(digits, 8) in (sum(blank), sum(byte - 256 if byte > 127 else byte for byte in blank))


_PNM = re.compile(rb"P(?:[1-6]|[Ff])(?:\s+|#[^\n]*\n)+-?\d")
_PNM_EXTENSIONS = frozenset({"ppm", "pgm", "pbm", "pnm", "pfm"})
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def _pictures(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    name = None
    if head[:2] == b"BM" and len(head) >= 18:
        offset, header = struct.unpack_from("<II", head, 10)
        named = extension in ("bmp", "dib") and b"\0" in head[:18]
        name = "bmp" if named or header in _BMP_HEADERS or (header < 256 and 18 <= offset < 4096) else None
    elif _PNM.match(head, 0, 1 << 14) or (extension in _PNM_EXTENSIONS and re.match(rb"P[1-6]", head)):
        name = "ppm"
    elif len(head) >= 22 and head[:4] == b"\0\0\1\0" and head[4:6] != b"\0\0" and head[9] == 0:
        name = "ico"
    elif len(head) >= 12 and head[:2] == b"\x01\xda" and head[2] in (0, 1) and head[3] in (1, 2):
        name = "sgi"
    elif len(head) >= 128 and head[0] == 10 and head[1] in (0, 2, 3, 5) and head[2] == 1 and head[3] in (1, 2, 4, 8):
        name = "pcx"
    elif len(head) >= 16 and head[4:6] in (b"\x11\xaf", b"\x12\xaf") and head[14:16] in (b"\0\0", b"\3\0"):
        name = "fli"
    return FORMATS[name] if name else None


def _grids(head: bytes, extension: str, read_at: ReadAt) -> Format | None:
    # The superblock lies at 0 or after a user block of 512 · 2^k bytes (HDF5 format specification, II.A).
    if any(head.startswith(_HDF5, at) for at in (0, *(512 << k for k in range(8)))):
        return FORMATS["hdf5"]
    # GRIB messages may follow a WMO header of some hundred bytes; the edition stands at octet 8.
    at = head.find(b"GRIB", 0, 1024)
    while at >= 0:
        if head[at + 7 : at + 8] in (b"\0", b"\1", b"\2") and (at == 0 or head[at + 7 : at + 8] != b"\0"):
            return FORMATS["grib"]
        at = head.find(b"GRIB", at + 1, 1024)
    return None


def _text(head: bytes, extension: str, whole: bool) -> Format | None:
    if not head:
        return None
    named = sniff_text.TEXT_EXTENSIONS.get(extension, "")
    decoded = sniff_text.decode(head, whole)
    if decoded is None:
        if not sniff_text.looks_8bit(head):
            return None
        text = head.decode("latin-1")
        name = sniff_text.markup(text) or sniff_text.captions(text) or named
        # Older encodings are believed only of what calls itself text.
        return _with_modality(name, text) if name else None
    text, encoding = decoded
    text = text.lstrip("\ufeff")
    if text.startswith("ENVI") and text[4:5] in ("", "\r", "\n", " "):
        return FORMATS["envi"]
    name = sniff_text.markup(text) or sniff_text.captions(text) or sniff_text.json_kind(text, named, whole) or ""
    if named in ("markdown", "csv", "tsv") and name in ("json", "xml", "html", ""):
        name = named  # Markdown may open with a tag, a table with a bracket
    if not name:
        name = named if named not in ("json", "jsonl") else "text"
    if not name and not extension:
        name = sniff_text.table_without_name(text) or ""
    if name == "jsonl" and encoding not in ("utf-8", "utf-8-sig"):
        name = "json"  # lines of wide characters cannot be cut at a newline byte
    return _with_modality(name or "text", text)


def _with_modality(name: str, text: str) -> Format:
    tables: dict[str, Callable[[], bool]] = {
        "csv": lambda: sniff_text.table_is_sensor(text),
        "tsv": lambda: sniff_text.table_is_sensor(text, "\t"),
        "jsonl": lambda: sniff_text.lines_are_sensor(text),
    }
    return Format(name, "sensor") if name in tables and tables[name]() else FORMATS[name]


def _binary_without_magic(head: bytes, extension: str) -> Format | None:
    """Formats without a signature: Truevision TGA and SPIDER by their header, MPEG audio behind junk by its frames."""
    if extension in ("tga", "icb", "vda", "vst") and len(head) >= 18 and head[1] in (0, 1) and head[2] & ~8 <= 3:
        return FORMATS["tga"]
    if _is_spider(head):
        return FORMATS["spider"]
    name = sniff_media.find_audio_frames(head)
    return FORMATS[name] if name else None


def _is_spider(head: bytes) -> bool:
    """SPIDER 2-D images: 27 big- or little-endian floats, of which seven are whole numbers that fit together."""
    if len(head) < 92:
        return False
    for order in ("<", ">"):
        values = struct.unpack_from(f"{order}23f", head)
        slices, rows, kind, columns, records, length = (values[i] for i in (0, 1, 4, 11, 12, 21))
        if not all(abs(v) < 1 << 24 and v == int(v) for v in (slices, rows, kind, columns, records, length)):
            continue
        if kind not in (1, 3, -11, -12, -21, -22) or min(rows, columns, records) <= 0:
            continue
        if length == records * values[22]:
            return True
    return False
