"""The SAM family as optax gradient transformations.

A transform takes gradients at `params` and a `grad_fn`, and returns updates. It knows nothing of
models, batches or BatchNorm. It is the outermost transformation: clipping, weight decay and
accumulation belong into `base`, where they act on the SAM gradient. `optax.MultiSteps(sam(…))` is
wrong, since it has only the last micro-batch's `grad_fn`: take m-SAM or `sam(MultiSteps(base))`.

g = ∇L(w), ε the perturbation, g_ε = ∇L(w + ε) on the same batch; n(x) = x/‖x‖₂.
"""

from samop.transforms.cheaper import looksam, window
from samop.transforms.combined import gnp, gsam, rho_from_rate, stablesam, wsam
from samop.transforms.core import (
    SamState,
    SamTransformation,
    check_rho,
)
from samop.transforms.inside import eval_params, grad_evals
from samop.transforms.microbatch import Clean, finished, sam_gradient
from samop.transforms.momentum import MsamState, msam
from samop.transforms.perturbed import asam, esam, fsam, sam, vasso

__all__ = [
    "Clean",
    "MsamState",
    "SamState",
    "SamTransformation",
    "asam",
    "check_rho",
    "esam",
    "eval_params",
    "finished",
    "fsam",
    "gnp",
    "grad_evals",
    "gsam",
    "looksam",
    "msam",
    "rho_from_rate",
    "sam",
    "sam_gradient",
    "stablesam",
    "vasso",
    "window",
    "wsam",
]
