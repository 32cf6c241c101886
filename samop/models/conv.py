"""A convolution with derivatives of its own, for XLA:CPU.

XLA:CPU has one fast kernel, for a plain convolution; what jax's transposition rules make of its
gradients misses it. Inside a loop, and an epoch is one `lax.scan`, they run by naive code (jax
issue 12868): on two cores, 128 images of 32×32 and 16 filters, 3.5 ms forward, 77 ms for the
gradient in the input, 910 ms for the one in the kernel. A convolution is bilinear, and so are both
gradients; here it is a primitive whose two transposes say how: the one in the input as a plain
convolution again (3.3 ms), the one in the kernel by matrix products (4 to 8 ms).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Places of an output that one matrix product takes together, so that what it gathers of them stays
# in the caches: with 4 to 32 filters 1.3 to 4 times faster than all at once.
ROWS = 8192
FEW_CHANNELS = 4  # so few are faster gathered than by the plain kernel

Pair = tuple[int, ...]  # of rows and of columns
Pads = tuple[tuple[int, int], ...]


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    precision: Any,
) -> jax.Array:
    """What `flax.linen.Conv` calls; plain two-dimensional convolutions get `conv` on a CPU.

    x [batch, height, width, in], kernel [height, width, in, out]. Everything else (another
    backend, dilation, groups, a precision) goes to `lax.conv_general_dilated` unchanged.
    """
    plain = (
        jax.default_backend() == "cpu"
        and x.ndim == 4
        and set(lhs_dilation) == set(rhs_dilation) == {1}
        and feature_group_count == 1
        and precision is None
        and lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers)
        == lax.conv_dimension_numbers(x.shape, kernel.shape, DIMENSIONS)
    )
    if not plain:
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return conv(x, kernel, tuple(strides), tuple((before, after) for before, after in padding))


def conv(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """Two-dimensional convolution, to be differentiated, vmapped and transposed as often as wanted.

    Args:
      x: [batch, height, width, in].
      kernel: [rows, columns, in, out].
      strides: of rows and columns.
      pads: (before, after) for rows and columns, zeros.

    Returns:
      [batch, height', width', out]. Under `jit` with a batch sharded over devices the gradient in
      the kernel gathers the batch on each of them; under `shard_map` it does not.

    Raises:
      TypeError: channels or dtypes of the two that differ.
    """
    if x.shape[3] != kernel.shape[2] or x.dtype != kernel.dtype:
        raise TypeError(
            f"x {x.dtype}{list(x.shape)} and kernel {kernel.dtype}{list(kernel.shape)} should have "
            "the same channels (last of x, third of kernel) and dtype"
        )
    if 0 in _shape(x, kernel, strides=strides, pads=pads):
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMENSIONS)
    # Inside of a shard_map both vary over the axes that either varies over, as lax's own do.
    axes = _varying_over(x) | _varying_over(kernel)
    if axes:
        x, kernel = (
            lax.pcast(a, tuple(axes - _varying_over(a)), to="varying") for a in (x, kernel)
        )
    return conv_p.bind(x, kernel, strides=strides, pads=pads)


def _varying_over(x: jax.Array) -> frozenset[str]:
    """Mapped axes over which an array differs from device to device."""
    aval: Any = jax.typeof(x)
    kind = getattr(aval, "manual_axis_type", None)  # jax 0.10; "vma" before
    return aval.vma if kind is None else kind.varying


def forward(x: jax.Array, kernel: jax.Array, *, strides: Pair, pads: Pads) -> jax.Array:
    """What `conv` compiles to."""
    if x.shape[3] > FEW_CHANNELS:
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMENSIONS)
    product = functools.partial(gathered, kernel=kernel, strides=strides, pads=pads)
    return _mapped(product, x, _images(_shape(x, kernel, strides=strides, pads=pads)))


def gathered(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The same convolution as one matrix product of `windows`."""
    return windows(x, kernel.shape[:2], strides, pads) @ kernel.reshape(-1, kernel.shape[3])


def windows(x: jax.Array, size: Sequence[int], strides: Pair, pads: Pads) -> jax.Array:
    """What the kernel sees at each place: [batch, height', width', rows · columns · in]."""
    x = _padded(x, *pads)
    rows, columns = ((n - k) // s * s + 1 for n, k, s in zip(x.shape[1:3], size, strides))
    parts = [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(size[0])
        for j in range(size[1])
    ]
    return jnp.concatenate(parts, -1)


def _padded(x: jax.Array, rows: Pair, columns: Pair) -> jax.Array:
    """Zeros before and after rows and columns; negative ones cut."""
    sides = ((before, after, 0) for before, after in ((0, 0), rows, columns, (0, 0)))
    return lax.pad(x, jnp.zeros((), x.dtype), list(sides))


def in_input(ct: jax.Array, x: Any, kernel: jax.Array, *, strides: Pair, pads: Pads) -> jax.Array:
    """Transpose in the input: of stride one a convolution with the kernel turned around."""
    size = kernel.shape[:2]
    around = tuple((k - 1 - before, k - 1 - after) for k, (before, after) in zip(size, pads))
    if strides == (1, 1) and min(map(min, around)) >= 0:
        return conv(ct, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), strides, around)
    shape = x.aval.shape

    def back(ct):
        image = jax.ShapeDtypeStruct((len(ct), *shape[1:]), ct.dtype)
        product = functools.partial(gathered, kernel=kernel, strides=strides, pads=pads)
        return jax.linear_transpose(product, image)(ct)[0]

    return _mapped(back, ct, _images(ct.shape))


def in_kernel(ct: jax.Array, x: jax.Array, kernel: Any, *, strides: Pair, pads: Pads) -> jax.Array:
    """Transpose in the kernel, as products of matrices with a row for each place.

    With stride one a place of the kernel, row i and column j, joins x moved by j columns with ct
    moved by i rows. So x in all its moves by columns, times ct in all its moves by rows, is every
    place at once, and copies rows + columns times where windows copy rows · columns.
    """
    rows, columns, channels, filters = kernel.aval.shape
    if strides == (1, 1):
        moved = functools.partial(_moved, size=(rows, columns), pads=pads)
        product = _summed(lambda x, ct: _outer(*moved(x, ct)), x, ct, _images(x.shape))
        product = product.astype(x.dtype)
        return product.reshape(columns, channels, rows, filters).transpose(2, 0, 1, 3)
    seen = functools.partial(windows, size=(rows, columns), strides=strides, pads=pads)
    product = _summed(lambda x, ct: _outer(seen(x), ct), x, ct, _images(ct.shape))
    return product.astype(x.dtype).reshape(rows, columns, channels, filters)


def _moved(x: jax.Array, ct: jax.Array, *, size: Pair, pads: Pads) -> tuple[jax.Array, jax.Array]:
    """x in all its moves by columns and ct in all its moves by rows, for a stride of one."""
    (rows, columns), height, width = size, x.shape[1], ct.shape[2]
    x = _padded(x, (0, 0), pads[1])
    ct = _padded(ct, (rows - 1 - pads[0][0], rows - 1 - pads[0][1]), (0, 0))
    return (
        jnp.concatenate([x[:, :, j : j + width] for j in range(columns)], -1),
        jnp.concatenate([ct[:, rows - 1 - i :][:, :height] for i in range(rows)], -1),
    )


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """aᵀb over all axes but the last, in single precision at least: it is one of many summands."""
    places, wide = tuple(range(a.ndim - 1)), jnp.promote_types(a.dtype, jnp.float32)
    return jnp.tensordot(a, b, (places, places), preferred_element_type=wide)


def _images(shape: Sequence[int]) -> int:
    """Images of [batch, height, width, ...] that have about `ROWS` places."""
    return max(1, ROWS // (shape[1] * shape[2]))


def _cut(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """[n, ...] → [n // size, size, ...] and what remains."""
    whole = len(x) // size * size
    return x[:whole].reshape(-1, size, *x.shape[1:]), x[whole:]


def _mapped(fn: Callable[[jax.Array], jax.Array], x: jax.Array, size: int) -> jax.Array:
    """fn(x), so many of its examples at a time."""
    if len(x) <= size:
        return fn(x)
    parts, rest = _cut(x, size)
    done = lax.map(fn, parts)
    done = done.reshape(-1, *done.shape[2:])
    return jnp.concatenate([done, fn(rest)]) if len(rest) else done


def _summed(fn: Callable[..., jax.Array], a: jax.Array, b: jax.Array, size: int) -> jax.Array:
    """fn(a, b), which is a sum over examples, so many of them at a time."""
    if len(a) <= size:
        return fn(a, b)
    (parts_a, rest_a), (parts_b, rest_b) = _cut(a, size), _cut(b, size)
    first = fn(rest_a, rest_b)  # of no examples: zeros
    return lax.scan(lambda sum, z: (sum + fn(*z), None), first, (parts_a, parts_b))[0]


def _shape(x: Any, kernel: Any, *, strides: Pair, pads: Pads) -> tuple[int, ...]:
    """Shape of the convolution."""
    dims = (
        max(0, (n + sum(pad) - k) // s + 1)
        for n, pad, k, s in zip(x.shape[1:3], pads, kernel.shape[:2], strides)
    )
    return (x.shape[0], *dims, kernel.shape[3])


def _batched(args: Sequence[jax.Array], dims: Sequence[int | None], **where: Any):
    """vmap: examples join the batch; kernels go one after another, never as a grouped one."""
    x, kernel = (a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims))
    if dims[1] is None:
        out = conv(x.reshape(-1, *x.shape[2:]), kernel, **where)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0
    if dims[0] is None:
        return lax.map(lambda k: conv(x, k, **where), kernel), 0
    return lax.map(lambda pair: conv(*pair, **where), (x, kernel)), 0


conv_p = Primitive("samop_conv")
conv_p.def_impl(jax.jit(forward, static_argnames=("strides", "pads")))
conv_p.def_abstract_eval(
    lambda x, kernel, **where: x.update(shape=_shape(x, kernel, **where), weak_type=False)
)
mlir.register_lowering(conv_p, mlir.lower_fun(forward, multiple_results=False))
ad.defbilinear(conv_p, in_input, in_kernel)
batching.primitive_batchers[conv_p] = _batched
