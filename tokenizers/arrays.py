"""The one name for a numpy array in this folder's signatures; docstrings say its shape and dtype."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
