"""Variables of one netCDF or HDF5 file as the bands of one record, where a pipeline names several.

Data cubes are commonly written with a variable per band. Without names every variable is a grid of its own; with
`bands: [red, nir]` those two become one record, if they lie on one grid and show the same times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from headrace.ingest.normalizers.raster_layer import Description, Layer, Tile
from headrace.ingest.normalizers.raster_selection import Wanted, select
from headrace.ingest.normalizers.raster_sheets import Sheet
from headrace.schemas.errors import RecordError


def join_variables(sheets: Sequence[Sheet], wanted: Wanted) -> list[Sheet]:
    """The sheets that hold wanted bands, those of several variables joined time by time.

    A band is asked for by its name, or all of a variable by the variable's (`/group/ta` where `ta` would be unclear).
    Sheets that are no variables are left as they are, and so are all where numbers stand for bands.
    Raises: RecordError `missing_field`, or `inconsistent` if variables do not fit together.
    """
    by_variable: dict[str, list[Sheet]] = {}
    for sheet in sheets:
        if "variable" in sheet.locator:
            by_variable.setdefault(sheet.locator["variable"], []).append(sheet)
    if wanted == "all" or len(by_variable) < 2 or not all(isinstance(want, str) for want in wanted):
        return list(sheets)
    chosen: dict[str, list[str]] = {}
    for want in wanted:
        variable = _variable_of(str(want), by_variable)
        known = by_variable[variable][0].bands
        chosen.setdefault(variable, []).append(known[0].variable if want == variable and known else str(want))
    columns = [[replace(sheet, wanted=names) for sheet in by_variable[variable]] for variable, names in chosen.items()]
    return columns[0] if len(columns) == 1 else _joined(columns, list(chosen))


def _variable_of(name: str, by_variable: dict[str, list[Sheet]]) -> str:
    if name in by_variable:
        return name
    low = name.casefold()
    found = [
        variable
        for variable, sheets in by_variable.items()
        if any(low in (band.name.casefold(), band.variable.casefold()) for sheet in sheets for band in sheet.bands)
    ]
    if not found:
        raise RecordError("missing_field", f"no variable {name!r}; there are {', '.join(list(by_variable)[:20])}")
    if len(found) > 1:
        raise RecordError("inconsistent", f"{name!r} could be {' or '.join(found[:5])}: give the whole name")
    return found[0]


def _joined(columns: list[list[Sheet]], variables: list[str]) -> list[Sheet]:
    for variable, column in zip(variables, columns):
        if column[0].error is not None:
            raise column[0].error
        if [_shape(sheet) for sheet in column] != [_shape(sheet) for sheet in columns[0]]:
            both = f"{variables[0]} and {variable}"
            raise RecordError("inconsistent", f"{both} differ in size or times: they cannot be bands of one record")
    sheets = []
    for row in zip(*columns):
        place = {key: value for key, value in row[0].locator.items() if key != "variable"}
        sheets.append(replace(row[0], locator={**place, "variables": variables}, bands=(), joined=row))
    return sheets


def _shape(sheet: Sheet) -> tuple[int, int, str | None]:
    moment = sheet.bands[0].moment if sheet.bands else None
    return sheet.width, sheet.height, None if moment is None else moment.text


class JoinedLayer:
    """The layers of a joined sheet as one, their bands in the order in which they were asked for."""

    def __init__(self, sheet: Sheet, layers: Sequence[Layer], wanted: Wanted) -> None:
        self.width, self.height = sheet.width, sheet.height
        self._layers = layers
        order = [str(want).rsplit("/", 1)[-1].casefold() for want in wanted]
        places: list[tuple[int, int]] = []  # (place of its name in the setting, place among all bands)
        for part in sheet.joined:
            for name in part.wanted or []:
                place = order.index(str(name).casefold())
                places += [(place, len(places) + i) for i in range(len(select(part.bands, [name])))]
        self._order = [index for _, index in sorted(places)]
        rows = [row for layer in layers for row in layer.description.bands]
        self.description: Description = replace(
            layers[0].description,
            bands=[rows[i] for i in self._order],
            transforms=list(dict.fromkeys(note for layer in layers for note in layer.description.transforms)),
            flags=sorted({flag for layer in layers for flag in layer.description.flags}),
        )

    def read(self, column: int, row: int, width: int, height: int) -> Tile:
        """One window. Raises: RecordError."""
        tiles = [layer.read(column, row, width, height) for layer in self._layers]
        pixels = np.concatenate([tile.pixels for tile in tiles])  # in their common type
        valid = np.bitwise_or.reduce([tile.valid for tile in tiles])
        cloud = next((tile.cloud for tile in tiles if tile.cloud is not None), None)
        return Tile(np.ascontiguousarray(pixels[self._order]), valid, cloud)
