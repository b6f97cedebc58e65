"""The network of `conv-fsq`: weights as plain arrays, torch only inside functions.

    encoder  conv 4×4/4 → residual → conv 2×2/2 → residual → 1×1 to one channel per level
    decoder  1×1 → residual → pixel shuffle ×2 → residual → pixel shuffle ×4
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.schemas.errors import MissingExtra, TokenizerError
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.fsq import Fsq

STRIDE = 8
_CROP, _BATCH = 64, 16
_RATE = 1.5e-3


def _torch() -> Any:
    try:
        import torch
    except ImportError as exc:
        raise MissingExtra("torch", "torch", need="the tokenizer `conv-fsq`") from exc
    return torch


def _build(torch: Any, width: int, dimensions: int) -> tuple[Any, Any]:
    nn = torch.nn

    class Residual(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(
                nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
            )

        def forward(self, x: Any) -> Any:
            return x + self.inner(x)

    encoder = nn.Sequential(
        nn.Conv2d(3, width, 4, stride=4), Residual(), nn.Conv2d(width, width, 2, stride=2), Residual(),
        nn.GELU(), nn.Conv2d(width, dimensions, 1),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Conv2d(dimensions, width, 1), Residual(), nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2), Residual(),
        nn.GELU(), nn.Conv2d(width, 48, 1), nn.PixelShuffle(4),
    )  # fmt: skip
    return encoder, decoder


class Network:
    """A trained network: windows of pixels to grids of codes and back."""

    def __init__(self, arrays: dict[str, Array], width: int, fsq: Fsq) -> None:
        self._torch = _torch()
        self._fsq = fsq
        self._encoder, self._decoder = _build(self._torch, width, len(fsq.levels))
        for name, module in (("encoder", self._encoder), ("decoder", self._decoder)):
            state = {k: self._torch.from_numpy(np.array(arrays.get(f"{name}.{k}", 0.0))) for k in module.state_dict()}
            try:
                module.load_state_dict(state)
            except RuntimeError as exc:
                raise TokenizerError(f"the artefact's weights do not fit the network: {exc}") from exc
            module.eval()

    def encode(self, window: Array) -> Array:
        """int64 (side / 8, side / 8) codes of uint8 (side, side, 3)."""
        torch = self._torch
        with torch.inference_mode():
            z = self._encoder(_as_input(torch, window[None]))[0].permute(1, 2, 0).numpy()
        return self._fsq.index(self._fsq.quantize(z))

    def decode(self, codes: Array) -> Array:
        """uint8 (side, side, 3) of int64 (side / 8, side / 8) codes."""
        torch = self._torch
        values = self._fsq.codes(self._fsq.levels_of_index(codes))
        with torch.inference_mode():
            x = self._decoder(torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0)[None])))[0]
        pixels = np.rint(x.permute(1, 2, 0).numpy() * 127.5 + 127.5)
        return np.asarray(np.clip(pixels, 0, 255), np.uint8)


def _as_input(torch: Any, windows: Array) -> Any:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(windows, -1, 1)).astype(np.float32) / 127.5 - 1.0)


def train(pictures: Sequence[Array], width: int, fsq: Fsq, steps: int, seed: int) -> dict[str, Array]:
    """Weights after `steps` steps of Adam on squared error, crops drawn by a seeded generator, on one thread."""
    torch = _torch()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder, decoder = _build(torch, width, len(fsq.levels))
            _optimise(torch, encoder, decoder, pictures, fsq, steps, seed)
    finally:
        torch.set_num_threads(before)
    modules = (("encoder", encoder), ("decoder", decoder))
    return {f"{name}.{k}": v.detach().numpy().copy() for name, m in modules for k, v in m.state_dict().items()}


def _optimise(
    torch: Any, encoder: Any, decoder: Any, pictures: Sequence[Array], fsq: Fsq, steps: int, seed: int
) -> None:
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(weights, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    random = np.random.default_rng(seed)
    areas = np.array([p.shape[0] * p.shape[1] for p in pictures], np.float64)
    levels = torch.from_numpy(fsq.levels.astype(np.float32))[:, None, None]
    half = (levels - 1) * 1.001 / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0)
    for _ in range(steps):
        chosen = random.choice(len(pictures), _BATCH, p=areas / areas.sum())
        target = _as_input(torch, np.stack([_crop(pictures[i], random) for i in chosen]))
        bounded = torch.tanh(encoder(target) + torch.atanh(offset / half)) * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()  # gradients pass the rounding unchanged
        loss = torch.mean((decoder(rounded / (levels // 2)) - target) ** 2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _crop(pixels: Array, random: np.random.Generator) -> Array:
    height, width = pixels.shape[:2]
    top, left = int(random.integers(max(1, height - _CROP + 1))), int(random.integers(max(1, width - _CROP + 1)))
    part = pixels[top : top + _CROP, left : left + _CROP]
    return np.pad(part, [(0, _CROP - part.shape[0]), (0, _CROP - part.shape[1]), (0, 0)], mode="edge")
