"""What a product of several files is made of: bands, each with the file it lies in, and what is said of them all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from headrace.connectors.contract import Blob
from headrace.schemas.errors import RecordError


@dataclass(frozen=True)
class Source:
    """One band of a product: where it lies, and what the product's metadata says of it (None: as the file says)."""

    blob: Blob
    name: str
    index: int = 1
    aliases: tuple[str, ...] = ()
    wavelength_nm: float | None = None
    gsd_m: float | None = None
    unit: str | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    shift: int = 0  #: added to every value that is data; what falls below 0 becomes 0
    nearest: bool = False  #: classes

    def is_called(self, name: str) -> bool:
        """Whether a pipeline may mean this band."""
        return name.casefold() in (self.name.casefold(), *(alias.casefold() for alias in self.aliases))


@dataclass(frozen=True)
class Product:
    """One grid's worth of bands. `sources`: all, in their order; `default`: how many of them `all` means."""

    sources: list[Source]
    default: int
    locator: dict[str, Any] = field(default_factory=dict)
    event_time: int | None = None
    event_end: int | None = None
    time_source: str | None = None
    license: str | None = None
    attribution: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> Source:
        """The band that a pipeline calls so. Raises: RecordError `missing_field`."""
        for source in self.sources:
            if source.is_called(name):
                return source
        known = ", ".join(source.name for source in self.sources[:40])
        raise RecordError("missing_field", f"no band {name!r} came with this product; there are {known}")

    def select(self, wanted: list[str | int] | str) -> list[Source]:
        """The wanted bands; one asked for by another of its names bears that name. Raises: RecordError."""
        if isinstance(wanted, str):
            return self.sources[: self.default]
        chosen = []
        for want in wanted:
            if isinstance(want, int):
                if not 1 <= want <= self.default:
                    raise RecordError("missing_field", f"band {want} was asked for, there are {self.default}")
                chosen.append(self.sources[want - 1])
            else:
                chosen.append(replace(self.find(want), name=want))
        return chosen
