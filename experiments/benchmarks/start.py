"""Seconds from the command to the first training step, and to the end of a small digits run.

python experiments/benchmarks/start.py --repeats=5 --imports --json=start.json

The command is `python -m samop.main` for one width and one seed of digits_width.py (SGD and SAM,
clean and noisy), in a process of its own: cold with an empty SAMOP_CACHE, so that everything is
compiled, then warm with what that left there. It runs through start_child.py, which notes when the
process passes what. "First step" is the first call of a compiled epoch, counted from before the
process exists; "end" is when the process is gone. Beside them the parts in between, in order; a
part is what happened since the mark before. --imports also runs the warm command under
-X importtime, which slows it, and lists the packages whose own modules took longest before the
first step. Cold and warm take turns; all are medians.
Hardware: CPUs; half a minute a repeat on two cores. Nothing here fails because of a time.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sides as ours
from sides import head, row
from timing import summary

HERE = Path(__file__).resolve().parent
FIRST, END = "first step", "end"


def once(config: str, place: Path, cache: Path, *flags: str) -> tuple[dict[str, float], str]:
    """Runs the command in the new folder `place`.

    Returns:
      Seconds of each part, of "first step" and "end"; and its stderr.
    """
    place.mkdir()
    child = [sys.executable, *flags, str(HERE / "start_child.py"), str(place / "marks.json")]
    line = [*child, f"--config={config}", f"--workdir={place / 'work'}"]
    variables = {**os.environ, "SAMOP_CACHE": str(cache)}
    begin = time.time()
    done = subprocess.run(line, env=variables, capture_output=True, text=True, cwd=HERE.parents[1])
    end = time.time()
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{done.stderr}")
    marks = [*json.loads((place / "marks.json").read_text()), ("exit", end)]
    before = [begin, *(moment for _, moment in marks)]
    parts = {name: moment - last for (name, moment), last in zip(marks, before)}
    moments = dict(marks)
    return {**parts, FIRST: moments["first epoch called"] - begin, END: end - begin}, done.stderr


def imports(stderr: str) -> list[tuple[str, float]]:
    """Packages by the time that their own modules took before the first step, in seconds."""
    total: dict[str, float] = collections.defaultdict(float)
    for line in stderr.partition("FIRST STEP")[0].splitlines():
        if line.startswith("import time:") and "self" not in line:
            own, _, name = line.removeprefix("import time:").split("|")
            total[name.strip().partition(".")[0]] += int(own) / 1e6
    return sorted(total.items(), key=lambda item: -item[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/digits_width.py:width=8-8,seeds=1")
    parser.add_argument("--repeats", type=int, default=5, help="of cold and warm (default: 5)")
    parser.add_argument("--imports", action="store_true", help="list the dearest imports")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": ours.machine(), "options": vars(options)}
    runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    dearest: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for repeat in range(options.repeats):
            cache = folder / f"cache{repeat}"
            for state in runs:
                runs[state].append(once(options.config, folder / f"{state}{repeat}", cache)[0])
        if options.imports:
            flags = "-X", "importtime"
            dearest = imports(
                once(options.config, folder / "imports", folder / "cache0", *flags)[1]
            )
    names = list(dict.fromkeys(name for one in runs["cold"] + runs["warm"] for name in one))
    columns = {
        state: {name: np.array([one.get(name, np.nan) for one in found]) for name in names}
        for state, found in runs.items()
    }
    result["seconds"] = {
        state: {name: {**summary(values), "raw": values.tolist()} for name, values in found.items()}
        for state, found in columns.items()
    }
    print(f"\n{options.config}, {options.repeats} repeats")
    head("seconds to", "cold: median", "min", "max", "warm: median", "min", "max")
    for name in (FIRST, END):
        stats = [result["seconds"][state][name] for state in runs]
        row(name, *(f"{one[key]:.2f}" for one in stats for key in ("median", "min", "max")))
    head("part (medians)", "cold", "warm")
    for name in names:
        if name not in (FIRST, END):
            row(name, *(f"{result['seconds'][state][name]['median']:.3f}" for state in runs))
    if dearest:
        result["imports"] = dearest
        head("package", "seconds of its own modules before the first step")
        for name, seconds in dearest[:10]:
            row(name, f"{seconds:.3f}")
        row("all", f"{sum(seconds for _, seconds in dearest):.3f}")
    ours.save(options.json, result)


if __name__ == "__main__":
    main()
