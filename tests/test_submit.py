"""Jobs through submitit: the options, the script that Slurm would get, requeueing, a real run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samop import submit
from samop.errors import UserError

submitit = pytest.importorskip("submitit")
ROOT = Path(__file__).parent.parent
DIGITS = f"--config={ROOT / 'configs' / 'digits_width.py'}:smoke,width=4-4"
TINY = [
    "--config.train.epochs=2",
    "--config.sweep.seeds=2",
    "--config.sweep.rho=(.1,)",
    "--config.run.tensorboard=False",
    "--config.run.devices=1",
]
STUBS = {
    "sbatch": 'echo "Submitted batch job 77"',
    "srun": "while true; do case $1 in --output|--error) shift 2;; --*) shift;; *) break;; esac;"
    ' done; exec "$@"',
    "scontrol": 'echo "$@" >> "$(dirname "$0")/asked"',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm's commands, as far as submitit calls them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--jobs=2", DIGITS], "come after `--`"),
        (["--", DIGITS], "--jobs is missing: the number of jobs, a whole number ≥ 1"),
        (["--jobs=0", "--", DIGITS], "--jobs=0 is not allowed"),
        (["--jobs=two", "--", DIGITS], "--jobs=two is not allowed"),
        (["--jobs", "--", DIGITS], "--jobs=True is not allowed"),
        (["jobs=2", "--", DIGITS], "'jobs=2' is not understood"),
        (["--jobs=2", "--", DIGITS, "--shard=0/2"], "--shard is set for each job"),
        (["--jobs=2", "--", DIGITS, "--config.train.epoch=3"], "did you mean 'train.epochs'"),
        (["--jobs=2", "--", DIGITS, "--config.train.epochs=0"], "train.epochs=0 is not allowed"),
        (["--jobs=2", "--slurm_time=2:00:00", "--", DIGITS], "use --timeout_min=MINUTES"),
        (["--jobs=2", "--cluster=slum", "--", DIGITS], "is unknown .did you mean 'slurm'"),
        (["--jobs=2", "--slurm_partitoin=x", "--", DIGITS], "'partitoin'.* partition, "),
        (["--jobs=2", "--gpus_per_node=one", "--", DIGITS], '"gpus_per_node" expected type'),
        (["--jobs=2", "--gpus=1", "--", DIGITS], "slurm: .*gpus"),
    ],
)
def test_bad_input_is_one_clear_line(slurm, tmp_path, argv, words):
    with pytest.raises(UserError, match=words) as caught:
        submit.submit(submit.parse([f"--logs={tmp_path / 'logs'}", *argv]))
    assert "\n" not in str(caught.value)


def test_without_slurm_or_submitit_one_line_says_so(tmp_path, monkeypatch, capsys):
    argv = ["--jobs=2", f"--logs={tmp_path / 'logs'}", "--", DIGITS]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: slurm: Could not detect")
    assert err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert submit.main(argv) == 2
    err = capsys.readouterr().err
    assert err == 'error: submitit is missing: pip install "samop[slurm]"\n'


def test_help_explains(capsys):
    assert submit.main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("--jobs", "--cluster", "--logs", "--slurm_partition", "--timeout_min", "--array"):
        assert word in out


def test_what_slurm_gets(slurm, tmp_path, capsys):
    logs = tmp_path / "logs"
    options = ["--timeout_min=240", "--gpus_per_node=1", "--slurm_partition=gpu", "--mem_gb=8"]
    options += ["--slurm_setup=['module load cuda']", "--slurm_max_num_timeout=7"]
    options += ["--slurm_additional_parameters={'licenses': 'x'}"]
    argv = ["--jobs=4", f"--logs={logs}", *options, "--", DIGITS, *TINY]
    assert submit.main(argv) == 0
    out = capsys.readouterr().out
    assert "submitted 4 jobs to slurm: 77_0, 77_1, 77_2, 77_3" in out
    assert f"logs: {logs}/77_0_0_log.out" in out
    script = (logs / "77_submission.sh").read_text()
    for line in (
        "--array=0-3%4",
        "--requeue",
        "--signal=USR2@90",
        "--time=240",
        "--gpus-per-node=1",
        "--partition=gpu",
        "--mem=8GB",
        "--licenses=x",
        "--job-name=samop_digits_width_smoke",
        f"--output={logs}/%A_%a_0_log.out",
    ):
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load cuda\n" in script
    assert f"{sys.executable} -u -m submitit.core._submit {logs}" in script
    for shard in range(4):
        job = submitit.SlurmJob(logs, f"77_{shard}", tasks=[0])
        submission = job.submission()
        assert submission.function.command[-1] == f"--shard={shard}/4"
        assert submission.function.command[1:4] == ["-m", "samop.main", DIGITS]
        assert submission._timeout_countdown == 7
        assert submission._timeout_min == 240


CHILD = """
import os, signal, sys, time
from pathlib import Path
os.kill(os.getpid(), signal.SIGUSR2)  # Slurm sends it to every process of the job
def end(*_):
    Path(sys.argv[1], "saved").write_text("")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
Path(sys.argv[1], "begun").write_text("")
time.sleep(60)
"""


def test_a_job_at_its_end_saves_itself_and_is_queued_again(slurm, tmp_path):
    executor = submitit.SlurmExecutor(tmp_path / "logs")
    executor.update_parameters(time=60)
    job = executor.submit(submit.Task([sys.executable, "-c", CHILD, str(tmp_path)]))
    assert job.job_id == "77"
    script = tmp_path / "logs" / "77_submission.sh"
    process = subprocess.Popen(
        ["bash", "-c", f"exec bash -c \"$(sed 's/^srun/exec srun/' {script})\""],
        cwd=ROOT,
        env={**os.environ, "SLURM_JOB_ID": "77"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR2)
    out, _ = process.communicate(timeout=60)
    assert "Requeued job 77" in out, out
    assert (tmp_path / "saved").exists()
    assert (slurm / "asked").read_text() == "requeue 77\n"
    again = job.submission().function
    assert isinstance(again, submit.Task)
    assert again.command[-1] == str(tmp_path)


def test_a_command_that_fails_fails_the_job():
    with pytest.raises(RuntimeError, match="ended with status 3"):
        submit.Task([sys.executable, "-c", "raise SystemExit(3)"])()


def test_jobs_of_this_machine_train_a_sweep(tmp_path):
    """The command ends at once; its jobs go on and share the folder."""
    work = tmp_path / "work"
    command = [sys.executable, "-m", "samop.submit", "--jobs=2", "--cluster=local", "--"]
    out = subprocess.run(
        [*command, DIGITS, *TINY, f"--workdir={work}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert out.returncode == 0, out.stderr
    assert "submitted 2 jobs to local" in out.stdout
    deadline = time.monotonic() + 300
    while len(list((work / "jobs").glob("*_result.pkl"))) < 2:
        assert time.monotonic() < deadline, [p.read_text() for p in work.glob("jobs/*log*")]
        time.sleep(0.2)
    said = "".join(p.read_text() for p in work.glob("jobs/*.out"))
    assert "--shard=0/2" in said
    assert "--shard=1/2" in said
    points = list((work / "points").iterdir())
    assert points
    assert all((folder / "DONE").exists() for folder in points), said
    for folder in points:
        assert (folder / "timing.jsonl").read_text().count("\n") == 1
    assert (work / "results.csv").exists()


def test_an_array_without_submitit(tmp_path):
    """`--shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT` in a shell, as sbatch would run it."""
    line = f"{sys.executable} -m samop.main {DIGITS} --workdir={tmp_path} --dry_run"
    line += " --shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"

    def task(number, first):
        names = {"ID": number, "COUNT": 2, "MIN": first, "MAX": first + 1}
        env = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}
        kwargs = {"cwd": ROOT, "env": {**os.environ, **env}, "capture_output": True, "text": True}
        return subprocess.run(["sh", "-c", line], timeout=120, **kwargs)

    out = task(1, first=0)
    assert out.returncode == 0, out.stderr
    assert "shard 1/2: " in out.stdout
    out = task(1, first=1)
    assert out.returncode == 2
    assert "--array=0-1, not one that begins at 1" in out.stderr
    assert out.stderr.count("\n") == 1
