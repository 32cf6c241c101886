"""What the scripts that read one sweep share: arguments, its table, what they leave behind."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samop import figures, results, wording
from samop.errors import UserError
from samop.records import write_atomic
from samop.report import csv
from samop.statistics import estimate

RESULTS = Path(__file__).parent / "results"


def arguments(name: str, doc: str, sweeps: Sequence[str] | None = None) -> argparse.Namespace:
    """`workdir` (a folder for each sweep) and `out`.

    Args:
      name: of the script and its folder of results.
      doc: the script's docstring.
      sweeps: names of the configs that it reads; by default the script's own.
    """
    sweeps = sweeps or [name]
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    defaults = [Path("runs") / sweep for sweep in sweeps]
    parser.add_argument(
        "--workdir", type=Path, nargs=len(sweeps), default=defaults, metavar="DIR",
        help=f"work folders of {', '.join(sweeps)}",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS / name)
    return parser.parse_args()


def load(workdir: Path) -> pd.DataFrame:
    """The runs of a finished sweep; ends the script where there are none."""
    try:
        return results.load(workdir)
    except UserError as error:
        sys.exit(f"error: {error}; the config's header has the command of the sweep")


def write(
    out: Path, tables: Mapping[str, pd.DataFrame], drawn: Mapping[str, Figure] | None = None
) -> None:
    """Writes tables as CSV and figures as PNG and PDF, and says where."""
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_atomic(out / f"{name}.csv", csv(table))
        print(f"wrote {out / name}.csv")
    for name, figure in (drawn or {}).items():
        for path in figures.save(figure, out / name):
            print(f"wrote {path}")


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a table: the keys of the first are its columns."""
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(str(row[column]) for column in head)} |" for row in rows]
    return "\n".join(lines)


def rate_label(rate: float) -> str:
    """How a rate of label noise is called."""
    return f"{100 * rate:g} % of labels flipped" if rate else "clean labels"


def by_rate(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each rate of label noise, by its label."""
    return {rate_label(rate): rows for rate, rows in table.groupby("label_noise")}


def gain(row: Mapping[str, float], digits: int = 1, name: str = "gain") -> str:
    """+13.0 ± 1.8: a gain, or a slope, of a row with the half-width of its interval."""
    return wording.with_interval(row[name], row[f"{name}_half95"], digits, sign=True)


def gain_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `comparison.gains` as `figures.trends` wants it."""
    return table.assign(mean=table["gain"], half95=table["gain_half95"])


def summarised(table: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Mean and 95 % t half-width of a column over the seeds of each group, as mean and half95."""
    rows = []
    for values, group in table.groupby(list(by), sort=False, dropna=False):
        found = estimate(group[column].to_numpy(float))
        row = dict(zip(by, values if isinstance(values, tuple) else (values,)))
        rows.append({**row, "mean": found.mean, "half95": found.half, "n": found.n})
    return pd.DataFrame(rows, columns=[*by, "mean", "half95", "n"])


def chosen(runs: pd.DataFrame, gains: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The base's runs, and those with the ρ that all seeds together chose in each cell.

    Args:
      runs: a sweep's table.
      gains: of `comparison.gains`, with `rho_star` per cell.
      by: columns that tell the cells apart.
    """
    stars = gains[[*by, "rho_star"]]
    joined = runs.merge(stars, on=list(by), how="inner")
    base = joined["transform"] == "base"
    return joined[base | np.isclose(joined["rho"], joined["rho_star"])]
