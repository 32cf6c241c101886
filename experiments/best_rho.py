"""The best ρ against width with its uncertainty, gains at fixed and best ρ, and ρ‖∇f‖ over time.

python -m samop.main --config=configs/best_rho.py
python experiments/best_rho.py

Reads the sweep and writes to results/best_rho: best_rho.csv (ρ* and its bootstrap interval over
seeds), growth.csv (the slope of log₂ ρ* on log₂ parameters), gains.csv (chosen, oracle and every
fixed ρ), regularizer.csv (means over seeds along training), and the figures best_rho, gains and
regularizer.
"""

import numpy as np
import pandas as pd
from common import arguments, by_rate, gain, gain_rows, load, markdown, rate_label, write

from samop import comparison, figures, radius, wording
from samop.figures.layout import Heading

SHOWN = (0.04, 0.16, 0.64)  # of the fixed ρ, those drawn
CELL = ["label_noise", "width", "parameters"]


def main() -> None:
    """Tables, figures and a summary of the sweep."""
    args = arguments("best_rho", __doc__)
    runs = load(args.workdir[0])
    best, growth = radius.best_rho(runs), radius.growth(runs)
    gains = comparison.tidy(runs)
    added = along_training(radius.regularizer(args.workdir[0], runs), best)
    seeds = wording.span(best["n"])
    data = f"{runs['dataset'].iloc[0]}, MLP of two hidden layers · n = {seeds} seeds"
    top = float(gains.loc[gains["choice"] == "validation", "gain_high95"].max())
    drawn = {
        "best_rho": figures.best_rho(runs),
        "gains": figures.trends(
            _gain_panels(gains),
            Heading(
                "What SAM gains at a fixed ρ, and at the best one of each width",
                [
                    f"{data} · SAM − SGD on clean test data at the last epoch · what is far below "
                    "leaves the axis, see gains.csv"
                ],
            ),
            "gain (points)",
            ordered=False,
            limits=(-1.5 * top, 1.2 * top),
        ),
        "regularizer": _regularizer_figure(added, data),
    }
    tables = {"best_rho": best, "growth": growth, "gains": gains, "regularizer": added}
    write(args.out, tables, drawn)
    print(markdown(_summary(gains, best)))
    for row in growth.to_dict("records"):
        slope, low, high = (
            wording.signed(row[name]).lstrip("+") for name in ("slope", "low95", "high95")
        )
        print(f"{rate_label(row['label_noise'])}: ρ* ∝ parameters^{slope} [{low}, {high}]")


def _gain_panels(gains: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    last = gains[gains["epoch"] == "last"]
    panels: dict[str, dict[str, pd.DataFrame]] = {}
    for title, rows in by_rate(last).items():
        lines = {"ρ chosen on validation": rows[rows["choice"] == "validation"]}
        for rho in SHOWN:
            fixed = (rows["choice"] == "fixed") & np.isclose(rows["rho_star"], rho)
            if fixed.any():
                lines[f"ρ = {rho:g} at every width"] = rows[fixed]
        panels[title] = {name: gain_rows(own) for name, own in lines.items()}
    return panels


def along_training(found: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """ρ‖∇f‖ at each width's best ρ: geometric means over seeds per epoch, and what it rises by."""
    joined = found.merge(best[[*CELL, "rho_star"]], on=CELL)
    joined = joined[np.isclose(joined["rho"], joined["rho_star"])]
    by = [*CELL, "rho", "epoch"]
    logs = joined.assign(regularizer=np.log(joined["regularizer"].clip(lower=1e-30)))
    rows = logs.groupby(by)[["regularizer", "rise", "weight_norm"]].mean().reset_index()
    return rows.assign(regularizer=np.exp(rows["regularizer"]))


def _regularizer_figure(added: pd.DataFrame, data: str):
    epochs = added["epoch"].max()
    moments = {f"{share:.0%} of training": max(1, round(share * epochs)) for share in (0.1, 0.5, 1)}
    panels: dict[str, dict[str, pd.DataFrame]] = {}
    for rate, rows in added.groupby("label_noise"):
        panels[rate_label(rate)] = {
            name: rows[rows["epoch"] == epoch].assign(
                mean=lambda t: t["regularizer"], half95=np.nan
            )
            for name, epoch in moments.items()
        }
    heading = Heading(
        "What SAM's ascent adds to the loss, ρ‖∇f‖, at the best ρ of each width",
        [f"{data}, geometric mean · first order: f(w + ε) ≈ f(w) + ρ‖∇f(w)‖, a batch's ∇f"],
    )
    return figures.trends(panels, heading, "ρ‖∇f‖", reference=None, log=True)


def _summary(gains: pd.DataFrame, best: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    last = gains[(gains["epoch"] == "last")].set_index(CELL)
    for row in best.to_dict("records"):
        here = last.loc[[tuple(row[c] for c in CELL)]].reset_index()
        headline = here[here["choice"] == "validation"].iloc[0]
        fixed = here[here["choice"] == "fixed"].set_index("rho_star")
        low, high = row["rho_low95"], row["rho_high95"]
        rows.append(
            {
                "labels": rate_label(row["label_noise"]),
                "width": row["width"],
                "SGD": f"{headline['base_mean']:.1f}",
                "ρ*": f"{row['rho_star']:g} [{low:g}, {high:g}]" + (" edge" if row["edge"] else ""),
                "gain at ρ*": gain(headline),
                **{
                    f"at ρ = {rho:g}": gain(fixed.loc[rho])
                    for rho in fixed.index
                    if any(np.isclose(rho, SHOWN))
                },
            }
        )
    return rows


if __name__ == "__main__":
    main()
