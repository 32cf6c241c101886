"""Label noise: what SAM gains against width, rate by rate, and what the networks memorise.

python -m samop.main --config=configs/label_noise.py
python experiments/label_noise.py

Reads the sweep and writes to results/label_noise: gains.csv (last and best epoch), slopes.csv (the
gain per doubling of the parameters), parts.csv (accuracy on training examples with true labels, and
on flipped ones as the given and as the true label), and the figures gains and memorised.
"""

import pandas as pd
from common import (
    arguments,
    by_rate,
    chosen,
    gain,
    gain_rows,
    load,
    markdown,
    rate_label,
    summarised,
    write,
)

from samop import comparison, figures, wording
from samop.figures.layout import Heading
from samop.parts import NAMES

WHEN = {"last": "last epoch", "best": "epoch best on validation"}
TOLD = {
    "train_noisy_accuracy": "told as the wrong label",
    "train_noisy_true_accuracy": "told as the true label",
}
CELL = ["label_noise", "width", "parameters"]


def main() -> None:
    """Tables, figures and a summary of the sweep."""
    args = arguments("label_noise", __doc__)
    runs = load(args.workdir[0])
    gains = {epoch: comparison.gains(runs, epoch=epoch) for epoch in WHEN}
    slopes = pd.concat([comparison.slopes(runs, epoch=epoch) for epoch in WHEN])
    picked = chosen(runs, gains["last"], CELL)
    parts = pd.concat(
        summarised(picked, [*CELL, "optimizer"], f"last_{name}").assign(of=name) for name in NAMES
    )
    seeds = wording.span(gains["last"]["n"])
    data = f"{runs['dataset'].iloc[0]}, MLP of two hidden layers · n = {seeds} seeds"
    drawn = {
        "gains": figures.trends(
            {
                title: {name: gain_rows(rows) for name, rows in by_rate(gains[epoch]).items()}
                for epoch, title in WHEN.items()
            },
            Heading(
                "What SAM gains as labels get noisier, at the last and at the best epoch",
                [f"{data} · SAM − SGD on clean test data, ρ chosen on clean validation data"],
            ),
            "gain (points)",
        ),
        "memorised": figures.trends(
            _memorised(parts),
            Heading(
                "What the trained networks say of training examples whose label was flipped",
                [f"{data} · last epoch, ρ chosen on validation data"],
            ),
            "share of flipped examples (%)",
            reference=None,
            ordered=False,
            limits=(0, 100),
        ),
    }
    tables = {"gains": pd.concat(gains.values()), "slopes": slopes, "parts": parts}
    write(args.out, tables, drawn)
    print(markdown(_summary(gains, slopes)))


def _memorised(parts: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    panels = {}
    for rate, rows in parts[parts["label_noise"] > 0].groupby("label_noise"):
        lines = {}
        for optimizer in sorted(rows["optimizer"].unique(), reverse=True):  # SGD, SAM
            for name, text in TOLD.items():
                own = rows[(rows["of"] == name) & (rows["optimizer"] == optimizer)]
                scaled = own.assign(mean=100 * own["mean"], half95=100 * own["half95"])
                lines[f"{optimizer}: {text}"] = scaled
        panels[rate_label(rate)] = lines
    return panels


def _summary(gains: dict[str, pd.DataFrame], slopes: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for place, last in gains["last"].iterrows():
        best = gains["best"].loc[place]
        trend = slopes[
            (slopes["label_noise"] == last["label_noise"])
            & (slopes["epoch"] == "last")
            & (slopes["widths"] == "all")
        ].iloc[0]
        rows.append(
            {
                "labels": rate_label(last["label_noise"]),
                "width": last["width"],
                "SGD": f"{last['base_mean']:.1f}",
                "SAM": f"{last['sam_mean']:.1f}",
                "gain, last epoch": gain(last),
                "gain, best epoch": gain(best),
                "ρ*": f"{last['rho_star']:g}",
                "per doubling": gain(trend, 2, "slope"),
            }
        )
    return rows


if __name__ == "__main__":
    main()
