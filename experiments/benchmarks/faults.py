"""What breaks while a sweep runs, done to it on purpose, and what it costs: a table.

python experiments/benchmarks/faults.py --times=20

Each row: a fault, how it is provoked, how often; whether the command said what it should, how many
runs were lost, and whether all records, tables and final parameters are afterwards bitwise those of
a sweep that nothing happened to. Real commands, real signals. Kills come a random moment after the
sweep has passed a random share of its rows, so that they are spread over imports, compilation,
training, checkpoints and the report however fast the machine is. A full disk and a read-only one
are mounts of their own (Linux, `unshare`). Some twenty minutes on two cores.
"""

import argparse
import contextlib
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from samop import checkpoint, records

CONFIG = "configs/digits_width.py:width=16-16+64-64,seeds=4"
DAY = 86_400


class Outcome(NamedTuple):
    """What became of one fault.

    Attributes:
      how: how it was provoked.
      times: how often.
      told: what the command said or did, each time the same.
    """

    how: str
    times: int
    told: str


class Sweep:
    """A small sweep in a folder, and the moments to disturb it at."""

    def __init__(self, options: argparse.Namespace, workdir: Path, rows: int):
        self.options, self.workdir, self.rows = options, workdir, rows
        self.rng = random.Random(options.seed)

    def line(self, *flags: str) -> list[str]:
        """The command line; checkpoints come every few tenths of a second."""
        fields = f"--config.run.checkpoint_seconds={self.options.checkpoint_seconds}"
        main = [sys.executable, "-m", "samop.main", f"--config={self.options.config}"]
        return [*main, fields, f"--workdir={self.workdir}", *flags]

    def start(self, *flags: str, line: list[str] | None = None) -> subprocess.Popen[str]:
        """Starts the command."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            line or self.line(*flags), stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def finish(self) -> str:
        """Runs the command, which must succeed; what it said."""
        process = self.start()
        text, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(process.args)} failed:\n{text}")
        return text

    def written(self) -> int:
        """Rows on the disk."""
        files = (self.workdir / "points").glob("*/metrics.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    def moments(self, times: int) -> Iterator[Callable[[subprocess.Popen[str]], bool]]:
        """Functions that wait for a random moment of a process; False: it had ended before."""
        shares = sorted(self.rng.uniform(0, 0.9) for _ in range(times))
        for share, delay in zip(shares, (self.rng.uniform(0, 2) for _ in range(times))):

            def wait(process, share=share, delay=delay):
                return self.until(process, lambda: self.written() >= share * self.rows, delay)

            yield wait

    def until(
        self, process: subprocess.Popen[str], there: Callable[[], bool], delay: float = 0.0
    ) -> bool:
        """Waits until something is there and a little longer; False: the process ended before."""
        passed = None
        while process.poll() is None:
            now = time.monotonic()
            if passed is None and there():
                passed = now
            if passed is not None and now - passed >= delay:
                return True
            time.sleep(0.005)
        return False


def killed(sweep: Sweep) -> Outcome:
    """SIGKILL at random moments."""
    hit = 0
    for wait in sweep.moments(sweep.options.times):
        process = sweep.start()
        hit += wait(process)
        process.kill()
        process.communicate()
    return Outcome("SIGKILL, a random moment", hit, "–")


def killed_while_saving(sweep: Sweep) -> Outcome:
    """SIGKILL while a checkpoint is being written."""

    def saving() -> bool:
        return bool(list(sweep.workdir.glob("groups/*/checkpoints/.*.tmp")))

    hit = 0
    for _ in range(max(1, sweep.options.times // 4)):
        process = sweep.start()
        hit += sweep.until(process, saving)
        process.kill()
        process.communicate()
    return Outcome("SIGKILL, a temporary checkpoint folder being there", hit, "–")


def stopped(sweep: Sweep) -> Outcome:
    """SIGTERM at random moments: exit 0 and what to do."""
    hit = 0
    for wait in sweep.moments(sweep.options.times + 8):
        process = sweep.start()
        in_time = wait(process)
        process.terminate()
        text, _ = process.communicate()
        if process.returncode == -signal.SIGTERM and not text:
            continue  # Python was starting still, and no line of samop had run
        expect(process.returncode == 0, f"status {process.returncode}: {text}")
        # It may come when nothing is left but the report.
        hit += in_time and "stopped by SIGTERM; resume with: python -m samop.main" in text
    return Outcome("SIGTERM, a random moment", hit, "exit 0, “stopped by SIGTERM; resume with …”")


def half_done(sweep: Sweep) -> None:
    """Leaves the sweep in its middle, with checkpoints."""
    process = sweep.start()
    saved = lambda: len(list(sweep.workdir.glob("groups/*/checkpoints/[0-9]*"))) > 1  # noqa: E731
    if not sweep.until(process, saved):
        raise RuntimeError("the sweep was over before it had two checkpoints")
    process.kill()
    process.communicate()


def flip(file: Path, rng: random.Random) -> None:
    """Flips one random bit."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(file: Path, rng: random.Random) -> None:
    """Cuts off a random share of the end."""
    file.write_bytes(file.read_bytes()[: -rng.randint(1, max(1, file.stat().st_size // 2))])


def damaged(what: str, pattern: str, newest: bool = False) -> Callable[[Sweep], Outcome]:
    """A fault: files of a kind are flipped or cut in a sweep that is half done."""

    def fault(sweep: Sweep) -> Outcome:
        times = max(2, sweep.options.times // 4)
        for number in range(times):
            half_done(sweep)
            files = [f for f in sweep.workdir.glob(pattern) if f.is_file() and f.stat().st_size]
            if newest:
                last = max(int(f.relative_to(sweep.workdir).parts[3]) for f in files)
                files = [f for f in files if f.relative_to(sweep.workdir).parts[3] == str(last)]
            (flip, truncate)[number % 2](sweep.rng.choice(sorted(files)), sweep.rng)
        return Outcome(f"a bit flipped, or the end cut off, of {what}", times, "–")

    return fault


def disk(sweep: Sweep, mount: str) -> str:
    """The command with its folder on a mount of its own; what it said, its status checked.

    What it leaves there takes the place of the sweep's folder.
    """
    folder = sweep.workdir.parent / "mount"
    folder.mkdir(exist_ok=True)
    line = shlex.join(sweep.line()).replace(str(sweep.workdir), f"{folder}/w")
    kept = (
        f"rm -rf {sweep.workdir}; if test -e {folder}/w; then cp -a {folder}/w {sweep.workdir}; fi"
    )
    script = f"mount {mount} {folder} && {{ {line}; status=$?; {kept}; exit $status; }}"
    process = sweep.start(line=["unshare", "-rm", "sh", "-c", script])
    text, _ = process.communicate()
    expect(process.returncode == 2, f"status {process.returncode}: {text}")
    return text.rstrip().splitlines()[-1]


def full(sweep: Sweep) -> Outcome:
    """A disk that is full before the sweep is over, of several sizes."""
    sizes = (150, 400, 700, 1100, 1600)
    for size in sizes:
        said = disk(sweep, f"-t tmpfs -o size={size}k tmpfs")
        expect("No space left on device" in said, said)
    return Outcome(
        "a file system of 150 kB … 1.6 MB", len(sizes), "exit 2, “No space left on device …”"
    )


def read_only(sweep: Sweep) -> Outcome:
    """A folder on a file system that cannot be written."""
    said = disk(sweep, "-t tmpfs -o ro tmpfs")
    expect("cannot be written" in said, said)
    return Outcome("a read-only file system", 1, "exit 2, “… cannot be written …”")


JUMPING = """
import random, sys, time
true, rng = time.time, random.Random(0)
time.time = lambda: true() + rng.choice((-1, 0, 1)) * {day}
from samop.main import main
sys.exit(main(sys.argv[1:]))
"""


def clock(sweep: Sweep) -> Outcome:
    """A wall clock that jumps by a day, back and forth, at every look."""
    times = 3
    for wait in sweep.moments(times):
        line = [sys.executable, "-c", JUMPING.format(day=DAY), *sweep.line()[3:]]
        process = sweep.start(line=line)
        wait(process)
        process.kill()
        process.communicate()
    return Outcome("the wall clock ± 1 day at every look, and SIGKILL", times, "–")


def two_workers(sweep: Sweep) -> Outcome:
    """Two commands at once in one folder, one of which is killed."""
    times = max(2, sweep.options.times // 4)
    for wait in sweep.moments(times):
        both = [sweep.start() for _ in range(2)]
        wait(both[0])
        sweep.rng.choice(both).kill()
        for process in both:
            text, _ = process.communicate()
            expect(process.returncode in (0, -signal.SIGKILL), text)
    return Outcome("two commands in one folder, SIGKILL to one", times, "the other goes on")


def pair(sweep: Sweep, folder: Path) -> list[subprocess.Popen[str]]:
    """Two processes that train together in a folder, with a device each."""
    port = 20_000 + sweep.rng.randrange(20_000)
    line = [word.replace(str(sweep.workdir), str(folder)) for word in sweep.line()]
    join = [f"--coordinator=localhost:{port}", "--processes=2"]
    single = ["env", "JAX_NUM_CPU_DEVICES=1"]
    return [sweep.start(line=[*single, *line, *join, f"--process={i}"]) for i in range(2)]


def one_of_two_processes(sweep: Sweep) -> Outcome:
    """One of two processes that train together dies; the other one ends within 30 s."""
    times, slowest = max(2, sweep.options.times // 4), 0.0
    folder, unbroken = (sweep.workdir.parent / name for name in ("broken", "unbroken"))
    for number in range(times):
        both = pair(sweep, folder)
        before = saved(folder)
        if not sweep.until(both[0], lambda: saved(folder) - before, sweep.rng.uniform(0, 1)):  # noqa: B023
            raise RuntimeError(both[0].communicate()[0])
        both[number % 2].kill()
        begin = time.monotonic()
        status = both[1 - number % 2].wait(60)
        slowest = max(slowest, time.monotonic() - begin)
        expect(status != 0, "the survivor ended as if nothing had been")
        for process in both:
            process.communicate()
    expect(slowest < 30, f"a survivor took {slowest:.0f} s")
    for place in (folder, unbroken):
        for process in pair(sweep, place):
            text, _ = process.communicate()
            expect(process.returncode == 0, text)
    unlike = differences(unbroken, folder)
    expect(not unlike, f"two processes are not what they are unbroken: {unlike[:3]}")
    return Outcome(
        "SIGKILL to one of two processes", times, f"the other ends, ≤ {slowest:.1f} s, status ≠ 0"
    )


def saved(folder: Path) -> set[tuple[Path, int]]:
    """The checkpoints of a folder, with their times."""
    found = folder.glob("groups/*/checkpoints/[0-9]*")
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile: at the next look
        return {(path, path.stat().st_mtime_ns) for path in found}
    return set()


FAULTS: dict[str, Callable[[Sweep], Outcome]] = {
    "killed": killed,
    "killed while saving": killed_while_saving,
    "asked to end": stopped,
    "checkpoint damaged": damaged("the newest checkpoint", "groups/*/checkpoints/*/**/*", True),
    "metrics.jsonl damaged": damaged("a metrics.jsonl", "points/*/metrics.jsonl"),
    "config.json damaged": damaged("a config.json", "points/*/config.json"),
    "disk full": full,
    "read-only": read_only,
    "clock jumps": clock,
    "two workers": two_workers,
    "a process dies": one_of_two_processes,
}


def expect(so: bool, words: str) -> None:
    """Ends with an error where something is not as it should be."""
    if not so:
        raise RuntimeError(words)


def lost(calm: Path, stormy: Path) -> int:
    """Runs of the calm sweep that the other one has not finished."""
    done = lambda w: {f.parent.name for f in (w / "points").glob("*/DONE")}  # noqa: E731
    return len(done(calm) - done(stormy))


def differences(a: Path, b: Path) -> list[str]:
    """Names of what is not bitwise equal: records, tables, final parameters."""
    wrong = []
    for file in (*a.glob("points/*/metrics.jsonl"), *a.glob("*.csv")):
        twin = b / file.relative_to(a)
        if not twin.exists() or _lasting(twin) != _lasting(file):
            wrong.append(str(file.relative_to(a)))
    for point in a.glob("points/*"):
        ours, theirs = (_flat(checkpoint.load(w / "points" / point.name)) for w in (a, b))
        if any(not np.array_equal(ours[k], theirs[k]) for k in ours):
            wrong.append(point.name)
        records.read_rows(b / "points" / point.name / "metrics.jsonl")  # checksums
    return wrong


def _lasting(file: Path) -> bytes:
    """What a file says, but for speeds."""
    if file.name != "runs.csv":
        return file.read_bytes()
    table = pd.read_csv(file, dtype=str)
    slow = [column for column in table if column.endswith("_per_second")]
    return table.drop(columns=slow).to_csv().encode()


def _flat(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for key, value in tree.items():
        own = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        flat.update(own)
    return flat


def main() -> int:
    """Prints the table; returns 0 where nothing was lost and everything is equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--times", type=int, default=20, help="of the random kills (default: 20)")
    parser.add_argument("--only", default="", help="faults, joined by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--checkpoint_seconds", type=float, default=0.2)
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(FAULTS)
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        calm = Sweep(options, Path(name, "calm"), 1)
        calm.finish()
        rows = calm.written()
        print(f"`{options.config}`, {rows} rows\n")
        print("| fault | how | times | what it did | runs lost | bitwise equal after |")
        print("|---|---|---|---|---|---|", flush=True)
        for number, fault in enumerate(chosen):
            stormy = Sweep(options, Path(name, str(number), "w"), rows)
            stormy.workdir.parent.mkdir()
            outcome = FAULTS[fault](stormy)
            stormy.finish()
            missing, unlike = lost(calm.workdir, stormy.workdir), []
            if not missing:
                unlike = differences(calm.workdir, stormy.workdir)
            wrong += missing + len(unlike)
            equal = "yes" if not unlike else f"no: {unlike[:3]}"
            cells = (fault, outcome.how, outcome.times, outcome.told, missing, equal)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
