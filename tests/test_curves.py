"""Recorded epochs as a table, the ρ chosen from them and means over seeds, recomputed by hand."""

import math
import statistics

import numpy as np
import pandas as pd
import planted
import pytest
from scipy import stats

from samop import curves, records, results
from samop.errors import UserError

EPOCHS = 5


def value(hidden, noise, s, rho):
    rng = np.random.default_rng([hidden, s, int(10 * noise), int(100 * (rho or 0))])
    return [tuple(pair) for pair in rng.uniform(0.3, 0.9, (EPOCHS, 2)).tolist()]


def loaded(folder, runs, **kwargs):
    planted.sweep(folder, runs, **kwargs)
    table = results.load(folder, allow_incomplete=True)
    return table, curves.load(folder, table)


def test_each_recorded_epoch_is_a_row(tmp_path):
    grid = planted.grid(value, widths=(4, 8), seeds=2, noises=(0.0, 0.4))
    runs, table = loaded(tmp_path, grid)
    assert len(table) == EPOCHS * len(grid)
    assert table.attrs == runs.attrs
    assert list(dict.fromkeys(table["point"])) == list(runs["point"])
    by_name = {item["name"]: item for item in grid}
    shared = ["dataset", "model", "width", "parameters", "transform", "rho", "label_noise", "seed"]
    facts = runs.set_index("point")
    for point, rows in table.groupby("point"):
        item = by_name[point]
        assert list(rows["epoch"]) == list(range(1, EPOCHS + 1))
        pairs = rows[["validation_accuracy", "test_accuracy"]].to_numpy().tolist()
        assert [tuple(pair) for pair in pairs] == item["values"]
        assert (rows[["train_loss", "validation_loss", "test_loss"]] == 0.5).all(axis=None)
        for column in shared:
            assert set(rows[column]) == {facts.loc[point, column]}
    # The last and best rows of `results.load` are among them.
    last = table.groupby("point")["test_accuracy"].last()
    assert (facts["last_test_accuracy"] == last.loc[facts.index]).all()
    some = curves.load(tmp_path, runs[runs["transform"] == "base"])
    assert set(some["point"]) == set(runs.loc[runs["transform"] == "base", "point"])


def test_a_loss_has_one_column_a_split(tmp_path):
    _, table = loaded(tmp_path, planted.grid(value, widths=(4,), seeds=1), metric=planted.LOSS)
    assert list(table.columns).count("test_loss") == 1
    assert "test_accuracy" not in table


def test_fields_that_vary_are_columns(tmp_path):
    grid = [planted.run(4, 0, None, [(0.5, 0.5)], optimizer__lr=lr) for lr in (0.1, 0.2)]
    _, table = loaded(tmp_path, grid)
    assert sorted(table["optimizer.lr"]) == [0.1, 0.2]


def test_unfinished_runs_end_where_they_are(tmp_path):
    grid = planted.grid(value, widths=(4,), seeds=2, rhos=(0.1,))
    half, begun = grid[0], grid[1]
    half.update(done=False, values=half["values"][:3], losses=half["losses"][:3])
    begun.update(done=False, values=[], losses=[])
    planted.sweep(tmp_path, grid)
    with (tmp_path / "points" / half["name"] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "ep')  # being written
    runs = results.load(tmp_path, allow_incomplete=True)
    table = curves.load(tmp_path, runs)
    counts = table["point"].value_counts()
    assert counts[half["name"]] == 3
    assert begun["name"] not in counts
    assert sorted(counts) == [3, EPOCHS, EPOCHS]


def test_a_finished_run_that_was_changed_is_named(tmp_path):
    grid = planted.grid(value, widths=(4,), seeds=1, rhos=(0.1,))
    runs, _ = loaded(tmp_path, grid)
    path = tmp_path / "points" / grid[0]["name"] / "metrics.jsonl"
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 3'))
    with pytest.raises(UserError, match=f"{grid[0]['name']}.*line 2: checksum"):
        curves.load(tmp_path, runs)


def test_the_mean_over_seeds_has_the_t_interval():
    rows = [
        ("a", 1, 1.0),
        ("b", 1, 2.0),
        ("c", 1, 6.0),
        ("a", 2, 3.0),
        ("b", 2, 5.0),
        ("a", 3, 4.0),
    ]
    table = pd.DataFrame(rows, columns=["point", "epoch", "test_loss"])
    found = curves.mean(table, "test_loss")
    assert found["epoch"].tolist() == [1, 2, 3]
    assert found["mean"].tolist() == [3.0, 4.0, 4.0]
    assert found["n"].tolist() == [3, 2, 1]
    for place, values in enumerate(([1.0, 2.0, 6.0], [3.0, 5.0])):
        half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values)
        assert found["half95"][place] == pytest.approx(half / math.sqrt(len(values)))
    assert math.isnan(found["half95"][2])


def peaked(best):
    """Validation falls with the distance of ρ from the best one of the width; test the opposite."""

    def at(hidden, noise, s, rho):
        score = 0.5 if rho is None else 0.8 - abs(rho - best[hidden])
        return [(score / 2, 1 - score / 2), (score, 1 - score)]

    return at


def test_the_chosen_rho_is_that_of_the_table(tmp_path):
    runs, table = loaded(tmp_path, planted.grid(peaked({4: 0.05, 8: 0.2}), widths=(4, 8)))
    found = curves.chosen(runs, table)
    gains = results.gains(runs)
    assert dict(zip(found["width"], found["rho_star"])) == {"4-4": 0.05, "8-8": 0.2}
    assert found["rho_star"].tolist() == gains["rho_star"].tolist()
    assert not found["provisional"].any()


def test_before_any_seed_is_finished_the_rho_is_the_best_so_far(tmp_path):
    grid = planted.grid(peaked({4: 0.05, 8: 0.2}), widths=(4, 8), seeds=2)
    for number, item in enumerate(grid):
        item["done"] = False
        if number % 3:  # to be compared at the first epoch, which these have reached
            item.update(values=item["values"][:1], losses=item["losses"][:1])
    runs, table = loaded(tmp_path, grid)
    found = curves.chosen(runs, table)
    assert dict(zip(found["width"], found["rho_star"])) == {"4-4": 0.05, "8-8": 0.2}
    assert found["provisional"].all()


def test_diverged_runs_are_told_and_not_chosen(tmp_path):
    grid = planted.grid(peaked({4: 0.2}), widths=(4,), seeds=2)
    for item in grid:
        item["done"] = item["config"]["optimizer"]["name"] == "base"
        if item["config"]["optimizer"]["rho"] == 0.2 and item["config"]["seed"] == 1:
            item["losses"] = [0.5, math.nan]
    runs, table = loaded(tmp_path, grid)
    lost = curves.diverged(table)
    assert lost == {i["name"] for i in grid if math.isnan(i["losses"][-1])}
    assert curves.chosen(runs, table)["rho_star"].tolist() == [0.1]


def test_rows_are_those_of_the_records(tmp_path):
    grid = planted.grid(value, widths=(4,), seeds=1, rhos=(0.1,))
    _, table = loaded(tmp_path, grid)
    for item in grid:
        rows = records.read_rows(tmp_path / "points" / item["name"] / "metrics.jsonl")
        here = table[table["point"] == item["name"]]
        for name in ("step", "epoch", "grad_evals", "train_accuracy", "test_loss"):
            assert here[name].tolist() == [row[name] for row in rows]
