"""A stand-in for torchvision, which mosaicml-streaming imports and the CPU build of PyTorch cannot load."""

from __future__ import annotations

import importlib.machinery
import sys
import types


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stand_in() -> None:
    """Put it in place, unless the real one loads."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("", ".datasets", ".transforms", ".transforms.functional", ".datasets.folder", ".io"):
            module = _Module("torchvision" + name)
            module.__path__ = []
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            sys.modules[module.__name__] = module
