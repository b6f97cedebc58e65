"""Which bands a pipeline asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from headrace.ingest.normalizers.raster_bands import Band
from headrace.schemas.errors import RecordError

Wanted = Sequence[str | int] | Literal["all"]


def select(bands: Sequence[Band], wanted: Wanted) -> list[Band]:
    """The wanted bands in the wanted order; numbers count from 1.

    A name may differ in case from the file's; a variable's name stands for all its levels.

    Raises: RecordError `missing_field` if there is none such, `inconsistent` if a name stands for several.
    """
    if wanted == "all":
        return list(bands)
    return [band for want in wanted for band in _found(bands, want)]


def _found(bands: Sequence[Band], want: str | int) -> list[Band]:
    if isinstance(want, int):
        if 1 <= want <= len(bands):
            return [bands[want - 1]]
        raise RecordError("missing_field", f"band {want} was asked for, there are {len(bands)}; numbers count from 1")
    found = [b for b in bands if b.name == want] or [b for b in bands if b.name.casefold() == want.casefold()]
    if not found:
        levels = [b for b in bands if b.variable != b.name and b.variable.casefold() == want.casefold()]
        if levels:
            return levels
        raise RecordError("missing_field", f"no band {want!r}; there are {names(bands)}")
    if len(found) > 1:
        which = ", ".join(str(band.index) for band in found)
        raise RecordError("inconsistent", f"{want!r} is the name of bands {which}: ask for their numbers")
    return [replace(found[0], name=want)]


def names(bands: Sequence[Band]) -> str:
    """The names of bands for a message, not endless."""
    listed = ", ".join(band.name for band in bands[:20])
    return listed + (f" and {len(bands) - 20} more" if len(bands) > 20 else "")
