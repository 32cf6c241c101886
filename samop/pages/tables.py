"""The tables of a page, their numbers written as everywhere else. No jax."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samop import comparison, flatness, summary, throughput, wording
from samop.flatness import QUANTITIES, ratio_text
from samop.flatness.summary import number, trend
from samop.wording import decimals, with_interval


class Strip(NamedTuple):
    """An interval drawn within a cell, as places from 0 to 100 across; NaN: none."""

    low: float
    middle: float
    high: float
    zero: float


class Row(NamedTuple):
    """A row: its head, its cells, and what is drawn in the last one."""

    head: str
    cells: tuple[str, ...]
    strip: Strip | None = None


class Table(NamedTuple):
    """A table of a page.

    Attributes:
      title: what sets it apart from the others of its section; may be empty.
      header: names of the columns, that of the rows' heads first.
      rows: in reading order.
      below: sentences beneath it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    below: tuple[str, ...] = ()


def gain_tables(runs: pd.DataFrame, gains: pd.DataFrame) -> list[Table]:
    """The gain at every width, a table per condition and arm.

    Args:
      runs: table of `samop.results.load`.
      gains: its `comparison.gains`.
    """
    best = comparison.gains(runs, epoch="best")
    by = [column for column in wording.panel_columns(runs) if column in gains]
    return [
        _gain_table(dict(zip(by, values)), rows, best.loc[rows.index], runs)
        for values, rows in gains.groupby(by, dropna=False, sort=False)
    ]


def _gain_table(
    key: Mapping[str, Any], rows: pd.DataFrame, best: pd.DataFrame, runs: pd.DataFrame
) -> Table:
    metric = comparison.metric(runs)
    label = wording.panel_label(key, runs)
    digits = decimals(rows["gain_half95"], metric)
    header = (
        "width",
        "parameters",
        *summary.sides(key, runs),
        f"gain ({wording.unit_label(metric)})",
        "p (Holm)",
        "ρ*",
        "gain at best epoch",
        "n",
        "gain, ± 95 %",
    )
    lines = []
    for cells, strip, (where, row) in zip(
        summary.gain_cells(rows, runs), _strips(rows), rows.iterrows()
    ):
        early = best.loc[where]
        later = with_interval(early["gain"], early["gain_half95"], digits, sign=True)
        lines.append(Row(str(row["width"]), (*cells, later, f"{int(row['n'])}"), strip))
    return Table(label[:1].upper() + label[1:], header, tuple(lines))


def _strips(rows: pd.DataFrame) -> list[Strip]:
    """The gains of a table with their intervals, on one scale that takes in zero."""
    gain = rows["gain"].to_numpy(float)
    half = np.nan_to_num(rows["gain_half95"].to_numpy(float))
    ends = np.array([gain - half, gain + half])
    finite = ends[np.isfinite(ends)]
    if not len(finite):
        return [Strip(np.nan, np.nan, np.nan, np.nan)] * len(rows)
    low, high = min(0.0, finite.min()), max(0.0, finite.max())
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(4 + 92 * (value - low) / span, 1)

    return [
        Strip(place(a), place(m), place(b), place(0.0)) for a, m, b in zip(ends[0], gain, ends[1])
    ]


def variant_tables(runs: pd.DataFrame, between: pd.DataFrame) -> list[Table]:
    """How the variants differ from plain SAM at the widest network, a table per condition."""
    if between.empty:
        return []
    metric = comparison.metric(runs)
    by = comparison.condition_columns(runs)
    reference = wording.LABELS[summary.REFERENCE]
    tables = []
    for values, rows in between.groupby(by, dropna=False, sort=False):
        rows = rows[rows["n"] > 0]
        if rows.empty:
            continue
        wide = rows[rows["parameters"] == rows["parameters"].max()]
        lines = [Row(name, tuple(cells)) for name, *cells in summary.difference_cells(wide, runs)]
        label = wording.condition_label(dict(zip(by, values)), runs)
        title = f"{label[:1].upper()}{label[1:]}, at {wide['width'].iloc[0]}".removeprefix(", ")
        header = (
            "variant",
            f"better than {reference} by ({wording.unit_label(metric)})",
            "p (Holm)",
            f"compute of {reference}",
        )
        tables.append(Table(title[:1].upper() + title[1:], header, tuple(lines)))
    return tables


def curvature_tables(runs: pd.DataFrame, measured: pd.DataFrame) -> list[Table]:
    """The ratio of every measured quantity, SAM / base, per condition and arm."""
    table = flatness.compare(runs, measured)
    if table.empty:
        return []
    trends = pd.concat(
        [flatness.slopes(runs, measured, widths=widths) for widths in ("all", "upper")]
    )
    by = [column for column in wording.panel_columns(runs) if column in table]
    tables = []
    for values, rows in table.groupby(by, dropna=False, sort=False):
        key = dict(zip(by, values))
        here = comparison.matches(trends, key, [c for c in by if c in trends])
        tables.append(_curvature_table(key, rows, here, runs))
    return tables


def _curvature_table(
    key: Mapping[str, Any], rows: pd.DataFrame, trends: pd.DataFrame, runs: pd.DataFrame
) -> Table:
    names = [name for name in QUANTITIES if (rows["quantity"] == name).any()]
    base, sam = summary.sides(key, runs)
    both = rows["ratio"].notna().any()
    first = names[0]
    lines = []
    for width in dict.fromkeys(rows["width"]):
        here = rows[rows["width"] == width].set_index("quantity")
        cells = []
        if first != "loss":
            cells += [number(here.loc[first, f"{side}_mean"]) for side in ("base", "sam")]
        for name in names if both else []:
            there = name in here.index
            three = [here.loc[name, k] for k in RATIO] if there else [np.nan] * 3
            cells.append(ratio_text(*three))
        lines.append(Row(str(width), tuple(cells)))
    symbol = QUANTITIES[first].symbol
    header: tuple[str, ...] = ("width",)
    header += (f"{symbol} {base}", f"{symbol} {sam}") if first != "loss" else ()
    header += tuple(f"{QUANTITIES[n].symbol}: {sam} / {base}" for n in names if both)
    sentence = trend(symbol, trends, first, f"{sam} / {base}") + "."
    label = wording.panel_label(key, runs)
    title = label[:1].upper() + label[1:]
    return Table(title, header, tuple(lines), (sentence[:1].upper() + sentence[1:],))


RATIO = ("ratio", "ratio_low95", "ratio_high95")


def speed_table(runs: pd.DataFrame, lines: pd.DataFrame) -> list[Table]:
    """The speed that runs recorded, a row a width and optimiser."""
    cells = throughput.rows(runs, lines)
    if not cells:
        return []
    rows = tuple(Row(" ".join(row[:1]), tuple(row[1:])) for row in cells)
    return [Table("", tuple(throughput.HEADER), rows)]


def listing(names: Sequence[str], most: int = 60) -> tuple[list[str], int]:
    """The first names, and how many more there are."""
    return list(names[:most]), max(0, len(names) - most)
