"""Cloud masks from the class layers that products carry: Sentinel-2's scene classification, Landsat's QA band.

Source: Sentinel-2 Products Specification Document, table of SCL classes; Landsat 8-9 Collection 2 Level 2 Science
Product Guide, QA_PIXEL bit index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

#: SCL: 0 no data, 1 saturated or defective; 8 and 9 clouds of medium and high probability, 10 thin cirrus.
_SCL_NO_DATA, _SCL_CLOUD = (0, 1), (8, 9, 10)
#: QA_PIXEL: bit 0 fill; bits 1, 2 and 3 dilated cloud, cirrus, cloud.
_QA_FILL, _QA_CLOUD = 0b0001, 0b1110

Kind = Literal["scl", "qa_pixel"]
KINDS: tuple[Kind, ...] = ("scl", "qa_pixel")


def wanted_kinds(setting: str) -> tuple[Kind, ...]:
    """The class layers that the setting `mask` allows, the first to be preferred."""
    return KINDS if setting == "auto" else tuple(kind for kind in KINDS if kind == setting)


def kind_of(name: str) -> Kind | None:
    """Which class layer a band name stands for."""
    return next((kind for kind in KINDS if kind == name.lower()), None)


@dataclass(frozen=True)
class ClassMask:
    """A class layer: its kind, and its band where it lies in the same dataset as the pixels."""

    kind: Kind
    index: int = 1

    def judge(self, codes: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """(valid, cloud) of 0 and 1 for an array of codes."""
        if self.kind == "scl":
            return (~np.isin(codes, _SCL_NO_DATA)).astype(np.uint8), np.isin(codes, _SCL_CLOUD).astype(np.uint8)
        whole = codes.astype(np.int64)
        return (whole & _QA_FILL == 0).astype(np.uint8), (whole & _QA_CLOUD != 0).astype(np.uint8)

    @property
    def note(self) -> str:
        """What it does to `valid`, for the `transforms` column."""
        return "valid: not scl 0 and 1" if self.kind == "scl" else "valid: not qa_pixel bit 0"
