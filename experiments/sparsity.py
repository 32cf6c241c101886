"""Sparsity: what SAM gains in large pruned networks and in small dense ones of as many parameters.

python -m samop.main --config=configs/sparsity.py
python experiments/sparsity.py

Reads the sweep and writes to results/sparsity: gains.csv, matched.csv (gain of a pruned network
minus that of the dense one with the nearest number of parameters, paired by seed), and the figures
gains and fit (the gain against how far SGD fits its training data).
"""

import matplotlib
import numpy as np
import pandas as pd
from common import arguments, gain, gain_rows, load, markdown, write
from matplotlib.figure import Figure

from samop import comparison, figures, wording
from samop.figures.curvature_parts import log_ticks
from samop.figures.layout import STYLE, Heading
from samop.figures.looks import FAINT, INK, KINDS
from samop.statistics import estimate

METHOD, LEVEL = "sparsity.method", "sparsity.level"
NAMES = {
    "none": "dense, of that many units",
    "random": "pruned at random",
    "magnitude": "pruned by magnitude",
    "snip": "pruned by SNIP",
}


def main() -> None:
    """Tables, figures and a summary of the sweep."""
    args = arguments("sparsity", __doc__)
    runs = load(args.workdir[0])
    gains = {epoch: comparison.gains(runs, epoch=epoch) for epoch in comparison.EPOCHS}
    matched = pd.concat([_matched(runs, epoch) for epoch in comparison.EPOCHS])
    last = gains["last"].sort_values("parameters")
    largest = last.loc[last["parameters"].idxmax(), "width"]
    seeds = wording.span(last["n"])
    data = f"{runs['dataset'].iloc[0]}, clean labels · n = {seeds} seeds"
    shown = last.assign(width=_as_wide(last))
    lines = {
        NAMES[method]: gain_rows(shown[shown[METHOD] == method])
        for method in NAMES
        if (last[METHOD] == method).any()
    }
    panels = {
        "gain": lines,
        "test accuracy of SGD": {
            name: rows.assign(mean=rows["base_mean"], half95=rows["base_half95"])
            for name, rows in lines.items()
        },
    }
    heading = Heading(
        "What SAM gains in pruned large networks and in small dense ones",
        [f"{data} · pruned: {largest} units in one hidden layer, kernels masked at initialisation; "
         "width: units of the dense network of as many parameters · ρ chosen on validation data, "
         "last epoch · wide intervals leave the axis, see gains.csv"],
    )  # fmt: skip
    drawn = {
        "gains": figures.trends(
            panels, heading, "points", ordered=False, share=False, reference=None
        ),
        "fit": _fit(runs, last, data),
    }
    write(args.out, {"gains": pd.concat(gains.values()), "matched": matched}, drawn)
    print(markdown(_summary(last, matched)))


def _as_wide(table: pd.DataFrame) -> pd.Series:
    """Of each network the units of the dense one with the nearest number of parameters."""
    dense = table[table[METHOD] == "none"]
    return table["parameters"].map(lambda n: dense["width"].iloc[_nearest(dense, n)])


def _nearest(dense: pd.DataFrame, count: int) -> int:
    """Place of the row with the nearest number of parameters."""
    return int(np.argmin(np.abs(np.log(dense["parameters"].to_numpy(float) / count))))


def _matched(runs: pd.DataFrame, epoch: str) -> pd.DataFrame:
    """Pruned against dense at the nearest number of parameters: difference of their gains."""
    pairs = comparison.pairs(runs, epoch=epoch)
    dense = pairs[pairs[METHOD] == "none"]
    rows = []
    for (method, level), own in pairs[pairs[METHOD] != "none"].groupby([METHOD, LEVEL]):
        count = own["parameters"].iloc[0]
        near = dense["parameters"].iloc[_nearest(dense, count)]
        other = dense[dense["parameters"] == near]
        both = own.merge(other, on="seed", suffixes=("", "_dense"))
        found = estimate((both["gain"] - both["gain_dense"]).to_numpy(float))
        rows.append(
            {
                "epoch": epoch,
                METHOD: method,
                LEVEL: level,
                "parameters": count,
                "dense_parameters": near,
                "dense_width": other["width"].iloc[0],
                "sparse_gain": both["gain"].mean(),
                "dense_gain": both["gain_dense"].mean(),
                "difference": found.mean,
                "difference_half95": found.half,
                "p": found.p,
                "n": found.n,
            }
        )
    return pd.DataFrame(rows)


def _fit(runs: pd.DataFrame, last: pd.DataFrame, data: str) -> Figure:
    """The gain of each network against the training loss that SGD reaches in it."""
    base = runs[runs["transform"] == "base"]
    by = [METHOD, LEVEL, "parameters"]
    loss = base.groupby(by)["last_train_loss"].mean().rename("loss").reset_index()
    rows = last.merge(loss, on=by)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.3))
        axes = figure.add_axes((0.11, 0.24, 0.86, 0.58))
        for place, (method, own) in enumerate(rows.groupby(METHOD, sort=False)):
            color, marker, _ = KINDS[place]
            axes.errorbar(
                own["loss"], own["gain"], own["gain_half95"], fmt=marker, ms=6, elinewidth=1.1,
                color=color, label=NAMES[str(method)],
            )  # fmt: skip
        axes.set_xscale("log")
        log_ticks(axes.xaxis, *axes.get_xlim())
        axes.axhline(0, color=INK, lw=1)
        axes.set_xlabel("training loss of SGD at the last epoch")
        axes.set_ylabel("gain (points)")
        figure.legend(loc="lower left", ncols=2, bbox_to_anchor=(0.02, 0.0))
        title = "The gain against how far SGD fits its training data"
        figure.text(0.02, 0.975, title, size=13, weight="bold", va="top", color=INK)
        text = f"{data} · a point a network · ± 95 % t interval"
        figure.text(0.02, 0.905, text, size=9, va="top", color=FAINT)
    return figure


def _summary(last: pd.DataFrame, matched: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    here = matched[matched["epoch"] == "last"].set_index([METHOD, LEVEL])
    for row in last.to_dict("records"):
        key = (row[METHOD], row[LEVEL])
        against = here.loc[key] if key in here.index else None
        rows.append(
            {
                "network": NAMES[row[METHOD]],
                "units": row["width"],
                "pruned": f"{row[LEVEL]:.0%}" if row[LEVEL] else "",
                "parameters": f"{row['parameters']:,}",
                "SGD": f"{row['base_mean']:.1f}",
                "SAM": f"{row['sam_mean']:.1f}",
                "gain": gain(row, 2),
                "minus the dense one's": "" if against is None else gain(against, 2, "difference"),
                "ρ*": f"{row['rho_star']:g}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
