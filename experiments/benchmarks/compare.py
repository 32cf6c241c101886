"""Compares the records of two work folders run by run.

python experiments/benchmarks/compare.py A B

Prints how many records agree byte for byte and, for each metric, the largest absolute difference in
any row and in the last row. Exit status 1 where the runs or their rows are not the same ones.
"""

import sys
from pathlib import Path

from samop import records


def compare(a: Path, b: Path) -> tuple[int, int, dict[str, tuple[float, float]]]:
    """(runs, records equal byte for byte, metric → largest difference anywhere and at the end).

    Raises:
      ValueError: a run or a row is in one folder only.
    """
    names = [sorted(p.parent.name for p in (w / "points").glob("*/metrics.jsonl")) for w in (a, b)]
    if names[0] != names[1]:
        raise ValueError(f"{len(set(names[0]) ^ set(names[1]))} runs are in one folder only")
    equal, worst = 0, {}
    for name in names[0]:
        files = [w / "points" / name / "metrics.jsonl" for w in (a, b)]
        equal += files[0].read_bytes() == files[1].read_bytes()
        mine, yours = map(records.read_rows, files)
        if [row["step"] for row in mine] != [row["step"] for row in yours]:
            raise ValueError(f"{name}: rows differ")
        for row, other in zip(mine, yours):
            for key in row.keys() - {"step", "epoch"}:
                difference = abs(row[key] - other[key]) if row[key] != other[key] else 0.0
                anywhere, _ = worst.get(key, (0.0, 0.0))
                worst[key] = max(anywhere, difference), worst.get(key, (0.0, 0.0))[1]
        for key in mine[-1].keys() - {"step", "epoch"}:
            anywhere, end = worst[key]
            worst[key] = anywhere, max(end, abs(mine[-1][key] - yours[-1][key]))
    return len(names[0]), equal, worst


def main(a: str, b: str) -> int:
    """Prints the comparison; returns the exit status."""
    try:
        runs, equal, worst = compare(Path(a), Path(b))
    except ValueError as error:
        print(f"not the same runs: {error}")
        return 1
    print(f"{runs} runs with the same rows, {equal} of them byte for byte the same")
    print(f"{'largest difference':24}  any row    last row")
    for key, (anywhere, end) in sorted(worst.items()):
        print(f"  {key:22}  {anywhere:<9.3g}  {end:.3g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
