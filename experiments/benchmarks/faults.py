"""Kills a sweep at random moments, resumes it each time, and compares with one never killed.

python experiments/benchmarks/faults.py --kills=5 --config=configs/digits_width.py:width=16-16+64-64

Each SIGKILL comes a random moment after the sweep has passed a random share of its rows, so that
the kills are spread over imports, compilation, training, checkpoints and the report however
fast the machine is. Prints a table: when each kill came, what was on the disk then; then whether
all records, the tables and the final parameters are bitwise equal.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from samop import checkpoint


def command(config: str, workdir: Path, every: float) -> list[str]:
    """The sweep's command line; checkpoints come every few seconds."""
    fields = [f"--config.run.checkpoint_seconds={every}", f"--workdir={workdir}"]
    return [sys.executable, "-m", "samop.main", f"--config={config}", *fields]


def run_to_the_end(line: list[str]) -> float:
    """Runs a command that must succeed; returns its wall time in seconds."""
    begin = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)} failed:\n{done.stderr}")
    return time.monotonic() - begin


def state(workdir: Path) -> tuple[int, int, int]:
    """(finished runs, rows on the disk, checkpoints of unfinished groups)."""
    rows = sum(f.read_bytes().count(b"\n") for f in (workdir / "points").glob("*/metrics.jsonl"))
    saved = len(list((workdir / "groups").glob("*/checkpoints/[0-9]*")))
    return len(list((workdir / "points").glob("*/DONE"))), rows, saved


def kill(line: list[str], workdir: Path, rows: int, delay: float) -> float:
    """Starts a command and kills it `delay` seconds after `rows` rows are there.

    Returns:
      Seconds from start to kill; NaN where the command ended before.
    """
    begin, passed = time.monotonic(), None
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if passed is None and state(workdir)[1] >= rows:
            passed = time.monotonic()
        if passed is not None and time.monotonic() - passed >= delay:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return time.monotonic() - begin
        time.sleep(0.02)
    return float("nan")


def differences(a: Path, b: Path) -> list[str]:
    """Names of what is not bitwise equal: records, tables, final parameters."""
    wrong = []
    files = [*a.glob("points/*/metrics.jsonl"), *a.glob("*.csv")]
    for file in files:
        twin = b / file.relative_to(a)
        if not twin.exists() or twin.read_bytes() != file.read_bytes():
            wrong.append(str(file.relative_to(a)))
    for final in a.glob("groups/*/final"):
        ours, theirs = (checkpoint.restore_arrays(w / final.relative_to(a)) for w in (a, b))
        if any(not np.array_equal(ours[k], theirs[k]) for k in ours):
            wrong.append(str(final.relative_to(a)))
    return wrong


def main() -> int:
    """Prints the table; returns 0 where everything is equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/digits_width.py:width=16-16+64-64")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--checkpoint_seconds", type=float, default=0.5)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, stormy = Path(folder, "calm"), Path(folder, "stormy")
        seconds = run_to_the_end(command(options.config, calm, options.checkpoint_seconds))
        runs, rows, _ = state(calm)
        print(f"never killed: {seconds:.1f} s, {runs} runs, {rows} rows")
        targets = sorted(rng.uniform(0, 0.95) * rows for _ in range(options.kills))
        print("kill  after s  runs done  rows on disk  checkpoints")
        line = command(options.config, stormy, options.checkpoint_seconds)
        for number, target in enumerate(targets, 1):
            moment = kill(line, stormy, int(target), rng.uniform(0, 2.5))
            done, rows, saved = state(stormy)
            print(f"{number:4}  {moment:7.1f}  {done:9}  {rows:12}  {saved:11}", flush=True)
        print(f"resumed to the end in {run_to_the_end(line):.1f} s")
        wrong = differences(calm, stormy)
        files = len(list(calm.glob("points/*/metrics.jsonl")))
        print(f"compared {files} records, the tables and all final parameters: ", end="")
        print("bitwise equal" if not wrong else f"{len(wrong)} differ: {wrong[:3]}")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
