"""The eight-panel figure: what SAM gains in each of the paper's workloads as networks grow.

python experiments/eight_workloads.py [--out=experiments/results/eight_workloads]

Draws what the sweeps left in experiments/results, whose README has their commands, and prints it as
a table. Where a machine that reaches no data host trained, the panel names the data that it had,
not the paper's.
"""

import argparse
from pathlib import Path

import pandas as pd

from samop import figures, wording
from samop.errors import UserError

RESULTS = Path(__file__).parent / "results"
# Folder of the results → data and network; a line each, in the paper's order.
PANELS = {
    "synthetic_width": "Teacher–student, MLP",
    "mnist_width": "MNIST, MLP",
    "cifar_width": "CIFAR-10, ResNet-18",
    "imagenet_width": "CIFAR-10 at 64 px, ResNet-50",
    "pos_width": "Brown corpus tags, Transformer",
    "sst2_width": "Movie snippets, LSTM",
    "molpcba_width": "MoleculeACE, GCN",
    "atari_width": "MinAtar Breakout, PPO",
}


def gains(folder: Path) -> pd.DataFrame:
    """The rows of a sweep's results at the last epoch, ρ chosen on validation data."""
    file = folder / "results.csv"
    if not file.exists():
        raise UserError(f"{file} is missing: run the sweep that the README there names")
    table = pd.read_csv(file, dtype={"width": str})
    return table[(table["epoch"] == "last") & (table["choice"] == "validation")]


def rows(title: str, folder: Path) -> list[str]:
    """A workload in the table: a line a width, and what the gain does per doubling."""
    slopes = pd.read_csv(folder / "slopes.csv")
    kept = (slopes["epoch"] == "last") & (slopes["choice"] == "validation")
    slope = slopes[kept & (slopes["widths"] == "all")].iloc[0]
    lines = []
    for place, row in enumerate(gains(folder).to_dict("records")):
        digits = 2 if row["unit"] == "points" else 4 if row["metric"] == "loss" else 1

        def number(name, row=row, digits=digits, sign=False):
            value, half = row[f"{name}_mean" if name != "gain" else name], row[f"{name}_half95"]
            return wording.with_interval(value, half, digits, sign=sign)

        trend = wording.with_interval(slope["slope"], slope["slope_half95"], digits, sign=True)
        cells = [
            "" if place else title,
            row["width"],
            f"{row['parameters']:,}",
            number("base"),
            number("sam"),
            number("gain", sign=True),
            f"{row['rho_star']:g}",
            "" if place else f"{trend} (n = {row['n']})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Reads the tables, prints them as one and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "eight_workloads")
    out = parser.parse_args().out
    tables = {title: gains(RESULTS / folder) for folder, title in PANELS.items()}
    head = (
        "data, network",
        "width",
        "parameters",
        "base",
        "SAM",
        "gain",
        "ρ*",
        "gain per doubling",
    )
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for folder, title in PANELS.items():
        print("\n".join(rows(title, RESULTS / folder)))
    for path in figures.save(figures.domains(tables), out / "gains"):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
