"""What a state of a transform tells, also through wrappers around it."""

from typing import Any

from samop.transforms.momentum import MsamState, unperturbed

PyTree = Any


def eval_params(opt_state: PyTree, params: PyTree) -> PyTree:
    """The weights to evaluate, measure and keep: params, for `msam` without their perturbation.

    Args:
      opt_state: state of a transform of this package, or of a wrapper that holds one as `inner`
        or `inner_state`.
      params: the weights that training moves.
    """
    if isinstance(opt_state, MsamState):
        return unperturbed(opt_state, params)
    inner = getattr(opt_state, "inner", getattr(opt_state, "inner_state", None))
    return params if inner is None else eval_params(inner, params)


def grad_evals(opt_state: PyTree, steps: Any) -> Any:
    """Gradient evaluations behind an optimiser state: as a transform counted, else `steps`.

    Args:
      opt_state: as for `eval_params`.
      steps: number of updates done, each with one gradient where nothing else is known.
    """
    if hasattr(opt_state, "grad_evals"):
        return opt_state.grad_evals
    inner = getattr(opt_state, "inner", getattr(opt_state, "inner_state", None))
    return steps if inner is None else grad_evals(inner, steps)
