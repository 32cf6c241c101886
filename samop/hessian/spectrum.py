"""Spectral density by stochastic Lanczos quadrature (arXiv 1901.10159), with its spread."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from samop.hessian import draws
from samop.hessian.estimate import Estimate, at_least, jackknife, mean
from samop.hessian.krylov import Krylov
from samop.hessian.operators import operator_of

PyTree = Any


class Density(NamedTuple):
    """A quadrature rule per random vector: P · Σ wᵢ f(θᵢ) estimates tr f(H).

    Attributes:
      nodes: [probes, steps] Ritz values.
      weights: [probes, steps], each row sums to one.
      size: P, dimension of H.
      num_matvecs: products taken.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int
    num_matvecs: int

    def on(self, grid: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        """The density smoothed by a Gaussian, and its standard error over probes.

        Args:
          grid: [points], eigenvalues at which.
          width: standard deviation of the Gaussian, in units of the eigenvalues.

        Returns:
          Two arrays [points]; the first integrates to one.
        """
        z = (np.asarray(grid)[:, None, None] - self.nodes) / width
        kernel = np.exp(-0.5 * z**2) / (width * np.sqrt(2 * np.pi))
        each = np.sum(self.weights * kernel, -1)
        n = each.shape[1]
        error = each.std(1, ddof=1) / np.sqrt(n) if n > 1 else np.full(len(each), np.nan)
        return each.mean(1), error

    def expectation(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """tr f(H) for a function of eigenvalues, elementwise on arrays."""
        each = self.size * np.sum(self.weights * function(self.nodes), 1)
        return mean(each, self.num_matvecs, "lanczos quadrature")

    def effective_rank(self) -> Estimate:
        """exp of the entropy of |λ| / Σ|λ| (Roy and Vetterli, 2007), between 1 and P."""
        a = np.abs(self.nodes)
        logs = np.log(np.where(a > 0, a, 1))
        sums = [self.size * np.sum(self.weights * x, 1) for x in (a, a * logs)]

        def rank(means):
            total, weighted = means
            return np.exp(np.log(total) - weighted / total) if total > 0 else 0.0

        return jackknife(rank, np.stack(sums, 1), self.num_matvecs, "lanczos quadrature")


def spectral_density(
    loss_fn: Any,
    params: PyTree = None,
    batches: Any = None,
    *,
    key: jax.Array,
    num_probes: int = 8,
    num_steps: int = 64,
    **options: Any,
) -> Density:
    """The density of a Hessian's eigenvalues.

    Args:
      loss_fn, params, batches: a loss, see `samop.hessian`; or an operator alone.
      key: of the random vectors.
      num_probes: random vectors; their spread is the error of whatever is read off.
      num_steps: Lanczos steps of each, and vectors in memory; at most P are taken. A rule with m
        steps is exact for polynomials of degree 2m − 1.
      **options: see `samop.hessian.Options`.

    Raises:
      UserError: impossible arguments, or a product that is not finite.
    """
    op = operator_of(loss_fn, params, batches, options)
    at_least("num_probes", num_probes, 1)
    at_least("num_steps", num_steps, 1)
    steps = min(num_steps, op.size)
    nodes, weights = np.zeros((2, num_probes, steps))
    for i in range(num_probes):
        start, other = (jax.random.fold_in(key, j) for j in (i, num_probes + i))
        krylov = Krylov(op, draws.signs(start, op.like), steps, other)
        for _ in range(steps):
            krylov.step()
        values, coefficients, _ = krylov.ritz()
        nodes[i], weights[i] = values, coefficients[0] ** 2
    return Density(nodes, weights, op.size, num_probes * steps)
