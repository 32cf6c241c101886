"""What a state of a transform tells, also through wrappers around it."""

from typing import Any

import jax

from samop.transforms.core import SamState
from samop.transforms.momentum import MsamState, unperturbed

PyTree = Any


def eval_params(opt_state: PyTree, params: PyTree) -> PyTree:
    """The weights to evaluate, measure and keep: params, for `msam` without their perturbation.

    Args:
      opt_state: state of a transform of this package, also within a chain or another wrapper.
        Of `nnx.Optimizer` take `nnx.as_pure(optimizer.opt_state)`, and of the parameters too.
      params: the weights that training moves.

    Raises:
      ValueError: several SAM transforms in one state.
    """
    state = _transform_state(opt_state)
    return unperturbed(state, params) if isinstance(state, MsamState) else params


def grad_evals(opt_state: PyTree, steps: Any) -> Any:
    """Gradient evaluations behind an optimiser state: as a transform counted, else `steps`.

    Args:
      opt_state: as for `eval_params`.
      steps: number of updates done, each with one gradient where nothing else is known.
    """
    state = _transform_state(opt_state)
    return steps if state is None else state.grad_evals


def _transform_state(opt_state: PyTree) -> SamState | MsamState | None:
    """The state of the one transform of this package in a state; None where there is none."""

    def is_ours(x):
        return isinstance(x, (SamState, MsamState))

    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_ours) if is_ours(x)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} SAM transforms in one optimiser state: which one is meant?")
    return found[0] if found else None
