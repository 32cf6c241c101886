"""Variants chosen by a config: identity, refusals, budgets, and that each trains as promised."""

import jax
import numpy as np
import pytest
from small import first_epochs, grid, point, prepared

from samop import config as configs
from samop import records, sweep, validation, variants
from samop.errors import UserError


def same_run(a, b):
    return configs.canonical(a) == configs.canonical(b)


def test_a_default_that_is_written_out_is_the_same_run():
    for name, variant in variants.VARIANTS.items():
        plain = point(optimizer__name=name)
        for field, value in variant.own.items():
            assert same_run(plain, point(optimizer__name=name, **{f"optimizer__{field}": value}))


def test_what_a_variant_does_not_read_makes_no_other_run():
    other = {"alpha": 0.3, "k": 7, "sigma": 0.2, "gamma": 0.4, "eta": 0.5, "m_by": "vmap"}
    fields = {f"optimizer__{key}": value for key, value in other.items()}
    assert same_run(point(), point(**fields))
    assert not same_run(point(), point(optimizer__ascent_steps=2))
    adaptive = point(optimizer__ascent="adaptive", optimizer__eta=0.5)
    assert not same_run(adaptive, point(optimizer__ascent="adaptive"))
    assert same_run(point(optimizer__name="base"), point(optimizer__name="base", optimizer__m=8))


def test_a_field_that_no_run_reads_is_refused_with_the_reason():
    config = point(optimizer__eta=0.1)
    with pytest.raises(UserError, match=r"optimizer.eta=0.1 would be ignored: .*adaptive"):
        sweep.expand(config, {})
    with pytest.raises(UserError, match=r"optimizer.k=3 .*name='gsam' does not read it.*looksam"):
        sweep.expand(point(optimizer__name="gsam", optimizer__k=3), {})
    names = {"optimizer.name": ("base", "sam", "asam")}
    found = sweep.expand(config, names)
    etas = {p["optimizer"]["name"]: p["optimizer"]["eta"] for p in found}
    assert etas == {"base": -1.0, "sam": -1.0, "asam": 0.1}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "sma"}, "did you mean"),
        ({"m": 7}, "optimizer.m=7 does not divide train.batch_size=32"),
        ({"name": "looksam", "m": 8}, "use optimizer.m_by='vmap'"),
        ({"m": 8, "ascent": "random"}, "use optimizer.m_by='vmap'"),
        ({"m": 8, "end": 0.5}, "use optimizer.m_by='vmap'"),
        ({"start": 0.5, "end": 0.5}, "start < end"),
        ({"mask": "norm_layers"}, "has no normalisation layers"),
        ({"name": "wsam", "gamma": 1.0}, "optimizer.gamma=1.0"),
        ({"name": "looksam", "k": 0}, "optimizer.k=0"),
        ({"name": "esam", "beta": 0.0}, "optimizer.beta=0.0"),
        ({"ascent_steps": 0}, "optimizer.ascent_steps=0"),
        ({"rho": float("nan")}, "optimizer.rho=nan"),
        ({"rho": -1.0}, "optimizer.rho=-1.0"),
    ],
)
def test_wrong_combinations_are_refused(fields, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        point(**{f"optimizer__{key}": value for key, value in fields.items()})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer__name": "msam", "precision__params": "bfloat16"}, "cannot hold msam's"),
        (
            {
                "precision__compute": "bfloat16",
                "precision__second_pass": "compute",
                "train__diagnostics_every": 0,
            },
            "set train.diagnostics_every",
        ),
        ({"precision__loss_scale": 0.5}, "should be ≥ 1"),
        ({"precision__compute": "float8"}, "allowed: float32, bfloat16, float16"),
        ({"train__budget": "seconds"}, "allowed: epochs, grad_evals"),
        ({"optimizer__m": 8, "precision__loss_scale": 8.0}, "use optimizer.m_by='vmap'"),
    ],
)
def test_wrong_precision_and_budget_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        point(**fields)


def test_a_budget_of_gradient_evaluations_sets_the_epochs():
    wanted = {"base": 60, "sam": 30, "msam": 60, "looksam": 50, "gsam": 30}
    for name, epochs in wanted.items():
        fields = {"optimizer__name": name, "train__epochs": 60, "train__budget": "grad_evals"}
        assert configs.epochs(point(**fields)) == epochs
        assert configs.epochs(point(**fields | {"train__budget": "epochs"})) == 60
    half = point(train__epochs=60, train__budget="grad_evals", optimizer__start=0.5)
    assert configs.epochs(half) == 40
    thrice = point(train__epochs=60, train__budget="grad_evals", optimizer__ascent_steps=2)
    assert configs.epochs(thrice) == 20
    # A run keeps the words of its budget; where the two budgets are the same, it has none.
    assert not same_run(
        point(train__epochs=60, train__budget="grad_evals"), point(train__epochs=30)
    )
    for name in ("base", "msam"):
        budgets = [point(optimizer__name=name, train__budget=b) for b in ("epochs", "grad_evals")]
        assert same_run(*budgets)


def test_runs_at_equal_budget_have_equal_gradient_evaluations(tmp_path):
    names = ("base", "sam", "looksam", "msam")
    config = point(train__epochs=12, train__budget="grad_evals", data__train_size=160)
    plan = sweep.plan(config, {"optimizer.name": names})
    sweep.run(plan, tmp_path)
    ends = {}
    for name, p in plan.points.items():
        row = records.read_rows(tmp_path / "points" / name / "metrics.jsonl")[-1]
        ends[p["optimizer"]["name"]] = (row["epoch"], row["grad_evals"])
    assert ends == {"base": (12, 60), "sam": (6, 60), "looksam": (10, 60), "msam": (12, 60)}


def test_two_products_of_axes_make_the_union():
    products = [
        {"optimizer.name": ("base",), "seed": (0, 1)},
        {"optimizer.name": ("asam",), "optimizer.rho": (0.5, 1), "seed": (0, 1)},
    ]
    found = [
        (p["optimizer"]["name"], p["optimizer"]["rho"]) for p in sweep.expand(point(), products)
    ]
    assert found == [("base", 0.0)] * 2 + [("asam", 0.5)] * 2 + [("asam", 1.0)] * 2


def trained_state(rows, devices=1):
    return first_epochs(prepared(rows, devices), 1)


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "fields",
    [
        *({"name": name} for name in ("asam", "looksam", "fsam", "msam", "esam")),
        {"name": "sam", "m": 8},
        {"name": "sam", "m": 8, "m_by": "vmap", "ascent": "random"},
        {"name": "sam", "start": 0.3, "rho_schedule": "lr", "mask": "no_biases"},
        {"name": "wsam", "decoupled": True, "decay_in_ascent": True},
    ],
    ids=str,
)
def test_together_and_on_eight_devices_equal_one_by_one(fields, x64):
    config = point(
        data__train_size=160,
        optimizer__schedule="cosine",
        train__diagnostics_every=1,
        **{f"optimizer__{key}": value for key, value in fields.items()},
    )
    validation.validate(config)
    cells = [{"optimizer__rho": 0.0}, {"optimizer__rho": 0.2, "optimizer__lr": 0.05}]
    rows = grid(config, cells, (0, 1))
    together = trained_state(rows, devices=4)
    for i, alone in enumerate(c for row in rows for c in row):
        if i == 3:
            own = trained_state([[alone]])
            assert_close(
                jax.tree.map(lambda x, i=i: x[i], together), jax.tree.map(lambda x: x[0], own)
            )
    params = jax.tree.leaves(together[0])
    assert max(np.abs(x[2] - x[3]).max() for x in params) > 1e-4


def test_m_sam_by_scan_equals_m_sam_by_vmap(x64):
    for name in ("sam", "asam"):
        states = {}
        for m, by in ((8, "scan"), (8, "vmap"), (32, "scan"), (0, "scan")):
            fields = {"optimizer__m": m, "optimizer__m_by": by}
            config = point(optimizer__name=name, data__train_size=160, **fields)
            states[m, by] = trained_state([[config]])
        assert_close(states[8, "scan"], states[8, "vmap"])
        assert_close(states[32, "scan"][0], states[0, "scan"][0])
        leaves = zip(*(jax.tree.leaves(states[m, "scan"][0]) for m in (8, 0)))
        assert max(np.abs(a - b).max() for a, b in leaves) > 1e-5
