"""What is measured of a run's curvature, as a row of its `curvature.jsonl`.

`config.curvature.what`, and of the trained network `what_end` too, names, all of the training loss
with running averages (BatchNorm) on a fixed subset of the training examples with the labels that
they were trained on:
- "eigenvalues": λ_max and the k largest, with residuals;
- "negative": λ_min, to a hundredth of `tol`, since it is small beside λ_max;
- "trace": tr H with its standard error;
- "moments": the non-uniformities s_k of single-example Hessians, for each of `orders`;
- "ggn": λ_max, trace and s_k of the Gauss–Newton matrix;
- "density": quadrature nodes and weights of the spectrum;
- "layers": λ_max of each layer;  "sharpness": worst-case and average sharpness at radius `rho`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop import hessian, theory, trees
from samop.data import sampling, splits
from samop.errors import NotFinite, UserError
from samop.hessian.estimate import Estimate
from samop.hessian.sharpness import layer_blocks
from samop.workloads import Workload

PyTree = Any
Row = dict[str, Any]
_ORDER_SEED = 20212  # a constant: which training examples are looked at never varies
CHUNK = 500  # examples that a product has in memory


class Losses(NamedTuple):
    """A workload's loss as functions of {"params", "state"}; kept, so that each compiles once."""

    loss: Any
    model: Any
    criterion: Any


@functools.lru_cache(maxsize=64)
def losses(workload: Workload) -> Losses:
    """The mean loss of a workload in evaluation mode, and its two parts."""

    def model(variables, batch):
        return workload.apply(variables["params"], variables["state"], batch, None, False)[0]

    def criterion(outputs, batch):
        return workload.means(outputs, batch)["loss"]

    return Losses(
        lambda variables, batch: criterion(model(variables, batch), batch), model, criterion
    )


def check(config: Mapping[str, Any], workload: Workload, parameters: int) -> None:
    """Raises UserError where the run cannot be measured as its config asks."""
    if workload.splits is None:
        raise UserError(
            f"curvature.every={config['curvature']['every']!r}: data.name="
            f"{config['data']['name']!r} has no fixed examples in memory to measure on: use ''"
        )
    fields, n = config["curvature"], workload.count
    if fields["examples"] > n:
        raise UserError(
            f"curvature.examples={fields['examples']} is more than the {n} training examples"
        )
    if fields["k"] > parameters:
        raise UserError(f"curvature.k={fields['k']} is more than the {parameters} parameters")
    params, model_state = workload.init(jnp.uint32(0))
    variables = {"params": params, "state": model_state}
    batch = batch_of(config, workload, workload.splits.train.y)
    hessian.check_separable(losses(workload).loss, variables, batch)


def batch_of(config: Mapping[str, Any], workload: Workload, labels: Any) -> PyTree:
    """The examples to measure on, as one batch, with these training labels [n]."""
    assert workload.splits is not None
    n = workload.count
    some = config["curvature"]["examples"] or n
    index = np.sort(splits.permutation(n, _ORDER_SEED)[:some])
    taken = [
        jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[index]), part)
        for part in (workload.splits.train.x, labels)
    ]
    return workload.weighed(workload.batch(*taken, None, None))


def measure(
    config: Mapping[str, Any],
    workload: Workload,
    params: PyTree,
    model_state: PyTree,
    batch: PyTree,
    key: jax.Array,
    last: bool,
) -> Row:
    """One row, without its step. A network whose loss is not finite gives values of None.

    Args:
      config: the run's; its section `curvature` says what.
      workload: see `samop.workloads`.
      params, model_state: the network.
      batch: what `batch_of` returned.
      key: of everything random.
      last: whether the network is the trained one, so that `what_end` is measured too.
    """
    fields = config["curvature"]
    functions, variables = losses(workload), {"params": params, "state": model_state}
    value = float(_value(functions.loss, variables, batch))
    row: Row = {
        "examples": hessian.examples(batch),
        "parameters": trees.size(params),
        "loss": value,
    }
    words = dict.fromkeys([*fields["what"], *(fields["what_end"] if last else ())])
    if not np.isfinite(value):
        return row | {name: None for word in words for name in names(word, fields)}
    subject = Subject(functions, variables, batch)
    for word in words:
        own = jax.random.fold_in(key, WORDS.index(word))
        try:
            row |= MEASURES[word](fields, subject, own)
        except NotFinite:
            # Of a finite loss the derivatives are not: the record says so, and the run goes on.
            row |= dict.fromkeys(names(word, fields))
    return row


def _params(path: tuple[str, ...], leaf: Any) -> bool:
    return path[0] == "params"


# Of every operator; `check` looks at the loss, once.
OPTIONS: dict[str, Any] = {"where": _params, "check": False}


class Subject:
    """A network and the examples it is measured on; what several measures need is made once."""

    def __init__(self, functions: Losses, variables: PyTree, batch: PyTree):
        self.functions = functions
        self.variables = jax.tree.map(jnp.asarray, variables)
        self.examples = len(jax.tree.leaves(batch)[0])
        self.batches = hessian.stack(batch, min(self.examples, CHUNK))

    @functools.cached_property
    def hessian(self) -> hessian.Operator:
        """Of the loss in the parameters."""
        return hessian.hessian(self.functions.loss, self.variables, self.batches, **OPTIONS)


def names(word: str, fields: Mapping[str, Any]) -> list[str]:
    """The names that a word of `what` records where there is nothing to measure."""
    moments = [name for k in fields["orders"] for name in _named(f"s{k}")]
    ggn = [*_named("ggn_lambda_max"), "ggn_trace", "ggn_trace_se", *(f"ggn_{m}" for m in moments)]
    return {
        "eigenvalues": [*_named("lambda_max"), "eigenvalues", "eigenvalue_residuals"],
        "negative": _named("lambda_min"),
        "trace": ["trace", "trace_se"],
        "moments": moments,
        "ggn": ggn,
        "density": ["density_nodes", "density_weights", "density_probes"],
        "layers": [],
        "sharpness": [
            "sharpness_examples",
            *(f"{name}{se}" for name in _AROUND for se in ("", "_se")),
        ],
    }[word]


_VALUE = ("", "_residual", "_converged")
_AROUND = ("worst_case", "worst_case_adaptive", "average", "average_adaptive")


def _named(name: str) -> list[str]:
    return [name + suffix for suffix in _VALUE]


def _eigenvalues(fields, subject, key) -> Row:
    found = _top(subject.hessian, fields, key, k=fields["k"])
    return {
        **_value_of("lambda_max", found),
        "eigenvalues": [float(x) for x in found.values],
        "eigenvalue_residuals": [float(x) for x in found.residuals],
    }


def _negative(fields, subject, key) -> Row:
    # Small beside λ_max, of which the tolerance is a share.
    finer = {**fields, "tol": max(fields["tol"] / 100, 2e-6)}
    return _value_of("lambda_min", _top(subject.hessian, finer, key, k=1, which="SA"))


def _trace(fields, subject, key) -> Row:
    op = subject.hessian
    found = hessian.trace(op, key=key, num_samples=fields["probes"])
    return _estimate("trace", found)


def _moments(fields, subject, key) -> Row:
    args = (subject.functions.loss, subject.variables, subject.batches)
    found = hessian.hessian_moments(*args, **_moment_options(fields, key))
    return roots("s", found)


def _ggn(fields, subject, key) -> Row:
    functions = subject.functions
    args = (functions.model, functions.criterion, subject.variables, subject.batches)
    op = hessian.ggn(*args, **OPTIONS)
    trace = hessian.trace(op, key=jax.random.fold_in(key, 1), num_samples=fields["probes"])
    found = hessian.ggn_moments(*args, **_moment_options(fields, key))
    return {
        **_value_of("ggn_lambda_max", found.a),
        **_estimate("ggn_trace", trace),
        **roots("ggn_s", found),
    }


def _density(fields, subject, key) -> Row:
    found = hessian.spectral_density(
        subject.hessian,
        key=key,
        num_probes=fields["density_probes"],
        num_steps=fields["density_steps"],
    )
    return {
        "density_nodes": [float(x) for x in found.nodes.reshape(-1)],
        "density_weights": [float(x) for x in found.weights.reshape(-1)],
        "density_probes": len(found.nodes),
    }


def _layers(fields, subject, key) -> Row:
    row: Row = {}
    for name, block in layer_blocks(subject.hessian):
        layer = name.removeprefix("params/")
        row |= _value_of(f"lambda_max:{layer}", _top(block, fields, key, k=1))
    return row


def _sharpness(fields, subject, key) -> Row:
    found = hessian.sharpness_at_radius(
        subject.functions.loss,
        subject.variables,
        subject.batches,
        key=key,
        rho=fields["rho"],
        m=min(128, max(1, subject.examples // 2)),  # two subsets at least
        **OPTIONS,
    )
    row: Row = {"sharpness_examples": found.examples}
    for name in _AROUND:
        row |= _estimate(name, getattr(found, name))
    return row


MEASURES = {
    "eigenvalues": _eigenvalues,
    "negative": _negative,
    "trace": _trace,
    "moments": _moments,
    "ggn": _ggn,
    "density": _density,
    "layers": _layers,
    "sharpness": _sharpness,
}


WORDS = tuple(MEASURES)


def key_of(seed: int, step: int) -> jax.Array:
    """The key of a run's measurements after a step."""
    return jax.random.fold_in(sampling.stream(np.uint32(seed), sampling.CURVATURE), step)


def stability(
    config: Mapping[str, Any],
    workload: Workload,
    params: PyTree,
    model_state: PyTree,
    batch: PyTree,
    key: jax.Array,
    *,
    eta: float,
    rho: float,
) -> tuple[list[theory.Criterion], Row, bool]:
    """The criteria of linear stability at a rate and radius, the moments as a row, and whether all
    eigenvalues behind them converged.

    A step sees a batch. Of batches of more than one example only the second moment follows from
    that of examples, so the criteria that need higher ones are left out. Arguments as for
    `measure`.
    """
    functions, variables = losses(workload), {"params": params, "state": model_state}
    subject = Subject(functions, variables, batch)
    fields, size = config["curvature"], config["train"]["batch_size"]
    orders = (2, 3, 4) if size == 1 else (2,)
    options = {**_moment_options(fields, jax.random.fold_in(key, len(WORDS))), "orders": orders}
    args = (functions.loss, subject.variables, subject.batches)
    if size == 1:
        options |= {"eta": eta, "rho": rho}
    found = hessian.hessian_moments(*args, **options)
    share = theory.of_batches(workload.count, size)
    h_rho_m2 = found.h_rho_m2 or _shifted(subject, fields, key, rho, share)
    scale = dict.fromkeys(orders, share ** (1 / 2) if size > 1 else 1.0)
    eigenvalues = {"a": found.a, "h_rho_m2": h_rho_m2, "contraction": found.contraction}
    there = {name: x for name, x in eigenvalues.items() if x is not None}
    errors: dict[str | int, float] = {n: float(x.residuals[0]) for n, x in there.items()}
    errors |= {k: scale[k] * root.residual for k, root in found.s.items()}
    criteria = theory.stability(
        eta,
        rho,
        float(found.a.values[0]),
        {k: scale[k] * root.value for k, root in found.s.items()},
        h_rho_m2=float(h_rho_m2.values[0]),
        contraction=float(found.contraction.values[0]) if found.contraction else None,
        errors=errors,
    )
    everything = [*there.values(), *(root.eigenvalue for root in found.s.values())]
    return criteria, roots("s", found), all(x.converged for x in everything)


def _shifted(subject, fields, key, rho, share):
    """λ_max(H + ρM₂) of batches: their M₂ is H² + share · (M₂ − H²) of single examples."""
    args = (subject.functions.loss, subject.variables, subject.batches)
    op = subject.hessian
    second = hessian.moment_operator(*args, (0.0, 0.0, 1.0), **OPTIONS)

    def product(v):
        once = op(v)
        return jax.tree.map(
            lambda h, hh, m: h + rho * ((1 - share) * hh + share * m), once, op(once), second(v)
        )

    moved = dataclasses.replace(op, fn=None, host=product) if rho else op
    return _top(moved, fields, jax.random.fold_in(key, len(WORDS) + 1), k=1)


def _top(op, fields, key, **kwargs):
    limits = {"tol": fields["tol"], "max_matvecs": fields["max_matvecs"]}
    return hessian.top_eigenvalues(op, key=key, **limits, **kwargs)


def _moment_options(fields, key):
    options = {name: fields[name] for name in ("orders", "tol", "max_matvecs")}
    return {**options, "key": key, **OPTIONS}


def _value_of(name: str, found: hessian.Eigenvalues) -> Row:
    return {
        name: float(found.values[0]),
        f"{name}_residual": float(found.residuals[0]),
        f"{name}_converged": found.converged,
    }


def roots(name: str, found: hessian.Moments) -> Row:
    """The non-uniformities as a row: `name` + k, with residual and whether it converged."""
    row: Row = {}
    for k, root in found.s.items():
        values = (root.value, root.residual, root.converged)
        row |= {f"{name}{k}{suffix}": value for suffix, value in zip(_VALUE, values)}
    return row


def _estimate(name: str, found: Estimate) -> Row:
    return {name: found.value, f"{name}_se": found.std_error}


@functools.partial(jax.jit, static_argnums=0)
def _value(loss, variables, batch):
    return loss(variables, batch)
