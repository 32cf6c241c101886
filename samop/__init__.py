"""samop: sharpness-aware minimisation under overparameterisation.

Public names are resolved when they are first used, so that reading results never loads jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samop import ascents as ascents
    from samop import checkpoint as checkpoint
    from samop import config as config
    from samop import data as data
    from samop import diagnostics as diagnostics
    from samop import figures as figures
    from samop import hessian as hessian
    from samop import models as models
    from samop import precision as precision
    from samop import results as results
    from samop import theory as theory
    from samop import transforms as transforms
    from samop.diagnostics import diagnose as diagnose
    from samop.precision import loss_scaled as loss_scaled
    from samop.transforms import asam as asam
    from samop.transforms import esam as esam
    from samop.transforms import eval_params as eval_params
    from samop.transforms import fsam as fsam
    from samop.transforms import gnp as gnp
    from samop.transforms import grad_evals as grad_evals
    from samop.transforms import gsam as gsam
    from samop.transforms import looksam as looksam
    from samop.transforms import msam as msam
    from samop.transforms import rho_from_rate as rho_from_rate
    from samop.transforms import sam as sam
    from samop.transforms import sam_gradient as sam_gradient
    from samop.transforms import stablesam as stablesam
    from samop.transforms import vasso as vasso
    from samop.transforms import window as window
    from samop.transforms import wsam as wsam

__version__ = "0.1.0"  # the one place that says it

_TRANSFORMS = (
    "asam", "esam", "eval_params", "fsam", "gnp", "grad_evals", "gsam", "looksam", "msam",
    "rho_from_rate", "sam", "sam_gradient", "stablesam", "vasso", "window", "wsam",
)  # fmt: skip
_NAMES = {
    **dict.fromkeys(_TRANSFORMS, "samop.transforms"),
    "diagnose": "samop.diagnostics",
    "loss_scaled": "samop.precision",
}
_MODULES = (
    "ascents", "checkpoint", "config", "data", "diagnostics", "figures", "hessian", "models",
    "precision", "results", "theory", "transforms",
)  # fmt: skip


if not TYPE_CHECKING:  # to which every name would be one

    def __getattr__(name: str) -> Any:
        if name in _NAMES:
            return getattr(importlib.import_module(_NAMES[name]), name)
        if name in _MODULES:
            return importlib.import_module(f"samop.{name}")
        raise AttributeError(f"module 'samop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES, *_MODULES])
