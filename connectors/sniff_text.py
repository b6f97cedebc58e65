"""Which text: decides between prose, markup, JSON, tables, captions and logs from the head of a file.

Text is what decodes as UTF-8 (or UTF-16/32 with a byte order mark) with few control characters. Markup and JSON are
told by their first bytes; CSV, Markdown and plain text, which have none, by the file's extension.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from datetime import datetime

#: Extensions that decide for text without magic bytes, or with bytes in an older encoding.
TEXT_EXTENSIONS = {
    "txt": "text", "text": "text", "log": "text", "md": "markdown", "markdown": "markdown", "mkd": "markdown",
    "xml": "xml", "kml": "xml", "gml": "xml", "svg": "xml", "html": "html", "htm": "html", "xhtml": "html",
    "json": "json", "geojson": "json", "jsonl": "jsonl", "ndjson": "jsonl", "jsonlines": "jsonl",
    "csv": "csv", "tsv": "tsv", "tab": "tsv", "lp": "line_protocol", "line": "line_protocol",
    "srt": "srt", "vtt": "webvtt", "ttml": "ttml", "dfxp": "ttml",
}  # fmt: skip

_BOMS = (  # the longer first: the UTF-32 little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]")
_MAX_CONTROL_SHARE = 0.005


def decode(head: bytes, whole: bool) -> tuple[str, str] | None:
    """(text, encoding) if the head is text, else None. A character cut by the head's end is no fault unless `whole`."""
    encoding = next((name for bom, name in _BOMS if head.startswith(bom)), "utf-8")
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        text = decoder.decode(head, final=whole)
    except UnicodeDecodeError as exc:
        # A torn last character is what a truncated text ends in; damage elsewhere is another format.
        if encoding == "utf-8" and exc.start >= len(head) - 3 and exc.reason == "unexpected end of data":
            text = head[: exc.start].decode(encoding)
        else:
            return None
    allowed = int(len(text) * _MAX_CONTROL_SHARE)
    controls = _CONTROL.findall(text, 0, 1 << 16)
    if len(controls) > allowed or (encoding == "utf-8" and "\0" in text):
        return None
    return text, encoding


def looks_8bit(head: bytes) -> bool:
    """Whether bytes that are no UTF-8 could be text of an older encoding: no NUL, few control bytes, much ASCII."""
    if not head or b"\0" in head:
        return False
    controls = sum(head.count(bytes([c])) for c in (*range(1, 9), 11, *range(14, 27), *range(28, 32), 127))
    plain = len(re.findall(rb"[\t\n\r -~]", head))
    return controls <= len(head) * _MAX_CONTROL_SHARE and plain >= len(head) // 3


# None of these can fail once begun, so hostile markup cannot make them backtrack.
_PROLOGUE = re.compile(r"(?:\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>)*", re.DOTALL | re.IGNORECASE)
_ROOT = re.compile(r"<(?:[A-Za-z_][\w.-]{0,64}:)?([A-Za-z_][\w.-]{0,64})")
_HTML_DOCTYPE = re.compile(r"<!doctype\s+html\b", re.IGNORECASE)
#: Roots of documents that stand for data on another host: GDAL's service descriptions, and OGC capabilities.
_SERVICES = frozenset(
    {"WCS_GDAL", "GDAL_WMS", "GDAL_WMTS", "WMS_Capabilities", "WMT_MS_Capabilities", "WMS_Tile_Service", "Capabilities"}
)


def markup(text: str) -> str | None:
    """`html`, `vrt`, `wcs-xml`, `gpx`, `ttml`, `xml` by the root element; None if the text does not begin as markup."""
    start = text.lstrip()
    if not start.startswith("<"):
        return None
    prologue = _PROLOGUE.match(text)
    end = prologue.end() if prologue else 0
    root = _ROOT.match(text, end)
    declared = start.startswith(("<?xml", "<!DOCTYPE", "<!doctype", "<!--"))
    if _HTML_DOCTYPE.search(text, 0, end):
        return "html"
    if root is None:
        return "xml" if declared else None
    name = root[1]
    if name == "VRTDataset":
        return "vrt"
    if name in _SERVICES:
        return "wcs-xml"
    known = {"gpx": "gpx", "tt": "ttml", "html": "html", "head": "html", "body": "html"}.get(name.lower())
    if known:
        return known
    if declared or "</" in text or "/>" in text:
        return "xml"
    return None


def json_kind(text: str, extension: str, whole: bool) -> str | None:
    """`json`, `jsonl` or None. A first line that is a whole value, followed by another, makes it lines."""
    body = text.lstrip()
    if not body.startswith(("{", "[")):
        # Lines of bare strings or numbers are JSON Lines by extension only.
        return extension if extension == "jsonl" or (extension == "json" and body[:1] in '"-0123456789tfn') else None
    first, newline, rest = body.partition("\n")
    if extension == "jsonl":
        return "jsonl"
    if newline and first.startswith("{") and rest.lstrip().startswith("{") and _is_json(first):
        return "jsonl"
    if extension == "json":
        return "json"
    if whole:
        return "json" if _is_json(body) else None
    # The head was cut, so it cannot be parsed: it must at least go on as JSON does.
    return "json" if re.match(r'\{\s*("|\})|\[\s*(\[|\{|"|-?\d|\]|t|f|n)', body) else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


_SRT = re.compile(r"\s*\d+[ \t]*\r?\n\d{1,3}:\d\d:\d\d[,.]\d{1,3}[ \t]*-->[ \t]*\d{1,3}:\d\d:\d\d[,.]\d{1,3}")


def captions(text: str) -> str | None:
    """`srt` or `webvtt` by the first cue or signature."""
    if re.match(r"WEBVTT(?:[ \t\r\n]|$)", text):
        return "webvtt"
    return "srt" if _SRT.match(text) else None


def table_without_name(text: str) -> str | None:
    """`csv` or `tsv` when at least four lines agree on a delimiter count and a column of numbers; prose does not."""
    lines = [line for line in text.split("\n")[:-1][:50] if line.strip()]
    if len(lines) < 4:
        return None
    for delimiter, name in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        counts = {line.count(delimiter) for line in lines}
        if len(counts) == 1 and counts != {0}:
            rows = [line.rstrip("\r").split(delimiter) for line in lines[1:]]
            if any(all(_number(cell) is not None for cell in column) for column in zip(*rows)):
                return name
    return None


_TIME_NAME = re.compile(r"^(.*[_\s.-])?(time|timestamp|date|datetime|ds|ts|utc|epoch)([_\s.-].*)?$", re.IGNORECASE)


def table_is_sensor(text: str, delimiter: str | None = None) -> bool:
    """Whether a table is readings rather than prose: a time column and a column of numbers, or numbers throughout."""
    sample = text[: text.rfind("\n") + 1] or text
    delimiter = delimiter or max(",;\t|", key=sample[:4096].count)
    try:
        rows = [row for row in csv.reader(sample.splitlines()[:60], delimiter=delimiter) if row]
    except csv.Error:
        return False
    if len(rows) < 2:
        return False
    width = min(max(len(row) for row in rows), 256)
    names = [cell.strip() for cell in rows[0]] + [""] * width
    body = rows[1:]
    numeric, times, filled = 0, 0, 0
    for index in range(width):
        cells = [row[index].strip() for row in body if index < len(row)]
        cells = [cell for cell in cells if cell and cell.lower() not in ("nan", "null", "na", "none", "-")]
        if not cells:
            continue
        filled += 1
        numbers = sum(_number(cell) is not None for cell in cells) >= 0.9 * len(cells)
        if _TIME_NAME.match(names[index][:64]) or sum(_is_time(cell) for cell in cells) >= 0.9 * len(cells):
            times += 1
        elif numbers:
            numeric += 1
    return numeric > 0 and (times > 0 or numeric == filled)


def lines_are_sensor(text: str) -> bool:
    """Whether JSON Lines are readings: every object has a time, a number, and no prose."""
    rows = []
    for line in text.split("\n")[:20]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict):
            return False
        rows.append(row)
    return bool(rows) and all(_is_reading(row) for row in rows)


def _is_reading(row: dict[str, object]) -> bool:
    timed, numbers = False, False
    for key, value in row.items():
        if _TIME_NAME.match(key[:64]) or key == "t" or (isinstance(value, str) and _is_time(value)):
            timed = True
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers = True
    prose = any(isinstance(value, str) and len(value.split()) > 8 for value in row.values())
    return timed and numbers and not prose


def _number(cell: str) -> float | None:
    try:
        return float(cell.strip().strip('"'))
    except ValueError:
        return None


_DATE = r"\"?\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}"
_LOOSE_TIME = re.compile(_DATE + r"([ T]\d{1,2}:\d\d(:\d\d(\.\d+)?)?\s*([AaPp][Mm])?)?\S*$")


def _is_time(cell: str) -> bool:
    if not 8 <= len(cell) <= 40 or not re.match(_DATE, cell):
        return False
    try:
        datetime.fromisoformat(cell.strip('"').replace("/", "-"))
    except ValueError:
        return bool(_LOOSE_TIME.match(cell))
    return True
