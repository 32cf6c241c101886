"""One minimum, from its gradients: everything linear stability says of it, beside the bounds.

Of a network with one output under ½(f − y)² where it interpolates, so that H_i = g_i g_iᵀ with g_i
the gradient of the output; one example a step. All in the span of the g_i.
"""

import numpy as np

from samop.errors import UserError
from samop.theory import bounds, exact, inputs
from samop.theory import moments as powers
from samop.theory.directions import rank_one_worst_direction
from samop.theory.simulate import lyapunov
from samop.theory.stability import Criterion, stability

INTERPOLATES = 1e-3  # mean of ½(f − y)² below which a minimum may be called interpolating
EPOCHS = 200  # of the path whose Lyapunov exponent is measured


def check_interpolates(residuals: np.ndarray) -> float:
    """The mean of ½(f − y)² of residuals `[n]`.

    Raises:
      UserError: it is not finite, or above `INTERPOLATES`: where the gradients do not vanish the
        point is no fixed point of a step, and linear stability says nothing of it.
    """
    loss = float(np.mean(np.square(np.asarray(residuals, np.float64))) / 2)
    if not np.isfinite(loss):
        raise UserError("the run diverged: its training loss is not finite")
    if loss > INTERPOLATES:
        raise UserError(
            f"the network does not interpolate: its training loss is {loss:.2g}, more than "
            f"{INTERPOLATES:g}"
        )
    return loss


def criteria(gradients: np.ndarray, eta: float, rho: float) -> list[Criterion]:
    """Every criterion of `stability`, at g_i `[n, d]`.

    Raises:
      UserError: arguments out of range, or a radius that does not converge.
    """
    g = exact.span(gradients)
    m = powers.rank_one_moments(g)
    found = exact.rank_one_radius(g, eta, rho)
    if not found.converged:
        raise UserError(
            f"the spectral radius was not found: {found.value:.9g} with residual "
            f"{found.residual:.1g}"
        )
    return stability(
        eta,
        rho,
        powers.top(m[0]),
        powers.nonuniformities(m),
        h_rho_m2=powers.top(m[0] + rho * m[1]),
        contraction=powers.contraction(m, eta, rho),
        variance=powers.variance(m, rho),
        radius=found.value,
        direction=rank_one_worst_direction(g, eta, rho).value,
        errors={"radius": found.residual},
    )


def edges(gradients: np.ndarray, eta: float, rho: float) -> dict[str, float]:
    """The multiple of η and ρ at which each criterion breaks; of a stable minimum above 1.

    Args:
      gradients: g_i `[n, d]`.
      eta, rho: learning rate and radius, whose ratio is kept.

    Returns:
      "sufficient" ≤ "exact" ≤ "necessary" (λ_max(H + ρM₂) ≤ 2/η) ≤ "a" (a(1 + ρa) ≤ 2/η).
    """
    inputs.rates(eta, rho)
    g = exact.span(gradients)
    m = powers.rank_one_moments(g)
    # E[B²] ⪯ I is N(t) ⪯ 2H with N(t) = t(η − 2ρ)M₂ + …; in the basis where H is the identity. The
    # columns of a span are orthogonal, so H is diagonal, its small entries as exact as the large.
    root = np.sqrt(np.diagonal(m[0]))
    whiten = np.outer(1 / root, 1 / root)

    def sufficient(t):
        rest = t * (eta - 2 * rho) * m[1] + 2 * t**2 * eta * rho * m[2] + t**3 * eta * rho**2 * m[3]
        return powers.top(whiten * rest) / 2

    return {
        "sufficient": exact.edge(sufficient),
        "exact": exact.edge(lambda t: exact.rank_one_noise_ratio(g, t * eta, t * rho)),
        "necessary": exact.edge(lambda t: t * eta * powers.top(m[0] + t * rho * m[1]) / 2),
        "a": bounds.largest_a(eta, rho) / powers.top(m[0]),
    }


def judge(gradients: np.ndarray, residuals: np.ndarray, eta: float, rho: float) -> dict:
    """A row: what is measured of a minimum, and each bound.

    Args:
      gradients: of the output in the parameters, `[n, d]`.
      residuals: f − y, `[n]`.
      eta, rho: what it was trained with; 0 for SGD.

    Returns:
      "loss"; "rank" of the span; "a", "s2", …, "radius", "contraction", "direction", "variance",
      "noise_ratio", "lyapunov" (see `simulate`), "largest_step" (the largest η‖g_i‖²(1 +
      ρ‖g_i‖²)), "edge_…", "…_bound".

    Raises:
      UserError: the network does not interpolate, or what `criteria` raises.
    """
    loss = check_interpolates(residuals)
    found = {c.name: c for c in criteria(gradients, eta, rho)}
    g = exact.span(gradients)
    squares = np.einsum("ij,ij->i", g, g)

    def by(start: str) -> Criterion:
        return next(c for name, c in found.items() if name.startswith(start))

    radius = by("radius")
    row = {
        "loss": loss,
        "rank": g.shape[1],
        "largest_step": float(np.max(eta * squares * (1 + rho * squares))),
        "a": by("a ≤").value,
        **{f"s{k}": v for k, v in powers.nonuniformities(powers.rank_one_moments(g)).items()},
        "radius": radius.value,
        "radius_residual": radius.error,
        "noise_ratio": exact.rank_one_noise_ratio(g, eta, rho),
        "contraction": by("λ_max(E[B²])").value - 1,
        "direction": by("η E").value,
        "lyapunov": lyapunov(g, eta, rho, epochs=EPOCHS, rng=np.random.default_rng(0)),
        "variance": by("λ_max(E[A²]").value,
        **{f"edge_{name}": t for name, t in edges(g, eta, rho).items()},
        "a_bound": bounds.largest_a(eta, rho),
        "s2_best_bound": bounds.best_s2(eta, rho),
        "s2_sharper_bound": by("s₂ ≤ sharper").bound,
        "variance_bound": bounds.variance(eta),
    }
    # Where what a bound assumes is not met there is none.
    best_s3 = bounds.best_s3_holds(eta, rho)
    row["s3_best_bound"] = bounds.best_s3(eta, rho) if best_s3 else np.nan
    for k in (2, 3, 4):
        holds = bounds.paper_holds(k, eta, rho)
        row[f"s{k}_paper_bound"] = bounds.paper(k, eta, rho) if holds else np.nan
    return row
