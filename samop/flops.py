"""Floating-point operations of a function, counted from what it is made of before it is compiled.

Matrix products and convolutions alone are counted, the field's "model flops" (arXiv 2204.02311,
appendix B): a figure of the mathematics, the same on every device, whatever a compiler makes of it.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from samop.models.conv import conv_p

# A training step against a forward pass: the backward pass costs twice the forward one.
OF_A_GRADIENT = 3


def count(fn: Callable[..., Any], *args: Any) -> int:
    """Operations of the matrix products and convolutions in `fn(*args)`.

    Args:
      fn: any function that jax can trace; it is not run.
      *args: pytrees of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      Two (a multiplication and an addition) for each product of two elements, all devices of a
      `shard_map` together. A scan counts as often as it loops, a `cond` as its dearest branch.
      Zeros count like other numbers: of padding, of dilation, of a mask. Element-wise work,
      factorisations and what XLA would remove or compute twice are not looked at.

    Raises:
      ValueError: a product inside a `while_loop` (a `fori_loop` whose bounds are traced, too) or a
        Pallas kernel, since how often it runs is unknown before it does.

    >>> import jax.numpy as jnp
    >>> count(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 5)))
    60
    """
    return _of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name in PRODUCTS:
        return PRODUCTS[name](equation)
    if name == "custom_linear_solve":  # of its four functions only this one runs
        params = {"solve": params["jaxprs"].solve}
    inside = [_of_jaxpr(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inside)
    total = sum(inside)
    if total and name in ENDLESS:
        raise ValueError(
            f"the flops of a {ENDLESS[name]} cannot be counted: how often it runs is unknown "
            "before it does; use lax.scan, or a fori_loop whose bounds are Python numbers"
        )
    if name == "scan":
        return params["length"] * total
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"]) * total
    return total


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
    """Every jaxpr among an equation's parameters, also in tuples of them."""
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, dict):
        yield from _jaxprs(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _jaxprs(item)


def _dot(equation: Any) -> int:
    """2 · batch · m · n · k: each element of the output sums over k."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    (x, _), (out,) = _shapes(equation)
    return 2 * math.prod(out) * math.prod(x[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    """2 · output · kernel rows · columns · input channels of a feature group."""
    (_, kernel), (out,) = _shapes(equation)
    filters = equation.params["dimension_numbers"].rhs_spec[0]
    return 2 * math.prod(out) * math.prod(n for i, n in enumerate(kernel) if i != filters)


def _own_convolution(equation: Any) -> int:
    """The same of `samop.models.conv`, whose kernel is [rows, columns, in, out]."""
    (_, kernel), (out,) = _shapes(equation)
    return 2 * math.prod(out) * math.prod(kernel[:3])


def _shapes(equation: Any) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Of the inputs and of the outputs."""
    return [v.aval.shape for v in equation.invars], [v.aval.shape for v in equation.outvars]


PRODUCTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    conv_p.name: _own_convolution,
}
ENDLESS = {"while": "while_loop", "pallas_call": "Pallas kernel"}
