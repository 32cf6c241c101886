"""The eight-panel figure: what SAM gains in each of the paper's workloads as networks grow.

python experiments/eight_workloads.py [--out=experiments/results/eight_workloads]

Draws what the sweeps left in experiments/results, whose README has their commands, and prints it as
a table. Where a machine that reaches no data host trained, the panel names the data that it had,
not the paper's.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from samop import figures, wording
from samop.errors import UserError

RESULTS = Path(__file__).parent / "results"
# Folders of the results, in the paper's order.
FOLDERS = (
    "synthetic_width",
    "mnist_width",
    "cifar_width",
    "imagenet_width",
    "pos_width",
    "sst2_width",
    "molpcba_width",
    "atari_width",
)
# How the title of a panel calls data and network.
DATA = {
    "synthetic": "Teacher–student",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "imagenet2012": "ImageNet",
    "imagenette": "Imagenette",
    "universal_dependencies": "Ancient Greek tags",
    "brown": "Brown corpus tags",
    "turkish_web": "Turkish web tags",
    "sst2": "SST-2",
    "movie_snippets": "Movie snippets",
    "ogbg_molpcba": "ogbg-molpcba",
    "moleculeace": "MoleculeACE",
    "minatar_breakout": "MinAtar Breakout",
    "atari_pong": "Atari Pong",
}
NETWORKS = {
    "mlp": "MLP",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "transformer": "Transformer",
    "lstm": "LSTM",
    "gcn": "GCN",
    "minatar_cnn": "CNN by PPO",
    "nature_cnn": "CNN by PPO",
}


def gains(folder: Path) -> pd.DataFrame:
    """The rows of a sweep's results at the last epoch, ρ chosen on validation data."""
    file = folder / "results.csv"
    if not file.exists():
        raise UserError(f"{file} is missing: run the sweep that the README there names")
    table = pd.read_csv(file, dtype={"width": str})
    return table[(table["epoch"] == "last") & (table["choice"] == "validation")]


def title(table: pd.DataFrame) -> str:
    """What a panel shows, by what its table says."""
    data, network = table["dataset"].iloc[0], table["model"].iloc[0]
    return f"{DATA.get(data, data)}, {NETWORKS.get(network, network)}"


def rows(folder: Path) -> list[str]:
    """A workload in the table: a line a width, and what the gain does per doubling."""
    slopes = pd.read_csv(folder / "slopes.csv")
    kept = (slopes["epoch"] == "last") & (slopes["choice"] == "validation")
    slope = slopes[kept & (slopes["widths"] == "all")].iloc[0]
    lines = []
    table = gains(folder)
    for place, row in enumerate(table.to_dict("records")):
        digits = 2 if row["unit"] == "points" else 4 if row["metric"] == "loss" else 1

        def number(name, row=row, digits=digits, sign=False):
            value, half = row[f"{name}_mean" if name != "gain" else name], row[f"{name}_half95"]
            return wording.with_interval(value, half, digits, sign=sign)

        trend = wording.with_interval(slope["slope"], slope["slope_half95"], digits, sign=True)
        cells = [
            "" if place else title(table),
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
    try:
        found = [gains(RESULTS / folder) for folder in FOLDERS]
    except UserError as error:
        sys.exit(f"eight_workloads: {error}")
    tables = {title(table): table for table in found}
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
    for folder in FOLDERS:
        print("\n".join(rows(RESULTS / folder)))
    for path in figures.save(figures.domains(tables), out / "gains"):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
