"""Neural codecs from files and the small trained one: constant shapes, an allow-list, and plain weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.schemas.errors import ConfigError, SchemaMismatch, TokenizerError
from headrace.schemas.record import payload_views
from headrace.tokenizers.codec import TRUSTED
from headrace.tokenizers.contract import Artefact
from headrace.tokenizers.neural_tiles import Tiling
from headrace.tokenizers.registry import choose, load, needs_fit
from headrace.tokenizers.testing import row_tokens
from headrace.tokenizers.testing_rows import images, picture

torch: Any = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")


class MeanColour(torch.nn.Module):  # type: ignore[misc]
    """Codes are the mean gray of 8×8 pixels in 256 steps."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gray = torch.nn.functional.avg_pool2d(x.mean(dim=1, keepdim=True), 8)[:, 0]
        return gray, torch.clamp(torch.round((gray + 1.0) * 127.5), 0, 255).to(torch.int32)


class Flat(torch.nn.Module):  # type: ignore[misc]
    """The inverse, as well as there is one."""

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        gray = codes.to(torch.float32)[:, None] / 127.5 - 1.0
        wide = torch.repeat_interleave(torch.repeat_interleave(gray, 8, 2), 8, 3)
        return torch.cat([wide, wide, wide], 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    with pytest.warns(DeprecationWarning) if _warns() else _silent():
        torch.jit.trace(MeanColour(), torch.zeros(1, 3, 32, 32)).save(str(folder / "encoder.jit"))
        torch.jit.trace(Flat(), torch.zeros(1, 4, 4, dtype=torch.int64)).save(str(folder / "decoder.jit"))
    return folder


def _warns() -> bool:
    return False


def _silent() -> Any:
    import contextlib

    return contextlib.nullcontext()
