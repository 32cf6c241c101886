"""What a sweep says of the gain, in a sentence with its uncertainty. No jax."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samop import comparison, wording
from samop.wording import decimals, p_text, with_interval


class Headline(NamedTuple):
    """The sentence of one condition and kind of perturbation.

    Attributes:
      label: what sets it apart from the others; empty where it is alone.
      trend: grows, falls, none (its interval contains 0) or unknown.
      text: the sentence, without the full stop.
      source: the kind of interval, seeds and p, where there is an interval.
      more: further sentences: the larger half of the widths, the widest network.
    """

    label: str
    trend: str
    text: str
    source: str
    more: tuple[str, ...]


def headlines(runs: pd.DataFrame) -> list[Headline]:
    """One headline per condition and arm, as the blocks of the table are ordered.

    Args:
      runs: table of `samop.results.load`.
    """
    gains = comparison.gains(runs)
    if gains.empty:
        return []
    slopes = {widths: comparison.slopes(runs, widths=widths) for widths in ("all", "upper")}
    by = [column for column in wording.panel_columns(runs) if column in gains]
    found = []
    for values, rows in gains.groupby(by, dropna=False, sort=False):
        key = dict(zip(by, values))
        here = {
            name: comparison.matches(table, key, [c for c in by if c in table])
            for name, table in slopes.items()
        }
        found.append(_headline(key, rows, here, runs))
    return found


def _headline(
    key: Mapping[str, Any], rows: pd.DataFrame, slopes: Mapping[str, pd.DataFrame],
    runs: pd.DataFrame,
) -> Headline:  # fmt: skip
    metric = comparison.metric(runs)
    label = wording.panel_label(key, runs)
    label = label[:1].upper() + label[1:]
    if not rows["gain"].notna().any():
        text = "No gain can be computed: it takes base and perturbed runs of one seed"
        return Headline(label, "unknown", text, "", ())
    arm = wording.arm_label(key, runs).partition(" (")[0]
    who = f"{arm}’s gain over {wording.base_label(runs)}"
    widest = _widest(rows, arm, runs)
    if slopes["all"].empty or not np.isfinite(slopes["all"]["slope"].iloc[0]):
        one = rows["parameters"].nunique() < 2
        why = (
            "one width was run"
            if one
            else "no seed has a gain at every width"
            if rows["gain"].notna().sum() > 1
            else "only one width has a gain so far"
        )
        text = f"How {who} changes with width cannot be said: {why}"
        return Headline(label, "unknown", text, "", (widest,))
    slope = slopes["all"].iloc[0]
    digits = decimals([slope["slope_half95"]], metric)
    unit = f"{wording.unit_label(metric)} per doubling of the parameters"
    if slope["n"] < 2:
        change = wording.signed(slope["slope"], digits)
        text = (
            f"{who} changes by {change} {unit}; one seed gives no interval, so this may be chance"
        )
        return Headline(label, "unknown", text, "", (widest,))
    change = with_interval(slope["slope"], slope["slope_half95"], digits, sign=True)
    p = p_text(slope["p"])
    left = f", {slope['n_left_out']:g} left out" if slope["n_left_out"] else ""
    p = p.replace("<", "< ") if p.startswith("<") else f"= {p}"
    source = f"95 % t interval, {slope['n']:g} seeds{left}, p {p}"
    if not abs(slope["slope"]) > slope["slope_half95"]:
        trend, text = "none", f"{who} has no clear trend with width: {change} {unit}"
    elif slope["slope"] > 0:
        trend, text = "grows", f"{who} grows by {change} {unit}"
    else:
        falls = with_interval(-slope["slope"], slope["slope_half95"], digits)
        trend, text = "falls", f"{who} falls by {falls} {unit}"
    more = []
    for _, upper in slopes["upper"].iterrows():
        alone = with_interval(upper["slope"], upper["slope_half95"], digits, sign=True)
        more.append(f"Over the {upper['n_widths']} largest widths alone: {alone} {unit}.")
    return Headline(label, trend, text, source, (*more, widest))


def _widest(rows: pd.DataFrame, arm: str, runs: pd.DataFrame) -> str:
    """What was gained by the largest network that has a gain."""
    metric = comparison.metric(runs)
    row = rows[rows["gain"].notna()].sort_values("parameters").iloc[-1]
    digits = decimals(rows["gain_half95"], metric)
    means = decimals([*rows["base_half95"], *rows["sam_half95"]], metric)
    gain = with_interval(row["gain"], row["gain_half95"], digits, sign=True)
    sam, base = (f"{row[f'{side}_mean']:.{means}f}" for side in ("sam", "base"))
    percent = " %" if metric.scale == 100 else ""
    return (
        f"At {row['width']} ({row['parameters']:,.0f} parameters): {arm} {sam}{percent}, "
        f"{wording.base_label(runs)} {base}{percent}, gain {gain} {wording.unit_label(metric)}."
    )
