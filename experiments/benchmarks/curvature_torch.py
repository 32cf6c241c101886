"""The PyTorch side of curvature.py: eigenvalues by the peers."""

import itertools
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch_models import channels_first, copy_weights, leaf_of

PyTree = Any
Vector = list[torch.Tensor]  # in the order of the model's parameters


class Answer(NamedTuple):
    """Largest eigenvalues as one side found them.

    Attributes:
      values: [k], descending.
      vectors: k of them, each of norm one up to rounding, as numpy arrays in PyTorch's order.
      products: Hessian-vector products.
    """

    values: np.ndarray
    vectors: list[list[np.ndarray]]
    products: int


class Twin(NamedTuple):
    """A network and its examples in PyTorch, in evaluation mode.

    Attributes:
      model: with the weights of samop's.
      x: [n, ...], channels first.
      y: [n].
      size: examples a batch.
    """

    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    size: int

    def batches(self, size: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The examples in batches."""
        return list(zip(self.x.split(size or self.size), self.y.split(size or self.size)))

    def loss(self) -> float:
        """Mean cross-entropy."""
        with torch.no_grad():
            losses = [
                nn.functional.cross_entropy(self.model(x), y, reduction="sum")
                for x, y in self.batches()
            ]
        return float(sum(losses)) / len(self.y)


def twin(model: nn.Module, variables: PyTree, batch: dict[str, Any], size: int) -> Twin:
    """Gives a model samop's weights and examples.

    Args:
      model: one of this file.
      variables: of flax, "params" and perhaps "batch_stats".
      batch: "x" [n, ...], channels last, and "y" [n].
      size: examples a batch.
    """
    copy_weights(model, variables)
    x, y = channels_first(np.asarray(batch["x"])), torch.tensor(np.asarray(batch["y"])).long()
    return Twin(model.eval(), x, y, size)


def in_torch_order(model: nn.Module, tree: PyTree) -> list[np.ndarray]:
    """A pytree of samop's parameters as the model's list."""
    return [leaf_of(tree, name) for name, _ in model.named_parameters()]


def curvlinops(this: Twin, k: int, tol: float) -> Callable[[], Answer]:
    """k eigenvalues by curvlinops's operator and SciPy's `eigsh`, a new start for each call."""
    params = list(this.model.parameters())
    # Built, and its data tested, outside of the time: in favour of the peer.
    operator = HessianLinearOperator(
        this.model, nn.CrossEntropyLoss(), params, this.batches()
    ).to_scipy()
    seeds = itertools.count()

    def solve() -> Answer:
        products = itertools.count()

        def counted(v: np.ndarray) -> np.ndarray:
            next(products)
            return operator.matvec(v)

        linear = LinearOperator(operator.shape, counted, dtype=np.float64)
        start = np.random.default_rng(next(seeds)).standard_normal(operator.shape[0])
        values, vectors = eigsh(linear, k=k, which="LA", tol=tol, v0=start)
        ends = np.cumsum([p.numel() for p in params])[:-1]
        lists = [np.split(v, ends) for v in vectors.T[::-1]]
        shaped = [[a.reshape(p.shape) for a, p in zip(v, params)] for v in lists]
        return Answer(values[::-1], shaped, next(products))

    return solve


def pyhessian(this: Twin, k: int) -> Callable[[], Answer]:
    """k eigenvalues by PyHessian's power iteration, with its own number of steps and tolerance.

    All examples are one batch: it then keeps the gradient's graph, and a product is a backward pass
    through it, faster than with batches.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its own imports say of PyTorch
        import pyhessian

    # The class has the name of the module it is in, and hides it.
    inside = sys.modules["pyhessian.hessian"]
    product = inside.hessian_vector_product

    def solve() -> Answer:
        products = itertools.count()

        def counted(*arguments: Any) -> Any:
            next(products)
            return product(*arguments)

        with (
            warnings.catch_warnings(),
            mock.patch.object(inside, "hessian_vector_product", counted),
        ):
            warnings.simplefilter("ignore")  # backward() with create_graph leaks
            one = pyhessian.hessian(
                this.model, nn.CrossEntropyLoss(), data=(this.x, this.y), cuda=False
            )
            values, vectors = one.eigenvalues(top_n=k)
        this.model.zero_grad()
        arrays = [[x.numpy() for x in v] for v in vectors]
        return Answer(np.array(values), arrays, next(products))

    return solve


def residuals(this: Twin, answer: Answer, dtype: torch.dtype) -> np.ndarray:
    """‖Hv − θv‖ / θ₁ of each pair, [k], by PyTorch's own double backward in `dtype`."""
    model = this.model.to(dtype)
    params = list(model.parameters())
    found = []
    vectors = [[torch.tensor(x, dtype=dtype) for x in v] for v in answer.vectors]
    vectors = [[x / norm(v) for x in v] for v in vectors]
    products = [[torch.zeros_like(p) for p in params] for _ in vectors]
    for x, y in this.batches():
        loss = nn.functional.cross_entropy(model(x.to(dtype)), y) * (len(y) / len(this.y))
        grads = torch.autograd.grad(loss, params, create_graph=True)
        for v, total in zip(vectors, products):
            for t, h in zip(total, torch.autograd.grad(grads, params, v, retain_graph=True)):
                t += h
    for value, v, product in zip(answer.values, vectors, products):
        found.append(norm([h - float(value) * x for h, x in zip(product, v)]))
    this.model.to(torch.float32)
    return np.array(found) / answer.values[0]


def norm(v: Vector) -> float:
    """Euclidean norm."""
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x) for x in v])))
