r"""The exponent of a two-layer network's test error against its width, by optimiser.

python -m samop.main --config=configs/two_layer_error.py --workdir=runs/two_layer_error
python -m samop.main --config=configs/two_layer_error.py:examples=64000,epochs=12,seeds=5 \
    --workdir=runs/two_layer_error_64k
python experiments/two_layer_error.py --workdir=runs/two_layer_error \
    --workdir=runs/two_layer_error_64k

Each --workdir is a sweep with a number of examples of its own; a single one will do, and without
any the losses are read from the errors.csv of --out. Fits ε ∝ M^−p
to the loss ½(f − y)² of the last epoch, per seed, then takes the mean over seeds with a 95 % t
interval; differences between optimisers are paired by seed. The paper (arXiv 2311.17539) says that
under SAM M ∝ 1/ε, which is p = 1.

Widths: "below the floor", those up to the first at which, for any optimiser, the mean validation
loss is above 1.25 × the mean training loss: beyond it examples, not width, limit the error; and
"all". The test loss has no say in where it is fitted. The training loss, whose exponent few
examples flatter rather than hide, is fitted beside the test's.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, gain, markdown, write

from samop import results, theory, wording
from samop.errors import UserError
from samop.figures.powerlaw import power_laws
from samop.statistics import estimate

OUT = RESULTS / "two_layer_error"
MOST = 1.25
EXAMPLES = {"relu_teacher": 8000, "relu_teacher_64k": 64_000}
PARTS = ("test", "train")


def errors(workdirs: list[Path]) -> pd.DataFrame:
    """A row a run: examples, optimizer, rho, width, parameters, seed, losses of the last epoch."""
    found = []
    for workdir in workdirs:
        runs = results.load(workdir)
        unknown = set(runs["dataset"]) - set(EXAMPLES)
        if unknown:
            raise UserError(f"{workdir}: data {unknown}, allowed: {', '.join(EXAMPLES)}")
        runs = runs.assign(examples=runs["dataset"].map(EXAMPLES), width=runs["width"].astype(int))
        plain = runs["transform"] == "base"
        label = "SAM, ρ = " + runs["rho"].map("{:g}".format)
        runs["optimizer"] = runs["optimizer"].where(plain, label)
        columns = ["examples", "optimizer", "rho", "width", "parameters", "seed", "epochs"]
        losses = {f"last_{part}_loss": part for part in ("train", "validation", "test")}
        found.append(runs[[*columns, *losses]].rename(columns=losses))
    return pd.concat(found).sort_values(["examples", "rho", "width", "seed"], ignore_index=True)


def usable(table: pd.DataFrame) -> list[int]:
    """The widths below the floor of one number of examples, the same for all its optimisers."""
    means = table.groupby(["rho", "width"])[["train", "validation"]].mean()
    widths = np.sort(table["width"].unique())
    kept = np.ones(len(widths), bool)
    for _, rows in means.groupby("rho"):
        kept &= theory.below_floor(rows["train"], rows["validation"], MOST)
    return [int(width) for width in widths[kept]]


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each number of examples, loss, range of widths and optimiser."""
    rows = []
    for examples, group in table.groupby("examples"):
        every = [int(width) for width in np.sort(group["width"].unique())]
        for part in PARTS:
            for name, widths in (("below the floor", usable(group)), ("all", every)):
                if len(widths) < 3:
                    print(f"{examples} examples: {len(widths)} widths {name}: no fit")
                    continue
                where: dict[str, Any] = {"examples": examples, "of": part, "widths": name}
                where |= {"first": widths[0], "last": widths[-1], "n_widths": len(widths)}
                rows += _fitted(group[group["width"].isin(widths)], part, where)
    return pd.DataFrame(rows)


def _fitted(group: pd.DataFrame, part: str, where: dict[str, Any]) -> list[dict[str, Any]]:
    powers: dict[float, pd.Series] = {}
    rows = []
    for (rho, optimizer), runs in group.groupby(["rho", "optimizer"]):
        wide = runs.pivot(index="seed", columns="width", values=part)
        each = {
            s: theory.fit_power_law(wide.columns, row) for s, row in zip(wide.index, wide.values)
        }
        powers[rho] = pd.Series({seed: fit.exponent for seed, fit in each.items()})
        mean = theory.fit_power_law(wide.columns, np.exp(np.log(wide).mean()))
        own = estimate(powers[rho].to_numpy())
        paired = estimate((powers[rho] - powers[0.0]).to_numpy())
        row = where | {"optimizer": optimizer, "rho": rho, "n": own.n}
        row |= {"exponent": own.mean, "exponent_half95": own.half}
        # Of the geometric means, as if the widths scattered about a line: curvature shows here.
        row |= {"line_half95": mean.half, "r2": mean.r2, "constant": mean.constant}
        if rho:
            row |= {"minus_base": paired.mean, "minus_base_half95": paired.half, "p": paired.p}
        rows.append(row)
    return rows


def main() -> None:
    """Reads the sweeps, prints the exponents, writes tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, action="append")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    try:
        table = errors(args.workdir) if args.workdir else pd.read_csv(args.out / "errors.csv")
        found = exponents(table)
        figure = power_laws(table, found)
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"two_layer_error: {error}")
    write(args.out, {"errors": table, "exponents": found}, {"exponents": figure})
    print(markdown([shown(row) for row in found.to_dict("records")]))


def shown(row: dict[str, Any]) -> dict[str, object]:
    """A row of `exponents` as it is read."""
    return {
        "examples": row["examples"], "loss": row["of"], "n": row["n"],
        "widths": f"{row['first']}–{row['last']} ({row['widths']})",
        "optimizer": row["optimizer"],
        "exponent": wording.with_interval(row["exponent"], row["exponent_half95"], 3),
        "minus that of the base": gain(row, 3, "minus_base"), "p": wording.p_text(row["p"]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
