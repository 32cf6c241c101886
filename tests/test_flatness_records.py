import math

import pandas as pd
import planted
import pytest
from planted_curvature import accuracy, curvature, logs, of, path_of, written

from samop import flatness, records, report, results
from samop.errors import UserError
from samop.flatness.records import _edge


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return written(tmp_path_factory.mktemp("sweep"))


def test_one_row_per_run_and_step(tables):
    runs, measured = tables
    assert len(measured) == len(runs) == 4 * 4 * 4
    assert measured["trained"].all()
    assert list(measured["step"].unique()) == [20]
    # The run's own columns; a row's lists and its own `parameters` are not among them.
    assert {"point", "width", "rho", "seed", "label_noise", "trace_se", "loss"} <= set(measured)
    assert list(measured["parameters"]) == list(runs["parameters"])
    assert measured.attrs["incomplete"] == []
    assert measured.attrs["without"] == 0


def test_runs_without_curvature_are_left_out_in_pairs(tmp_path):
    def value(hidden, noise, s, rho, epoch):
        # Of the widest nothing is measured, and of the others only what is compared.
        skip = hidden == 32 or rho not in (None, 0.1) or (hidden == 8 and s == 3 and rho)
        return None if skip else curvature(hidden, noise, s, rho, epoch)

    runs, measured = written(tmp_path, value)
    table = of(flatness.compare(runs, measured))
    assert list(table["n"]) == [4, 3, 4]
    assert list(table["n_unpaired"]) == [0, 1, 0]
    assert math.log(table["ratio"].iloc[1]) == pytest.approx(logs()[1][:3].mean())
    assert measured.attrs["without"] == len(runs) - 3 * 8 + 1
    text = " ".join(flatness.section(runs, measured).split())
    assert "41 of 64 runs were not measured" in text
    assert "1 pairs (seed, width) are incomplete" in text
    # Where ρ was chosen does not depend on what was measured.
    assert (table["rho_star"] == 0.1).all()


def test_an_incomplete_record_is_refused(tmp_path):
    runs, _ = written(tmp_path, epochs=[1, 2])
    path = path_of(tmp_path, 8, 0.1, 2)
    first = path.read_text().splitlines()[0]
    path.write_text(first + "\n")
    with pytest.raises(UserError, match="1 trained networks was not measured, or not to the end"):
        flatness.load(tmp_path, runs)
    measured = flatness.load(tmp_path, runs, allow_incomplete=True)
    assert measured.attrs["incomplete"] == [path.parent.name]
    table = of(flatness.compare(runs, measured))
    assert list(table["n"]) == [4, 3, 4, 4]
    assert "INCOMPLETE: the curvature of 1 trained networks" in report.write(tmp_path)


def test_a_run_that_should_have_been_measured_is_missed(tmp_path):
    grid = planted.grid(accuracy, widths=(4, 8))
    for item in grid:
        item["config"]["curvature"] = {"every": "end", "examples": item["config"]["seed"]}
    runs, _ = written(tmp_path, grid=grid)
    # How it is measured does not change what is trained: no run is of another condition.
    assert runs.attrs["varying"] == []
    path_of(tmp_path, 4, None, 0).unlink()
    with pytest.raises(UserError, match="1 trained networks"):
        flatness.load(tmp_path, runs)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"step": 20, "lambda_max": 1.0, "crc": "00000000"}', "line 2: checksum does not match"),
        ('{"step": 20', "line 2: checksum does not match"),
        (records.encode({"step": 5, "epoch": 1, "examples": 1, "loss": 1.0}), "out of order"),
        (records.encode({"step": 30, "epoch": 3}), "a row lacks examples, loss"),
        (records.encode({"epoch": 3}), "a row is no record"),
    ],
)
def test_a_corrupt_record_is_named(tmp_path, line, words):
    runs, _ = written(tmp_path, widths=(4,))
    path = path_of(tmp_path, 4, 0.1, 2)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=words) as error:
        flatness.load(tmp_path, runs)
    assert str(path) in str(error.value)
    with pytest.raises(UserError, match=words):
        report.write(tmp_path)


def test_a_killed_run_may_leave_half_a_row(tmp_path):
    planted.sweep(tmp_path, planted.measured(planted.grid(accuracy, widths=(4,)), curvature))
    path = path_of(tmp_path, 4, 0.1, 2)
    path.write_text(path.read_text() + '{"step": 30')
    (path.parent / "DONE").unlink()
    runs = results.load(tmp_path, allow_incomplete=True)
    measured = flatness.load(tmp_path, runs)
    row = of(flatness.compare(runs, measured)).iloc[0]
    assert (row["n"], row["n_unpaired"]) == (3, 1)


# What a report writes.


def test_report_writes_the_tables(tmp_path):
    runs, measured = written(tmp_path, epochs=[0, 1, 2], widths=(4, 8), seeds=3, noises=(0.0, 0.4))
    text = report.write(tmp_path)
    assert max(map(len, flatness.section(runs, measured).splitlines())) <= 100
    assert flatness.section(runs, measured) in text
    table = pd.read_csv(tmp_path / "curvature.csv")
    mine = flatness.compare(runs, measured)
    same = table[(table["choice"] == "validation") & (table["at"] == "last")]
    assert list(same["ratio"]) == pytest.approx(list(mine["ratio"]), nan_ok=True)
    assert set(table["at"]) == {"last", "equal_loss"}
    assert set(table["label_noise"]) == {0.0, 0.4}
    slopes = pd.read_csv(tmp_path / "curvature_slopes.csv")
    assert set(slopes["quantity"]) == {"lambda_max", "lambda_min", "trace", "loss"}
    rows = pd.read_csv(tmp_path / "curvature_runs.csv")
    assert len(rows) == len(measured) == 3 * len(runs)
    for name in ("curvature.csv", "curvature_slopes.csv", "curvature_runs.csv"):
        assert f"wrote {tmp_path / name}" in text
    again = [path.read_bytes() for path in sorted(tmp_path.glob("*.csv"))]
    assert report.write(tmp_path) == text
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.csv"))] == again


def test_nothing_changes_where_nothing_was_measured(tmp_path):
    planted.sweep(tmp_path, planted.grid(accuracy, widths=(4, 8), seeds=2))
    runs = results.load(tmp_path)
    measured = flatness.load(tmp_path, runs)
    assert measured.empty
    assert flatness.section(runs, measured) == ""
    assert flatness.compare(runs, measured).empty
    text = report.write(tmp_path)
    assert "urvature" not in text
    assert not list(tmp_path.rglob("*curvature*"))


@pytest.mark.parametrize(
    ("fields", "share", "edge"),
    [
        ({"schedule": "constant"}, 0.7, 38),
        ({"schedule": "step"}, 0.4, 38),
        ({"schedule": "step"}, 0.5, 380),
        ({"schedule": "cosine"}, 0.5, 76),
        ({"schedule": "cosine"}, 1.0, math.nan),
        ({"schedule": "constant", "warmup": 0.2}, 0.1, 76),
        ({"schedule": "constant", "base": "adamw"}, 0.1, math.nan),
    ],
)
def test_edge_of_stability(fields, share, edge):
    optimizer = {
        "base": "sgd", "lr": 0.1, "momentum": 0.9, "warmup": 0.0, "milestones": (0.5, 0.75),
        "factor": 0.1, **fields,
    }  # fmt: skip
    assert _edge({"optimizer": optimizer}, share) == pytest.approx(edge, nan_ok=True)


def test_density_is_read_again(tmp_path):
    def value(hidden, noise, s, rho, epoch):
        lists = {"density_nodes": [1.0, 2.0, 3.0, 4.0], "density_weights": [0.25, 0.75, 0.5, 0.5]}
        row = curvature(hidden, noise, s, rho, epoch) | {"eigenvalues": [4.0, None]}
        return row | ({**lists, "density_probes": 2} if rho is None and epoch == 2 else {})

    _, measured = written(tmp_path, value, epochs=[1, 2], widths=(4,))
    assert "density_nodes" not in measured
    found = flatness.density(measured, "w4_rhoNone_noise0.0_seed1")
    assert found.nodes.tolist() == [[1, 2], [3, 4]]
    assert found.weights.sum(axis=1) == pytest.approx([1, 1])
    assert (found.parameters, found.epoch, found.eigenvalues[0]) == (272, 2, 4.0)
    assert flatness.density(measured, "w4_rho0.1_noise0.0_seed1") is None
    path = path_of(tmp_path, 4, None, 1)
    rows = records.read_rows(path)
    rows[-1]["density_probes"] = 3
    records.rewrite_rows(path, rows)
    with pytest.raises(UserError, match="do not fit each other"):
        flatness.density(measured, "w4_rhoNone_noise0.0_seed1")
