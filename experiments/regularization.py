"""Regularisation: decay, BatchNorm, early stopping, augmentation, and a weak inductive bias.

python -m samop.main --config=configs/regularization.py
python -m samop.main --config=configs/inductive_bias.py
python experiments/regularization.py

Reads both sweeps and writes to results/regularization: gains.csv and slopes.csv (MLPs),
short_gains.csv and short_slopes.csv (the same with no ρ above .5, which is where the gain seems to
fall with the width), norms.csv (‖w‖ and ρ/‖w‖ at the end), vit_gains.csv and vit_slopes.csv, and
the figures decay (gain against width by decay, with and without BatchNorm, last and best epoch),
norms and vit.
"""

import numpy as np
import pandas as pd
from common import arguments, chosen, gain, gain_rows, load, markdown, rate_label, summarised, write

from samop import comparison, figures, wording
from samop.figures.layout import Heading

WHEN = {"last": "last epoch", "best": "early stopping"}
DECAY, NORM, AUGMENT = "optimizer.weight_decay", "model.norm", "data.augment"
CELL = [NORM, DECAY, "label_noise", "width", "parameters"]
SHORT = 0.5  # the largest ρ of the shorter grid
NETWORKS = {"none": "no BatchNorm", "batch": "BatchNorm"}


def decay_label(value: float) -> str:
    """How a decay is called."""
    return f"decay {value:g}" if value else "no decay"


def by_decay(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each decay as `figures.trends` wants them, by its label."""
    return {decay_label(decay): gain_rows(rows) for decay, rows in table.groupby(DECAY)}


def main() -> None:
    """Tables, figures and a summary of both sweeps."""
    args = arguments("regularization", __doc__, ["regularization", "inductive_bias"])
    runs, vit = (load(folder) for folder in args.workdir)
    gains, slopes = _tables(runs)
    vit_gains, vit_slopes = _tables(vit)
    # What a sweep that stops at a smaller ρ would have said.
    short_gains, short_slopes = _tables(runs[runs["rho"] <= SHORT])
    norms = _norms(runs, gains)
    panels = {}
    for norm, name in NETWORKS.items():
        for rate in sorted(runs["label_noise"].unique()):
            for epoch, when in WHEN.items():
                here = gains[
                    (gains[NORM] == norm)
                    & (gains["label_noise"] == rate)
                    & (gains["epoch"] == epoch)
                ]
                labels = rate_label(rate).replace(" of labels", "")
                panels[f"{name}, {labels}, {when}"] = by_decay(here)
    seeds = wording.span(gains["n"])
    data = f"{runs['dataset'].iloc[0]}, MLP of two hidden layers · n = {seeds} seeds"
    drawn = {
        "decay": figures.trends(
            panels,
            Heading(
                "Weight decay, BatchNorm and early stopping: what SAM gains with each",
                [f"{data} · SAM − SGD on test data, both with that decay, ρ chosen on validation "
                 "data for each cell · each panel has its own scale"],
            ),
            "gain (points)",
            share=False,
            per_row=2,
        ),
        "norms": figures.trends(
            _norm_panels(norms),
            Heading(
                "How large the weights are at the end",
                [f"{data} · SAM at its ρ*, and SGD · last epoch"],
            ),
            "‖w‖",
            reference=None,
            ordered=False,
            per_row=2,
        ),
        "vit": figures.trends(
            _vit_panels(vit_gains),
            Heading(
                "A small vision Transformer: what SAM gains over AdamW",
                [f"{vit['dataset'].iloc[0]}, 1,000 examples · n = {wording.span(vit_gains['n'])} "
                 "seeds · ρ chosen on validation data for each cell"],
            ),
            "gain (points)",
            per_row=2,
        ),
    }  # fmt: skip
    tables = {
        "gains": gains,
        "slopes": slopes,
        "short_gains": short_gains,
        "short_slopes": short_slopes,
        "norms": norms,
        "vit_gains": vit_gains,
        "vit_slopes": vit_slopes,
    }
    write(args.out, tables, drawn)
    print(markdown(_summary(gains, slopes)))
    print(f"\nwith no ρ above {SHORT}:\n")
    print(markdown(_summary(short_gains, short_slopes)))
    print()
    print(markdown(_vit_summary(vit_gains, vit_slopes)))


def _tables(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    gains = pd.concat([comparison.gains(runs, epoch=epoch) for epoch in WHEN], ignore_index=True)
    slopes = pd.concat([comparison.slopes(runs, epoch=epoch) for epoch in WHEN], ignore_index=True)
    return gains, slopes


def _norms(runs: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    picked = chosen(runs, gains[gains["epoch"] == "last"], CELL)
    found = summarised(picked, [*CELL, "optimizer"], "last_weight_norm")
    stars = gains.loc[gains["epoch"] == "last", [*CELL, "rho_star"]]
    found = found.merge(stars, on=CELL)
    return found.assign(rho_over_norm=found["rho_star"] / found["mean"])


def _norm_panels(norms: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    panels = {}
    for norm, name in NETWORKS.items():
        for rate, rows in norms[norms[NORM] == norm].groupby("label_noise"):
            panels[f"{name}, {rate_label(rate)}"] = {
                f"{optimizer}, {decay_label(decay)}": own
                for (optimizer, decay), own in rows.groupby(["optimizer", DECAY])
            }
    return panels


def _vit_panels(gains: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    panels = {}
    for augment, name in (("none", "no augmentation"), ("crop_flip", "random crops and flips")):
        for epoch, when in WHEN.items():
            here = gains[(gains[AUGMENT] == augment) & (gains["epoch"] == epoch)]
            panels[f"{name}, {when}"] = by_decay(here)
    return panels


def _at(table: pd.DataFrame, **values) -> pd.Series:
    kept = np.ones(len(table), bool)
    for column, value in values.items():
        kept &= (table[column] == value).to_numpy()
    return table[kept].iloc[0]


def _summary(gains: pd.DataFrame, slopes: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for (norm, rate, decay), own in gains.groupby([NORM, "label_noise", DECAY], sort=False):
        key = {NORM: norm, "label_noise": rate, DECAY: decay}
        line = {"network": NETWORKS[norm], "labels": rate_label(rate), "decay": f"{decay:g}"}
        for width in own["width"].unique():
            line[width] = " → ".join(gain(_at(own, width=width, epoch=e)) for e in WHEN)
        for epoch, when in WHEN.items():
            trend = _at(slopes, epoch=epoch, widths="all", **key)
            line[f"per doubling, {when}"] = gain(trend, 2, "slope")
        rows.append(line)
    return rows


def _vit_summary(gains: pd.DataFrame, slopes: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for (augment, decay), own in gains.groupby([AUGMENT, DECAY], sort=False):
        line = {"augmentation": augment, "decay": f"{decay:g}"}
        for width in own["width"].unique():
            last = _at(own, width=width, epoch="last")
            line[f"size {width}"] = f"{last['base_mean']:.1f}, {gain(last)}"
        trend = _at(slopes, epoch="last", widths="all", **{AUGMENT: augment, DECAY: decay})
        line["per doubling"] = gain(trend, 2, "slope")
        rows.append(line)
    return rows


if __name__ == "__main__":
    main()
