"""The eight-panel figure: what SAM gains in each of the paper's workloads as networks grow.

python experiments/eight_workloads.py [--out=experiments/results/eight_workloads]

Draws what the sweeps left in experiments/results; each folder's command is in its README. Where a
machine that reaches no data host trained, the panel names the data that it had, not the paper's.
"""

import argparse
from pathlib import Path

import pandas as pd

from samop import figures
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


def main() -> None:
    """Reads the tables and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "eight_workloads")
    out = parser.parse_args().out
    tables = {title: gains(RESULTS / folder) for folder, title in PANELS.items()}
    for path in figures.save(figures.domains(tables), out / "gains"):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
