"""python -m samop.submit --jobs=4 -- --config=FILE.py: a sweep as a Slurm array, through submitit.

Task i of n runs `samop.main` with `--shard=i/n`. A task that is preempted or runs out of time is
queued again and resumes. Needs the extra `[slurm]`.
"""

import ast
import inspect
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samop import cli, stopping
from samop.errors import UserError, nearest

HELP = """\
Submits a sweep as an array of jobs, each of which trains a shard of it; then exits.

  python -m samop.submit --jobs=N [--cluster=NAME] [--logs=DIR] [--OPTION=VALUE ...] -- ARGUMENTS

  ARGUMENTS               of samop.main: --config=FILE.py and what goes with it, but --shard
  --jobs=N                jobs, one shard each; all of them use one --workdir, which they must share
  --cluster=slurm         where to: `slurm` (the default), `local`: processes of this machine, that
                          go on when this command has ended, or `debug`: here, one after the other
  --logs=DIR              jobs' logs and scripts, also shared (default: WORKDIR/jobs)
  --OPTION=VALUE          what submitit calls it: --timeout_min=240, --gpus_per_node=1,
                          --cpus_per_task=8, --mem_gb=32, --slurm_partition=gpu, --slurm_account=A,
                          --slurm_setup="['module load cuda']", --slurm_max_num_timeout=50, ...
                          (a name that is none is answered by a list of all)
  --help                  this text

A job that is preempted, or at the end of its --timeout_min (60 unless told otherwise), is queued
again, and goes on where it stopped. Submitting again skips what is done. Without submitit:

  sbatch --array=0-3 --wrap='python -m samop.main --config=FILE.py \\
      --shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT'
"""
OWN = ("jobs", "cluster", "logs")
DEFAULTS = {"timeout_min": 60, "slurm_max_num_timeout": 20}
REQUEUE = {"requeue": True}  # of sbatch: Slurm queues again what it preempts itself
STOPPING = 60.0  # seconds for a run to save itself; submitit's warning comes 90 before the end
LOOK = 0.2  # seconds between two looks at the command
# Slurm signals a job's every process: a warning that is meant for submitit must not kill the run.
DEAF = ("sh", "-c", "trap '' USR1 USR2; exec \"$@\"", "sh")
STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # statuses of a command that was asked to end


class Request(NamedTuple):
    """What the command line asks for.

    Attributes:
      jobs: number of jobs, that is of shards.
      cluster: submitit's name of where they go.
      logs: folder of their logs.
      options: the others, as submitit calls them.
      command: arguments of `samop.main`.
      name: of the jobs.
    """

    jobs: int
    cluster: str
    logs: Path
    options: dict[str, Any]
    command: list[str]
    name: str


class Task:
    """What a job runs: a command of its own, which is asked to end before the job is queued again.

    In a process of its own, since a signal waits for compiled code that is running in this one.

    Args:
      command: words of the command line.
    """

    def __init__(self, command: Sequence[str]):
        self.command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Runs the command to its end. Raises RuntimeError where it fails."""
        print(shlex.join(self.command), flush=True)
        told = {**os.environ, stopping.STATUS: str(STOPPED[-1])}
        self._process = subprocess.Popen([*DEAF, *self.command], env=told)
        try:
            while (status := self._process.poll()) is None:
                time.sleep(LOOK)
            if status in STOPPED:
                time.sleep(STOPPING)  # the system's own end of the job, or a word to requeue it
        finally:
            self._stop()
        if status:
            raise RuntimeError(f"{shlex.join(self.command)} ended with status {status}")
        return status

    def checkpoint(self) -> Any:
        """What submitit queues again: the same command, which resumes."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        return DelayedSubmission(Task(self.command))

    def _stop(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        for _ in range(round(STOPPING / LOOK)):
            if process.poll() is not None:
                return
            time.sleep(LOOK)
        process.kill()


def parse(argv: Sequence[str]) -> Request:
    """Reads the arguments (without the program's name).

    Raises:
      UserError: anything wrong with them, those of `samop.main` included, in one line.
    """
    if "--" not in argv:
        raise UserError(
            "the arguments of samop.main come after `--`, as in --jobs=4 -- --config=FILE.py "
            "(--help explains)"
        )
    split = list(argv).index("--")
    command, options = list(argv[split + 1 :]), {}
    for word in argv[:split]:
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name.isidentifier():
            raise UserError(f"argument {word!r} is not understood: use --OPTION=VALUE")
        options[name] = _value(text) if equals else True
    own = {name: options.pop(name, None) for name in OWN}
    jobs = own["jobs"]
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        given = " is missing" if jobs is None else f"={jobs} is not allowed"
        raise UserError(f"--jobs{given}: the number of jobs, a whole number ≥ 1")
    if any(word.split("=")[0] in ("--shard", "-shard") for word in command):
        raise UserError("--shard is set for each job: leave it away")
    request = cli.parse([*command, f"--shard=0/{jobs}"])
    logs = Path(str(own["logs"] or request.workdir / "jobs"))
    options = {**DEFAULTS, "name": f"samop_{request.config.experiment}", **options}
    if isinstance(options.get("slurm_time"), str):
        raise UserError(f"--slurm_time={options['slurm_time']}: use --timeout_min=MINUTES")
    cluster = str(own["cluster"] or "slurm")
    return Request(jobs, cluster, logs, options, command, str(options["name"]))


def _value(text: str) -> Any:
    """4 → int, 1.5 → float, ['a'] → list; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def tasks(request: Request) -> list[Task]:
    """The jobs' tasks, in the order of their shards."""
    main = [sys.executable, "-m", "samop.main", *request.command]
    return [Task([*main, f"--shard={i}/{request.jobs}"]) for i in range(request.jobs)]


def submit(request: Request) -> list[Any]:
    """Submits; returns submitit's jobs.

    Raises:
      UserError: submitit is missing or refuses something, in one line.
    """
    try:
        import submitit
        from submitit.core.plugins import get_executors
    except ImportError:
        raise UserError('submitit is missing: pip install "samop[slurm]"') from None
    kinds = get_executors()
    if request.cluster not in kinds:
        raise UserError(
            f"--cluster={request.cluster} is unknown{nearest(request.cluster, kinds)}; "
            f"allowed: {', '.join(kinds)}"
        )
    making, options = {}, dict(request.options)
    for name in list(options):
        kind, _, parameter = name.partition("_")
        if kind in kinds and parameter in inspect.signature(kinds[kind]).parameters:
            making[name] = options.pop(name)
    more = options.get("slurm_additional_parameters", {})
    options["slurm_additional_parameters"] = {**REQUEUE, **more}
    try:
        executor = submitit.AutoExecutor(request.logs, cluster=request.cluster, **making)
        executor.update_parameters(**options)
        jobs = executor.submit_array(tasks(request))
    # What submitit raises for options that it does not know, or of a wrong type, and where there
    # is no Slurm or it refuses the job.
    except (
        NameError,
        AssertionError,
        ValueError,
        TypeError,
        RuntimeError,
        OSError,
        submitit.core.utils.FailedSubmissionError,
        subprocess.SubprocessError,
    ) as error:
        raise UserError(f"{request.cluster}: {' '.join(str(error).split())}") from None
    if request.cluster == "debug":
        for job in jobs:
            job.wait()  # which is what runs it
    return jobs


def main(argv: Sequence[str]) -> int:
    """Runs a command line (without the program's name); returns the exit status."""
    before = list(argv)[: list(argv).index("--")] if "--" in argv else argv
    if not {"--help", "-help", "-h"}.isdisjoint(before):
        print(HELP, end="")
        return 0
    try:
        request = parse(argv)
        jobs = submit(request)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"submitted {len(jobs)} jobs to {request.cluster}: {', '.join(j.job_id for j in jobs)}")
    print(f"logs: {jobs[0].paths.stdout} and so on")
    return 0


if __name__ == "__main__":
    # Not this `__main__`: what is pickled here should be found by its name in a job.
    from samop.submit import main as submit_main

    sys.exit(submit_main(sys.argv[1:]))
