"""samop: sharpness-aware minimisation under overparameterisation.

Public names are resolved when they are first used, so that reading results never loads jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samop.transforms import sam as sam

__version__ = "0.1.0.dev0"

_NAMES = {"sam": "samop.transforms"}
_MODULES = ("ascents", "checkpoint", "config", "data", "figures", "models", "results", "transforms")


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"samop.{name}")
    raise AttributeError(f"module 'samop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES, *_MODULES])
