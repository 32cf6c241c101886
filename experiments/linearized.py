"""Linearised and lazy networks, and depth instead of width: when SAM's gain is there, and not.

python -m samop.main --config=configs/linearized.py
python -m samop.main --config=configs/depth.py
python experiments/linearized.py

Reads both sweeps and writes to results/linearized: gains.csv and slopes.csv (network, expansion,
lazy network with ρ scaled by 1/α and not), fixed.csv (every fixed ρ), memorised.csv (flipped
training examples that are told as their wrong label), depth_gains.csv,
depth_slopes.csv, and the figures linearized and depth.
"""

import numpy as np
import pandas as pd
from common import arguments, chosen, gain, gain_rows, load, markdown, rate_label, summarised, write

from samop import comparison, figures, wording
from samop.figures.layout import Heading

MODE = "linearized.mode"
CELL = ["label_noise", "width", "parameters"]
ALPHA = 10.0
NAMES = {
    "none": "the network",
    "jvp": "its first-order expansion",
    "scaled": f"lazy, α = {ALPHA:g}, ρ as of the network / α",
    "unscaled": f"lazy, α = {ALPHA:g}, ρ as of the network",
}


def arms(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of each kind of network; of the lazy one twice, by the ρ that may be chosen."""
    grid = runs.loc[(runs[MODE] == "none") & (runs["transform"] != "base"), "rho"].unique()
    base = runs["transform"] == "base"

    def near(values):
        return np.isclose(runs["rho"].to_numpy()[:, None], values).any(axis=1)

    lazy = runs[MODE] == "lazy"
    return {
        "none": runs[runs[MODE] == "none"],
        "jvp": runs[runs[MODE] == "jvp"],
        "scaled": runs[lazy & (base | near(grid / ALPHA))],
        "unscaled": runs[lazy & (base | near(grid))],
    }


def main() -> None:
    """Tables, figures and a summary of both sweeps."""
    args = arguments("linearized", __doc__, ["linearized", "depth"])
    runs, deep = (load(folder) for folder in args.workdir)
    parts = arms(runs)
    gains = pd.concat(
        comparison.gains(part, epoch=epoch).assign(arm=arm)
        for arm, part in parts.items()
        for epoch in comparison.EPOCHS
    )
    slopes = pd.concat(
        comparison.slopes(part, epoch=epoch).assign(arm=arm)
        for arm, part in parts.items()
        for epoch in comparison.EPOCHS
    )
    fixed = pd.concat(
        comparison.gains(runs, choice=rho).assign(rho=rho) for rho in comparison.rho_grid(runs)
    )
    memorised = pd.concat(
        _memorised(part, gains[(gains["arm"] == arm) & (gains["epoch"] == "last")]).assign(arm=arm)
        for arm, part in parts.items()
    )
    depth = pd.concat(comparison.gains(deep, epoch=epoch) for epoch in comparison.EPOCHS)
    trends = pd.concat(comparison.slopes(deep, epoch=epoch) for epoch in comparison.EPOCHS)
    last = gains[gains["epoch"] == "last"]
    data = f"{runs['dataset'].iloc[0]}, MLP · n = {wording.span(last['n'])} seeds"
    told = "SAM − SGD on clean test data at the last epoch, ρ chosen on clean validation data"
    drawn = {
        "linearized": figures.trends(
            {
                rate_label(rate): {
                    NAMES[arm]: gain_rows(rows[rows["arm"] == arm]) for arm in NAMES
                }
                for rate, rows in last.groupby("label_noise")
            },
            Heading("What SAM gains where features are learned, and where not", [data, told]),
            "gain (points); wide intervals leave the axis",
            ordered=False,
        ),
        "depth": figures.trends(
            {
                rate_label(rate): {
                    when: gain_rows(rows[rows["epoch"] == epoch])
                    for epoch, when in (("last", "last epoch"), ("best", "best epoch"))
                }
                for rate, rows in depth.assign(width=_layers(depth)).groupby("label_noise")
            },
            Heading(
                "Depth instead of width: what SAM gains",
                [f"{data} · one to six hidden layers of 64 units", told.replace(" at the last", "")
                 .replace(" epoch,", ",")],
            ),
            "gain (points)",
            ordered=False,
            share=False,
        ),
    }  # fmt: skip
    tables = {
        "gains": gains,
        "slopes": slopes,
        "fixed": fixed,
        "memorised": memorised,
        "depth_gains": depth,
        "depth_slopes": trends,
    }
    write(args.out, tables, drawn)
    print(markdown(_summary(last)))
    print()
    print(markdown(_depth_summary(depth, trends)))


def _memorised(part: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """Share of the flipped training examples that are told as their wrong label, at ρ*."""
    picked = chosen(part[part["label_noise"] > 0], gains, CELL)
    return summarised(picked, [*CELL, "optimizer"], "last_train_noisy_accuracy")


def _layers(table: pd.DataFrame) -> pd.Series:
    count = table["width"].str.count("-") + 1
    return count.map(lambda n: f"{n} layer{'s' if n > 1 else ''}")


def _summary(last: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for (arm, rate), own in last.groupby(["arm", "label_noise"], sort=False):
        line = {"network": NAMES[arm], "labels": rate_label(rate)}
        for row in own.to_dict("records"):
            line[row["width"]] = f"{row['base_mean']:.1f}, {gain(row)} (ρ* {row['rho_star']:g})"
        rows.append(line)
    return rows


def _depth_summary(depth: pd.DataFrame, trends: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for (rate, epoch), own in depth.groupby(["label_noise", "epoch"], sort=False):
        line = {"labels": rate_label(rate), "epoch": epoch}
        line |= {name: gain(row) for name, (_, row) in zip(_layers(own), own.iterrows())}
        kept = (trends["label_noise"] == rate) & (trends["epoch"] == epoch)
        line["per doubling"] = gain(trends[kept & (trends["widths"] == "all")].iloc[0], 2, "slope")
        rows.append(line)
    return rows


if __name__ == "__main__":
    main()
