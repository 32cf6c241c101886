"""Labels that people got wrong: does SAM gain more with them than with clean ones? CIFAR-10.

python -m samop.main --config=configs/cifar_human_noise.py
python experiments/human_noise.py

Reads the sweep and writes to results/cifar_human_noise: gains.csv; slopes.csv (the gain per
doubling of the parameters, with ρ chosen and with each ρ for all widths); difference.csv (the gain
with people's labels minus that with clean ones, paired by seed: same initialisation, order and
images); and the figure gains.
"""

import pandas as pd
from common import arguments, gain, gain_rows, load, markdown, write

from samop import comparison, figures, wording
from samop.figures.layout import Heading
from samop.statistics import estimate, holm

NOISE = "data.noise"
WHEN = {"last": "last epoch", "best": "epoch best on validation"}
CLEAN = "symmetric"  # of which none are flipped here


def label(noise: str) -> str:
    """How a kind of labels is called."""
    return "clean labels" if noise == CLEAN else f"people's labels ({noise})"


def difference(runs: pd.DataFrame, epoch: str) -> pd.DataFrame:
    """Per width and kind: gain with people's labels minus gain with clean ones, over seeds."""
    pairs = comparison.pairs(runs, epoch=epoch)
    clean = pairs[pairs[NOISE] == CLEAN].set_index(["parameters", "seed"])["gain"]
    rows = []
    for (noise, count), own in pairs[pairs[NOISE] != CLEAN].groupby([NOISE, "parameters"]):
        both = own.set_index(["parameters", "seed"])["gain"] - clean
        found = estimate(both.dropna().to_numpy(float))
        rows.append(
            {
                "epoch": epoch,
                NOISE: noise,
                "width": own["width"].iloc[0],
                "parameters": count,
                "difference": found.mean,
                "difference_half95": found.half,
                "p": found.p,
                "n": found.n,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def main() -> None:
    """Tables, figure and a summary of the sweep."""
    args = arguments("cifar_human_noise", __doc__)
    runs = load(args.workdir[0])
    gains = {epoch: comparison.gains(runs, epoch=epoch) for epoch in WHEN}
    choices: list[str | float] = ["validation", *comparison.rho_grid(runs)]
    slopes = pd.concat(
        [comparison.slopes(runs, epoch=epoch, choice=c) for epoch in WHEN for c in choices]
    )
    apart = pd.concat([difference(runs, epoch) for epoch in WHEN])
    seeds = wording.span(gains["last"]["n"])
    panels = {
        title: {label(str(noise)): gain_rows(rows) for noise, rows in gains[epoch].groupby(NOISE)}
        for epoch, title in WHEN.items()
    }
    heading = Heading(
        "What SAM gains with clean labels and with people's",
        [f"CIFAR-10, 4,000 images, MLP · n = {seeds} seeds · SAM − SGD on clean test data, ρ "
         "chosen on clean validation data"],
    )  # fmt: skip
    drawn = {"gains": figures.trends(panels, heading, "gain (points)", ordered=False)}
    tables = {"gains": pd.concat(gains.values()), "slopes": slopes, "difference": apart}
    write(args.out, tables, drawn)
    rows = [
        {"epoch": row["epoch"], "width": row["width"],
         "more than clean": gain(row, 2, "difference"),
         "p (Holm)": wording.p_text(row["p_holm"])}
        for row in apart.to_dict("records")
    ]  # fmt: skip
    print(markdown(rows))


if __name__ == "__main__":
    main()
