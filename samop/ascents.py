"""How to perturb: rules that turn a gradient into the displacement ε at which SAM looks again.

A rule is a pair of pure functions, because several of the family keep a state between steps:
`init(params) -> state` and `perturb(grads, state, params, rho) -> (epsilon, state)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from samop import trees

PyTree = Any

# As in the released SAM codes; it also makes the ascent of a zero gradient zero instead of NaN.
TINY = 1e-12


class Ascent(NamedTuple):
    """A perturbation rule. `epsilon` has the structure of `params`, in at least float32."""

    init: Callable[[PyTree], PyTree]
    perturb: Callable[[PyTree, PyTree, PyTree, jax.typing.ArrayLike], tuple[PyTree, PyTree]]


def stateless(rule: Callable[[PyTree, PyTree, jax.typing.ArrayLike], PyTree]) -> Ascent:
    """An Ascent from `rule(grads, params, rho) -> epsilon`."""
    return Ascent(
        init=lambda params: (),
        perturb=lambda grads, state, params, rho: (rule(grads, params, rho), state),
    )


def normalized() -> Ascent:
    """ε = ρ g/‖g‖₂ over all leaves together: SAM (arXiv 2010.01412, eq. 2 with p = 2)."""
    return stateless(lambda grads, _, rho: trees.scale(rho / (trees.norm(grads) + TINY), grads))


def masked(ascent: Ascent, mask: PyTree | Callable[[PyTree], PyTree]) -> Ascent:
    """Perturbs, and takes the norm over, only the leaves where `mask` holds.

    Args:
      ascent: the rule to restrict.
      mask: booleans of the parameters' structure (or a prefix of it), or a function of the
        parameters that returns them.
    """

    def perturb(grads, state, params, rho):
        keep = mask(params) if callable(mask) else mask
        epsilon, state = ascent.perturb(trees.masked(grads, keep), state, params, rho)
        return trees.masked(epsilon, keep), state

    return Ascent(ascent.init, perturb)


def with_decay(ascent: Ascent, weight_decay: jax.typing.ArrayLike) -> Ascent:
    """Lets L2 decay take part in the ascent direction: the rule sees g + λw instead of g.

    The paper (arXiv 2311.17539) does not: there decay is added to the SAM gradient alone.
    """

    def perturb(grads, state, params, rho):
        full = trees.add(grads, trees.scale(weight_decay, params))
        return ascent.perturb(full, state, params, rho)

    return Ascent(ascent.init, perturb)
