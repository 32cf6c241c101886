"""Two and four processes over loopback are one; what dies, stops or comes back loses nothing."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from samop import checkpoint, main, processes, records, stopping
from samop.errors import UserError

CONFIG = Path(__file__).parent / "processes_config.py"
LONG = "epochs=3000"  # a minute or so: it is stopped before


def environment(**more):
    """Each process has one device."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return {**own, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", **more}


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def launched(count, workdir, arg="", *flags):
    """`count` processes of one command."""
    line = [sys.executable, "-m", "samop.main", f"--config={CONFIG}:{arg}", f"--workdir={workdir}"]
    port = free_port()
    found = []
    for i in range(count):
        others = [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={i}"]
        found.append(
            subprocess.Popen(
                [*line, *flags, *(others if count > 1 else [])],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return found


def ended(running, seconds=240):
    """(exit statuses, outputs); nothing is left running."""
    outputs = []
    try:
        for process in running:
            outputs.append(process.communicate(timeout=seconds)[0])
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], outputs


def run(count, workdir, *args):
    statuses, outputs = ended(launched(count, workdir, *args))
    assert statuses == [0] * count, outputs
    return outputs


def rows(workdir, name="metrics.jsonl"):
    files = sorted((workdir / "points").glob(f"*/{name}"))
    return {file.parent.name: records.read_rows(file) for file in files}


def assert_alike(a, b):
    """Equal rows to float tolerance, and final parameters."""
    for name in ("metrics.jsonl", "curvature.jsonl"):
        ours, theirs = rows(a, name), rows(b, name)
        assert set(ours) == set(theirs)
        for run in ours:
            assert [list(row) for row in ours[run]] == [list(row) for row in theirs[run]]
            for x, y in zip(ours[run], theirs[run]):
                for key in x:
                    np.testing.assert_allclose(x[key], y[key], rtol=2e-3, atol=2e-5, err_msg=key)
    for run in rows(a):
        ours, theirs = (checkpoint.load(w / "points" / run) for w in (a, b))
        for layer in ours["params"]:
            for leaf in ours["params"][layer]:
                x, y = (each["params"][layer][leaf] for each in (ours, theirs))
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-4)


def saved(workdir):
    """The newest checkpoints' names and times."""
    folders = list(workdir.glob("groups/*/checkpoints/[0-9]*"))
    return {(folder, folder.stat().st_mtime_ns) for folder in folders}


def wait_for_checkpoint(workdir, running, seconds=180):
    """Until there is a new one."""
    begin, before = time.monotonic(), saved(workdir)
    while saved(workdir) <= before:
        assert time.monotonic() - begin < seconds, "no checkpoint"
        assert all(process.poll() is None for process in running), ended(running)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "w"
    run(1, workdir)
    return workdir


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_are_one(alone, tmp_path, count):
    first, *others = run(count, tmp_path / "w")
    assert_alike(alone, tmp_path / "w")
    assert "wrote" in first
    for text in others:
        assert "runs" not in text  # one process speaks
    timing = next((tmp_path / "w" / "points").glob("*/timing.jsonl")).read_text()
    assert json.loads(timing)["processes"] == count
    layouts = [
        json.loads(file.read_text())["layout"]
        for file in (tmp_path / "w" / "groups").glob("*/members.json")
    ]
    shared = {(x["rows"], x["batch"]) for x in layouts}
    assert shared == {(2, count // 2)}


def test_sigterm_stops_all_with_a_checkpoint_that_other_numbers_of_processes_resume(tmp_path):
    """Stopped in two processes by a signal to one; then in one; then in four; and to the end."""
    arg, whole = "epochs=300", tmp_path / "whole"
    workdir = tmp_path / "w"
    for count in (2, 1, 4):
        running = launched(count, workdir, arg)
        wait_for_checkpoint(workdir, running)
        running[-1].send_signal(signal.SIGTERM)
        statuses, outputs = ended(running)
        assert statuses == [0] * count, outputs
    assert "stopped by SIGTERM; resume with: python -m samop.main --config=" in outputs[0]
    run(2, workdir, arg)
    run(1, whole, arg)
    ours, theirs = rows(workdir), rows(whole)
    for name in ours:
        assert [row["step"] for row in ours[name]] == [row["step"] for row in theirs[name]]
        a, b = (np.array([row["train_loss"] for row in x[name][:20]]) for x in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_process_dies_the_other_ends_and_the_group_is_resumed(tmp_path, victim):
    running = launched(2, tmp_path / "w", LONG)
    wait_for_checkpoint(tmp_path / "w", running)
    running[victim].kill()
    begin = time.monotonic()
    statuses, outputs = ended(running, seconds=60)
    assert time.monotonic() - begin < 30
    assert statuses[1 - victim] not in (0, None), outputs
    again = launched(2, tmp_path / "w", LONG)
    wait_for_checkpoint(tmp_path / "w", again)
    for process in again:
        process.kill()
    ended(again)


def test_slurm_tells_each_process_which_one_it_is(alone, tmp_path):
    """No flags: the variables that srun sets, set by hand."""
    line = [
        sys.executable,
        "-m",
        "samop.main",
        f"--config={CONFIG}:",
        f"--workdir={tmp_path / 'w'}",
    ]
    step = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
    }
    running = [
        subprocess.Popen(
            line,
            env=environment(**step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    statuses, outputs = ended(running)
    assert statuses == [0, 0], outputs
    assert_alike(alone, tmp_path / "w")
    timing = next((tmp_path / "w" / "points").glob("*/timing.jsonl")).read_text()
    assert json.loads(timing)["processes"] == 2


STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[001-004]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}


def test_what_the_surroundings_tell(tmp_path, monkeypatch):
    assert processes.found_around(STEP, tmp_path) == "Slurm"
    # A task of an array is alone, and so is a batch script outside of srun.
    assert processes.found_around({**STEP, "SLURM_NTASKS": "1"}, tmp_path) == ""
    script = {k: v for k, v in STEP.items() if k != "SLURM_STEP_NODELIST"}
    assert processes.found_around(script, tmp_path) == ""
    pod = {"TPU_WORKER_HOSTNAMES": "host-0,host-1", "TPU_WORKER_ID": "1"}
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert processes.found_around(pod, tmp_path) == "TPU"
    assert processes.found_around({}, tmp_path) == ""
    (tmp_path / "accel0").touch()
    assert processes.found_around({}, tmp_path) == "TPU"
    assert processes.found_around({"JAX_PLATFORMS": "cpu"}, tmp_path) == ""
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    assert processes.found_around(pod, tmp_path) == ""


def test_a_tpu_pod_is_joined_without_arguments(monkeypatch):
    seen = []
    monkeypatch.setattr(processes, "found_around", lambda environ: "TPU")
    monkeypatch.setattr(
        processes.jax.distributed, "initialize", lambda *a, **k: seen.append((a, k))
    )
    processes.initialize(processes.Launch())
    processes.initialize(processes.Launch("host:1", 4, 2))
    assert [args for args, _ in seen] == [(), ("host:1", 4, 2)]
    assert all(options["heartbeat_timeout_seconds"] < 30 for _, options in seen)
    monkeypatch.setattr(processes, "found_around", lambda environ: "")
    processes.initialize(processes.Launch())
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("host:1", 0, -1), "belong together"),
        (("", 2, 0), "belong together"),
        (("host", 2, 0), "should be HOST:PORT"),
        (("host:1", 2, 2), r"this one is 0 … N−1"),
        (("host:1", -2, 0), r"N ≥ 1 processes"),
    ],
)
def test_bad_flags(flags, words):
    with pytest.raises(UserError, match=words):
        processes.launch(*flags)
    assert processes.launch("", 0, -1) == processes.Launch()


@pytest.mark.parametrize("others", [True, False])
def test_sigterm_waits_until_the_processes_have_joined(monkeypatch, others):
    """One that ended while it joins would take the others with it."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(processes, "several", lambda: others)
    joined = []

    def join(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        joined.append(stopping.announced())

    monkeypatch.setattr(jax.distributed, "initialize", join)
    monkeypatch.setattr(stopping, "_deferred", 0)
    stopping.catch("it")
    try:
        with contextlib.nullcontext() if others else pytest.raises(stopping.Stopped):
            processes.initialize(processes.Launch("localhost:1", 2, 0))
        assert joined == [True]
        assert stopping.announced()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_processes_with_different_commands_end_and_say_so(tmp_path):
    """As `srun -n 2 … --shard=$SLURM_PROCID/2` would start them."""
    port = free_port()
    running = []
    for i in range(2):
        others = [f"--coordinator=localhost:{port}", "--processes=2", f"--process={i}"]
        line = [sys.executable, "-m", "samop.main", f"--config={CONFIG}:", f"--shard={i}/2"]
        running.append(
            subprocess.Popen(
                [*line, f"--workdir={tmp_path / 'w'}", *others],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    statuses, outputs = ended(running)
    assert 0 not in statuses
    assert any("were given different commands" in text for text in outputs), outputs
    assert not (tmp_path / "w").exists()


def test_a_state_in_parts_is_divided_over_processes(tmp_path):
    """Each process keeps a half of large weights; checkpoints and records know nothing of it."""
    arg, wide = "epochs=2", "--config.model.hidden=(64,64)"
    parts = ["--config.run.shard_parameters=True", wide, "--config.seed=0"]
    run(2, tmp_path / "w", arg, *parts)
    run(1, tmp_path / "alone", arg, wide, "--config.seed=0")
    assert_alike(tmp_path / "alone", tmp_path / "w")
    layouts = [
        json.loads(file.read_text())["layout"]
        for file in (tmp_path / "w" / "groups").glob("*/members.json")
    ]
    assert [(x["batch"], x["divided"]) for x in layouts] == [(2, True)] * len(layouts)


@pytest.mark.parametrize("others", [True, False])
def test_what_is_left_where_another_process_went_is_one_line(monkeypatch, capsys, others):
    """Of a process alone such an error is its own, and comes with where it came from."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(processes, "several", lambda: others)
    monkeypatch.setattr(main, "set_up", lambda request: None)

    def execute(request):
        raise jax.errors.JaxRuntimeError("Gloo AllReduce failed: closed by peer\nand more")

    monkeypatch.setattr(main, "execute", execute)
    try:
        with contextlib.nullcontext() if others else pytest.raises(jax.errors.JaxRuntimeError):
            assert main.main([f"--config={CONFIG}:"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().err
    if others:
        assert said.startswith("error: what all processes compute together failed")
        assert "closed by peer; the same command resumes" in said
        assert said.count("\n") == 1
