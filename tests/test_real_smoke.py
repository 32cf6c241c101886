"""The smoke sweeps on real data, as a user runs them. Network needed where nothing is cached."""

import pandas as pd
import pytest
from test_cli import ROOT, samop

pytestmark = pytest.mark.slow


def smoke(name, workdir, *fields):
    run = samop(f"--config={ROOT / 'configs' / name}.py:smoke", *fields, f"--workdir={workdir}")
    assert run.returncode == 0, run.stderr
    assert (workdir / "figures" / "width_gap.png").exists()
    return pd.read_csv(workdir / "runs.csv")


def test_mnist_smoke_learns(tmp_path):
    runs = smoke("mnist_width", tmp_path)
    sgd = runs[(runs.optimizer == "SGD") & (runs.width == "300-100")]
    assert sgd.last_test_accuracy.min() >= 0.95


def test_cifar_smoke(tmp_path):
    runs = smoke("cifar_width", tmp_path, "--config.sweep.filters=(4,)")
    assert (runs.status == "done").all()


def test_synthetic_smoke(tmp_path):
    runs = smoke("synthetic_width", tmp_path)
    # Twice the loss is the unexplained share of a variance of one.
    assert (2 * runs.last_test_loss).max() < 0.6


@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [
        # What a guess reaches, of the commonest tag or class, at random, by chance.
        ("pos_width", "accuracy", 0.4),
        ("molpcba_width", "average_precision", 0.55),
        ("atari_width", "return", 0.0),
        ("sst2_width", "accuracy", 0.4),  # in one epoch nothing is learned yet
    ],
)
def test_smoke_of_a_workload(name, metric, least, tmp_path):
    runs = smoke(name, tmp_path)
    assert (runs.status == "done").all()
    assert runs[f"last_test_{metric}"].min() >= least


def test_streamed_smoke_memorises_its_photos(tmp_path):
    run = samop(
        f"--config={ROOT / 'configs' / 'imagenet_width'}.py:smoke,data=imagenet_photos",
        f"--workdir={tmp_path}",
    )
    assert run.returncode == 0, run.stderr
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert runs.last_test_accuracy.min() >= 0.8


def test_imagenet_smoke(tmp_path):
    runs = smoke("imagenet_width", tmp_path, "--config.sweep.filters=(4,)")
    assert (runs.status == "done").all()


@pytest.mark.parametrize("name", ["digits_curvature", "mnist_curvature"])
def test_curvature_smoke(name, tmp_path):
    smoke(name, tmp_path)
    assert (tmp_path / "figures" / "curvature.png").exists()
    assert (tmp_path / "figures" / "spectrum.png").exists()
    measured = pd.read_csv(tmp_path / "curvature_runs.csv")
    last = measured[measured.trained]
    assert last.lambda_max_converged.all()
    assert last.s2_converged.all()
    # The trace of cross-entropy's Hessian by two ways: it is the GGN's but for ReLU's kinks and
    # what has not been fitted; both with their own error bars.
    error = 4 * (last.trace_se**2 + last.ggn_trace_se**2) ** 0.5
    assert ((last.trace - last.ggn_trace).abs() < error + 0.5 * last.ggn_trace.abs()).all()
