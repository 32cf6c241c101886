"""python -m samop.curvature on a run that was really trained."""

import json

import jax
import numpy as np
import pytest
import small
from rich.console import Console

from samop import checkpoint, curvature, groups, loop, measures, records, workloads
from samop import config as configs
from samop.errors import UserError

FEW = {"examples": 60, "k": 2, "probes": 8, "density_probes": 2, "density_steps": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep")
    base = small.point(model__hidden=(4, 4), optimizer__ascent="unnormalized")
    ready = small.prepared(small.grid(base, [{"optimizer__rho": 0.02}], [0]))
    point = workdir / "points" / ready.group.names[0]
    point.mkdir(parents=True)
    groups.freeze(ready.group, workdir / "groups" / ready.group.name, {"mode": "vmap"})
    config = configs.to_json(ready.group.points[0])
    records.write_json(point / "config.json", {"name": point.name, "config": config})
    loop.train(ready, workdir)
    return point


@pytest.fixture(scope="module")
def found(run):
    return curvature.measure_run(run, ("eigenvalues", "moments", "density"), FEW, seed=0)


def test_the_record_holds_values_with_errors_and_criteria(found):
    row = found["row"]
    assert row["examples"] == 60
    assert len(row["eigenvalues"]) == 2
    assert "s4" not in row  # of batches only the second moment follows
    assert (found["eta"], found["rho"]) == (0.1, 0.02)
    kinds = {c["kind"] for c in found["stability"]}
    assert kinds == {"necessary", "implied"}  # E[B²] needs the fourth moment
    assert all(c["error"] > 0 for c in found["stability"])
    necessary = found["stability"][0]
    assert necessary["value"] >= row["lambda_max"] * (1 - 1e-3)  # M₂ adds something
    assert "momentum" in found["note"]
    assert "interpolating" in found["note"]


def test_it_is_the_same_again_and_leaves_the_run_as_it_was(run, found):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    again = curvature.measure_run(run, ("eigenvalues", "moments", "density"), FEW, seed=0)
    assert again == found
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_normalised_sam_is_judged_by_the_criteria_of_its_base():
    eta, rho, note = curvature.at(small.point(), 0.0)
    assert (eta, rho) == (0.1, 0.0)
    assert "unnormalised" in note
    assert "batches of 32" in note


def test_the_spectrum_is_drawn_and_json_is_strict(run, found, tmp_path):
    (run / "sharpness.json").unlink(missing_ok=True)
    paths = curvature.draw(found, tmp_path)
    assert {p.suffix for p in paths} == {".png", ".pdf"}
    text = json.dumps(curvature.finite({**found, "bad": [float("nan"), np.inf]}), allow_nan=False)
    assert json.loads(text)["bad"] == [None, None]


@pytest.mark.parametrize(
    ("what", "overrides", "message"),
    [
        (("lambda",), {}, "curvature.what=.*'lambda'"),
        (("trace",), {"examples": 10_000}, "curvature.examples=10000 is more than"),
        (("eigenvalues",), {"k": 0}, "curvature.k=0"),
    ],
)
def test_bad_arguments(run, what, overrides, message):
    with pytest.raises(UserError, match=message):
        curvature.measure_run(run, what, overrides, seed=0)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is no run"):
        curvature.measure_run(tmp_path, ("trace",), {}, seed=0)


def test_what_is_shown(found, capsys):
    curvature.show(found, Console(width=200))
    out = capsys.readouterr().out
    assert "lambda_max" in out
    assert "necessary: holds" in out
    nothing = {**found["row"], "lambda_max": None, "eigenvalues": None, "loss": float("nan")}
    curvature.show({**found, "row": nothing, "stability": []}, Console(width=200))
    assert "nan" in capsys.readouterr().out


def test_the_necessary_criterion_is_that_of_batches(run, found):
    """λ_max(H + ρ(H² + cΣ₂)) by dense Hessians of single examples."""
    config = groups.read_point(run.parent.parent, run.name)
    config["curvature"].update(FEW)
    workload = workloads.build(config)
    batch = measures.batch_of(config, workload, workload.splits.train.y)
    params = checkpoint.load(run)["params"]
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    loss = measures.losses(workload).loss

    def single(x, y):
        one = {"x": x[None], "y": y[None]}
        return jax.hessian(lambda w: loss({"params": unravel(w), "state": {}}, one))(flat)

    each = np.asarray(jax.lax.map(lambda b: single(b["x"], b["y"]), batch), float)
    h, m2 = each.mean(0), np.mean([a @ a for a in each], 0)
    n, size = 200, 32
    c = (n - size) / (size * (n - 1))
    expected = np.linalg.eigvalsh(h + 0.02 * ((1 - c) * h @ h + c * m2))[-1]
    necessary = found["stability"][0]
    assert necessary["value"] == pytest.approx(expected, rel=2e-3)
    s2 = next(x for x in found["stability"] if x["name"].startswith("s₂"))
    excess = np.linalg.eigvalsh(m2 - h @ h)[-1]
    assert s2["value"] == pytest.approx((c * excess) ** 0.5, rel=2e-3)
