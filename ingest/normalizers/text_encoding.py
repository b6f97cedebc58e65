"""Bytes to text, exactly: strict UTF-8, the byte order marks of UTF-8, UTF-16 and UTF-32, and what a pipeline names.

Nothing is guessed and nothing is replaced. A byte order mark says how the text is spelled and is no part of it, so it
is dropped and recorded; everything else stays as it is: line ends, control characters, NUL, unassigned code points.
A character cut off by the end of the data is a truncation, not a wrong encoding, and is told apart.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from headrace.schemas.errors import RecordError

#: Marks by length, longest first: that of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: Codecs of Python that are no character encoding, or let text spell control sequences.
_REFUSED = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7", "mbcs", "oem"})
_CHUNK_BYTES = 1 << 20


def checked_encoding(name: str) -> str:
    """The normal name of an encoding. Raises: ValueError for an unknown one, or a codec that is no text encoding."""
    try:
        codec = codecs.lookup(name)
        codecs.getincrementaldecoder(name)
        "".encode(name)  # bytes-to-bytes codecs refuse here
    except LookupError as exc:
        raise ValueError(f"unknown text encoding {name!r}; utf-8, utf-16, latin-1 or shift_jis would be right") from exc
    if codec.name.replace("_", "-") in _REFUSED:
        raise ValueError(f"{name!r} is not a text encoding")
    return codec.name


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text, and what the bytes were."""

    text: str
    torn_at: int | None = None  #: the byte at which an unfinished last character begins
    transforms: list[str] = field(default_factory=list)


def spelling(head: bytes, encoding: str | None) -> tuple[str, int]:
    """(codec, bytes of byte order mark) of data that begins with `head`, of which four bytes are enough.

    A mark is certain, so it goes before `encoding`, which is what the pipeline or a header says.
    """
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return codec, len(mark)
    return encoding or "utf-8", 0


def described(codec: str, mark: int) -> list[str]:
    """What `transforms` holds for a text that was not plain UTF-8."""
    if codec == "utf-8":
        return ["drop byte order mark utf-8"] if mark else []
    return [f"decode {codec}" + (" with byte order mark" if mark else "")]


def decode(data: bytes, encoding: str | None = None) -> Decoded:
    """The text of `data`. Raises: RecordError `bad_encoding` with the byte."""
    codec, mark = spelling(data, encoding)
    body = memoryview(data)[mark:]
    try:
        return Decoded(str(body, codec), None, described(codec, mark))
    except UnicodeDecodeError:
        pass  # once more with a decoder that can tell an unfinished end from a wrong byte
    decoder = _Incremental(codec, mark)
    text = decoder.feed(body)
    torn = decoder.finish()
    if torn is None:  # decoders of some national encodings swallow an unfinished end
        raise RecordError("bad_encoding", f"the last bytes are not {codec}")
    return Decoded(text, torn, described(codec, mark))


class _Incremental:
    """A decoder that knows how far it is, so that an error names the byte of the whole object."""

    def __init__(self, codec: str, start: int) -> None:
        self._codec = codec
        self._decoder = codecs.getincrementaldecoder(codec)("strict")
        self._fed = start

    def feed(self, chunk: bytes | memoryview) -> str:
        """More text. Raises: RecordError `bad_encoding`."""
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(bytes(chunk))
        except UnicodeDecodeError as exc:
            at = self._fed - pending + exc.start
            raise RecordError(
                "bad_encoding",
                f"byte {at} ({exc.object[exc.start : exc.start + 4].hex(' ')}) is not {self._codec}: {exc.reason}; "
                "name the right one as `encoding` if the text has another",
            ) from exc
        self._fed += len(chunk)
        return text

    def finish(self) -> int | None:
        """The byte at which an unfinished last character begins, or None. Raises: RecordError `bad_encoding`."""
        pending = self._decoder.getstate()[0]
        if pending:
            return self._fed - len(pending)
        try:
            self._decoder.decode(b"", True)
        except UnicodeDecodeError as exc:
            raise RecordError("bad_encoding", f"the text ends inside a {self._codec} character: {exc.reason}") from exc
        return None


class TextStream:
    """The text of a large object in pieces, in flat memory. After the last piece `torn_at` is set as in `Decoded`."""

    def __init__(self, stream: BinaryIO, encoding: str | None) -> None:
        self._stream = stream
        self.torn_at: int | None = None
        head = stream.read(4)
        codec, mark = spelling(head, encoding)
        self.transforms = described(codec, mark)
        self._decoder = _Incremental(codec, mark)
        self._rest = head[mark:]

    def __iter__(self) -> Iterator[str]:
        chunk = self._rest + self._stream.read(_CHUNK_BYTES)
        while chunk:
            yield self._decoder.feed(chunk)
            chunk = self._stream.read(_CHUNK_BYTES)
        self.torn_at = self._decoder.finish()
