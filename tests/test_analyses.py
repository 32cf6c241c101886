"""The scripts that read the analyses' sweeps, on planted runs: what they pick, pair and write."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import finish, grid, run, sweep

from samop import comparison, records, results

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture
def script(monkeypatch):
    """Imports a script of experiments/ as the command does, its folder first in the path."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module


def values(w, noise, s, rho):
    """Accuracy grows with width; ρ = .1 is best on validation, .2 on test."""
    gain = {None: 0.0, 0.05: 0.01, 0.1: 0.03, 0.2: 0.02}[rho] * (1 + noise)
    base = 0.7 + 0.01 * np.log2(w) + 0.001 * s
    test = base + gain + (0.5 * gain if rho == 0.2 else 0)
    return [(base + gain, test), (base + gain, test)]


def parts_of(root, runs):
    """Adds to every row what `train.label_parts` records."""
    for item in runs:
        file = root / "points" / item["name"] / "metrics.jsonl"
        rows = records.read_rows(file)
        told = 0.4 if item["config"]["optimizer"]["name"] == "base" else 0.1
        extra = {"train_clean_accuracy": 0.9, "train_noisy_accuracy": told}
        extra |= {"train_noisy_true_accuracy": 1 - told, "weight_norm": 3.0}
        extra |= {"sam_grad_norm": 2.0, "sam_loss_increase": 0.1}
        file.unlink()
        records.append_rows(file, [{**row, **extra} for row in rows], False)
        if item["done"]:
            (root / "points" / item["name"] / "DONE").unlink()
            finish(root / "points" / item["name"])


def planted(root, **kwargs):
    runs = grid(values, noises=(0.0, 0.5), **kwargs)
    sweep(root, runs)
    parts_of(root, runs)
    return results.load(root)


def ran(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_the_rho_is_that_of_validation(tmp_path, script):
    common = script("common")
    runs = planted(tmp_path)
    gains = comparison.gains(runs)
    picked = common.chosen(runs, gains, ["label_noise", "width", "parameters"])
    assert set(picked["rho"]) == {0.0, 0.1}
    assert len(picked) == 2 * 3 * 4 * 2  # rates, widths, seeds, base and SAM
    found = common.summarised(picked, ["label_noise", "optimizer"], "last_train_noisy_accuracy")
    assert found.set_index(["label_noise", "optimizer"])["mean"].to_dict() == pytest.approx(
        {(0.0, "SGD"): 0.4, (0.0, "SAM"): 0.1, (0.5, "SGD"): 0.4, (0.5, "SAM"): 0.1}
    )


def test_label_noise_writes_what_was_planted(tmp_path, script, monkeypatch, capsys):
    planted(tmp_path / "runs")
    out = tmp_path / "out"
    ran(monkeypatch, script("label_noise"), "--workdir", tmp_path / "runs", "--out", out)
    gains = pd.read_csv(out / "gains.csv")
    noisy = gains[(gains["label_noise"] == 0.5) & (gains["epoch"] == "last")]
    np.testing.assert_allclose(noisy["gain"], 4.5, atol=1e-9)  # points, at ρ = .1
    parts = pd.read_csv(out / "parts.csv")
    assert set(parts["of"]) == set(script("samop.parts").NAMES)
    assert (out / "gains.png").stat().st_size > 1000
    assert "| 50 % of labels flipped |" in capsys.readouterr().out


def test_best_rho_writes_what_was_planted(tmp_path, script, monkeypatch, capsys):
    planted(tmp_path / "runs", seeds=8)
    out = tmp_path / "out"
    ran(monkeypatch, script("best_rho"), "--workdir", tmp_path / "runs", "--out", out)
    best = pd.read_csv(out / "best_rho.csv")
    assert (best[["rho_star", "rho_low95", "rho_high95"]] == 0.1).all(axis=None)
    added = pd.read_csv(out / "regularizer.csv")
    np.testing.assert_allclose(added["regularizer"], 0.1 * 2.0)
    assert "clean labels: ρ* ∝ parameters^0.00" in capsys.readouterr().out


def test_sparse_networks_are_matched_by_parameters_and_paired_by_seed(tmp_path, script):
    """Dense networks of 4, 8, 16; a pruned one with about as many parameters as that of 8."""
    runs = []
    for seed in range(4):
        for hidden, gain in ((4, 0.01), (8, 0.02), (16, 0.03)):
            level = 0.8 + 0.01 * seed
            dense = {"sparsity__method": "none", "sparsity__level": 0.0}
            runs.append(run(hidden, seed, None, [(level, level)], **dense))
            runs.append(run(hidden, seed, 0.1, [(level + gain, level + gain)], **dense))
        pruned = {"sparsity__method": "snip", "sparsity__level": 0.5}
        own = 0.02 + 0.005 + 0.001 * seed
        runs.append(run(9, seed, None, [(0.7, 0.7)], **pruned))
        runs.append(run(9, seed, 0.1, [(0.7 + own, 0.7 + own)], **pruned))
    table = results.load(sweep(tmp_path, runs))
    (row,) = script("sparsity")._matched(table, "last").to_dict("records")
    assert row["dense_width"] == "8-8"
    assert row["n"] == 4
    assert row["difference"] == pytest.approx(100 * (0.005 + 0.0015))
    assert row["difference_half95"] == pytest.approx(
        100 * 0.001 * np.std(range(4), ddof=1) / 2 * 3.182, rel=1e-3
    )


def test_the_lazy_network_is_scored_with_either_grid(tmp_path, script):
    """The network's ρ divided by α and the network's own; base runs are in both."""
    runs = []
    for mode, rhos in (("none", (0.1, 0.2)), ("jvp", (0.1, 0.2)), ("lazy", (0.01, 0.02, 0.1, 0.2))):
        fields = {"linearized__mode": mode, "linearized__alpha": 10.0 if mode == "lazy" else 1.0}
        for seed in range(2):
            runs.append(run(8, seed, None, [(0.5, 0.5)], **fields))
            runs += [run(8, seed, rho, [(0.6, 0.6)], **fields) for rho in rhos]
    arms = script("linearized").arms(results.load(sweep(tmp_path, runs)))
    grids = {arm: sorted(set(part["rho"])) for arm, part in arms.items()}
    assert grids == {
        "none": [0.0, 0.1, 0.2],
        "jvp": [0.0, 0.1, 0.2],
        "scaled": [0.0, 0.01, 0.02],
        "unscaled": [0.0, 0.1, 0.2],
    }
    assert len(arms["scaled"]) == len(arms["unscaled"]) == 6


def test_a_missing_sweep_is_one_line(tmp_path, script):
    with pytest.raises(SystemExit, match=r"error: workdir=.* does not exist; the config's header"):
        script("common").load(tmp_path / "nowhere")
