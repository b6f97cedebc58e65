"""One file, opened: what it is, what is inside when it is compressed or a container, and ways to go through it.

layout   lines   JSON Lines, to be cut at line ends          nested   a container in a container: not opened
         tar zip members                                     whole    one object
         web     records of a WARC or ARC
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, Literal

from headrace.connectors import expand as expanding
from headrace.connectors.byte_source import ByteSource
from headrace.connectors.containers import Bounds, Part, is_webdataset, plain_name, sniff_source, tar_parts, zip_parts
from headrace.connectors.contract import Blob, Broken
from headrace.connectors.sniff import Format, sniff_stream
from headrace.connectors.web_parts import web_formats
from headrace.schemas.record import Modality

Layout = Literal["lines", "tar", "zip", "web", "nested", "whole"]
_GLIMPSE = 64  #: members of a container that are looked at to tell which modalities it holds
WEB = ("warc", "arc")


class OpenedFile:
    """A file of a known format, over a stream that its opener closes."""

    def __init__(self, blob: Blob, stream: BinaryIO, bounds: Bounds) -> None:
        self.blob = blob
        self.stream = stream
        self.outer: Format = sniff_stream(stream, blob.id)
        self.compression = self.outer.name if self.outer.name in expanding.KINDS else None
        #: The name without the suffix of the compression.
        self.name = plain_name(blob.id, self.compression) if self.compression else blob.id
        self._bounds = bounds
        #: The format behind the compression.
        self.format: Format = sniff_source(self.source(), self.name) if self.compression else self.outer

    @property
    def layout(self) -> Layout:
        """How it is read."""
        name = self.format.name
        if name == "jsonl" and not self._bounds.whole_lines:
            return "lines"
        if name == "tar":
            return "tar"
        if name == "zip" and not self.compression:
            return "zip"
        if name in WEB and self.compression in (None, "gzip"):
            return "web"
        return "nested" if self.format.container or name in WEB else "whole"

    def source(self, start: int = 0) -> ByteSource:
        """Its bytes from `start` on, decompressed; a source of its own each time, over the same stream."""
        if self.compression is None:
            return ByteSource.of_stream(self.stream, start)
        self.stream.seek(0)
        source = ByteSource(expanding.expand(self.compression, self.stream, self._bounds.budget))
        source.skip(start)
        return source

    def parts(self, after: int) -> Iterator[Part | Broken]:
        """The members of a tar or zip behind the first `after`."""
        if self.layout == "zip":
            return zip_parts(self.stream, self.blob.id, self.blob, after, self._bounds)
        archive = None if self.compression else self.blob
        return tar_parts(self.source(), self.blob.id, archive, after, self._bounds)

    def is_webdataset(self) -> bool:
        """Whether it is a tar whose members belong together by their names."""
        return self.layout == "tar" and is_webdataset(self.source())

    def formats(self) -> list[Format]:
        """The formats of what lies inside, of the first members only."""
        if self.layout == "web":
            return list(web_formats(self.stream, self.compression == "gzip", self._bounds, _GLIMPSE))
        if self.layout in ("tar", "zip"):
            return [part.format for part in islice(self.parts(0), _GLIMPSE) if isinstance(part, Part)]
        return [] if self.layout == "nested" else [self.format]


class Contents:
    """The modalities of what a file holds, as far as its first members show.

    Several streams may each select one modality from one container. Every member goes to exactly one of them: to its
    own modality if the first members showed it, else to `home`, the first modality that they showed.
    """

    def __init__(self, format: Format, inside: list[Format]) -> None:
        self.format = format
        self.nothing = not inside
        found: list[Modality | None] = ["text"] if format.name in WEB else []
        found += [one.modality for one in inside]
        self.modalities: frozenset[Modality | None] = frozenset(found or [None])
        self.home: Modality | None = next((modality for modality in found if modality is not None), None)

    def keeps(self, select: str | None, found: Format) -> bool:
        """Whether a member of this format belongs to the selection."""
        if select is None:
            return True
        wanted = None if select == "none" else select
        return found.modality == wanted or (found.modality not in self.modalities and self.home == wanted)

    def is_home(self, select: str | None) -> bool:
        """Whether the selection is the one that hears of damage which belongs to no member."""
        return select is None or self.home == (None if select == "none" else select)
