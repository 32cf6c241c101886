"""What a sweep says of the gain, in a sentence with its uncertainty. No jax."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samop import comparison, wording
from samop.comparison import Metric
from samop.wording import decimals, p_text, slope_text, with_interval


class Headline(NamedTuple):
    """The sentence of one condition and kind of perturbation.

    Attributes:
      label: `wording.panel_label`, what sets it apart from the others; empty where it is alone.
      trend: grows, behind (it grows, and the widest network still loses), falls, none (its
        interval contains 0) or unknown.
      text: the sentence, without the full stop.
      source: the kind of interval, seeds and p, where there is an interval.
      upper: a sentence on the larger half of the widths; empty where there is none.
      widest: a sentence on the widest network; empty where nothing was gained by any.
    """

    label: str
    trend: str
    text: str
    source: str
    upper: str = ""
    widest: str = ""

    @property
    def more(self) -> tuple[str, ...]:
        """Further sentences."""
        return tuple(sentence for sentence in (self.upper, self.widest) if sentence)


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
    tests = sum(bool(each.source) for each in found)
    if tests > 1:
        note = f", not adjusted over the {tests} headlines"
        found = [each._replace(source=each.source and each.source + note) for each in found]
    return found


def _headline(
    key: Mapping[str, Any], rows: pd.DataFrame, slopes: Mapping[str, pd.DataFrame],
    runs: pd.DataFrame,
) -> Headline:  # fmt: skip
    metric = comparison.metric(runs)
    label = wording.panel_label(key, runs)
    if not rows["gain"].notna().any():
        text = "No gain can be computed: it takes base and perturbed runs of one seed"
        return Headline(label, "unknown", text, "")
    arm = wording.arm_label(key, runs).partition(" (")[0]
    base = wording.base_label(runs)
    where, unit = wording.gained_in(metric)
    who = f"{arm}’s gain over {base}{where}"
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
        return Headline(label, "unknown", text, "", widest=widest)
    slope = slopes["all"].iloc[0]
    per = f"{unit} per doubling of the parameters"
    change = slope_text(slope, metric)
    if slope["n"] < 2:
        text = f"{who} changes by {change}{per}; one seed gives no interval, so this may be chance"
        return Headline(label, "unknown", text, "", widest=widest)
    p = p_text(slope["p"])
    left = f", {slope['n_left_out']:g} left out" if slope["n_left_out"] else ""
    p = p.replace("<", "< ") if p.startswith("<") else f"= {p}"
    source = f"95 % t interval, {slope['n']:g} seeds{left}, p {p}"
    ends, left_behind = _ends(rows, metric)
    if not _clear(slope):
        trend, text = "none", f"{who} has no clear trend with width: {change}{per}, {ends}"
    elif slope["slope"] < 0:
        trend, text = "falls", f"{who} falls by {change.lstrip('−')}{per}, {ends}"
    elif left_behind:
        loses = f"What {arm} loses to {base}{wording.gained_in(metric, better=False)[0]}"
        text = f"{loses} shrinks by {change.lstrip('+')}{per}: the gain goes {ends}"
        trend, text = "behind", f"{text}, and {arm} stays behind"
    else:
        trend, text = "grows", f"{who} grows by {change}{per}, {ends}"
    upper = [_upper(upper, per, metric) for _, upper in slopes["upper"].iterrows()]
    return Headline(label, trend, text, source, "".join(upper), widest)


def _clear(slope: pd.Series) -> bool:
    return bool(abs(slope["slope"]) > slope["slope_half95"])


def _upper(slope: pd.Series, per: str, metric: Metric) -> str:
    """The trend of the larger half of the widths."""
    start = f"Over the {slope['n_widths']} largest widths alone"
    if not np.isfinite(slope["slope"]):
        return f"{start}: no seed has a gain at each of them."
    seeds = f"{slope['n']:g} seed{'' if slope['n'] == 1 else 's'}"
    text = f"{start}: {slope_text(slope, metric)}{per} ({seeds})"
    if slope["n"] > 1 and not _clear(slope):
        text += ", no clear trend"
    return f"{text}."


def _ends(rows: pd.DataFrame, metric: Metric) -> tuple[str, bool]:
    """The gains at the smallest and the largest network; whether the largest clearly loses."""
    digits = decimals(rows["gain_half95"], metric)
    ends = rows[rows["gain"].notna()].sort_values("parameters").iloc[[0, -1]]
    small, large = (
        f"{with_interval(row['gain'], row['gain_half95'], digits, sign=True)} at {row['width']}"
        for _, row in ends.iterrows()
    )
    last = ends.iloc[-1]
    return f"from {small} to {large}", bool(last["gain"] + last["gain_half95"] < 0)


def _widest(rows: pd.DataFrame, arm: str, runs: pd.DataFrame) -> str:
    """What was gained by the largest network that has a gain."""
    metric = comparison.metric(runs)
    row = rows[rows["gain"].notna()].sort_values("parameters").iloc[-1]
    digits = decimals(rows["gain_half95"], metric)
    means = decimals([*rows["base_half95"], *rows["sam_half95"]], metric)
    gain = with_interval(row["gain"], row["gain_half95"], digits, sign=True)
    sam, base = (with_interval(row[f"{s}_mean"], np.nan, means) for s in ("sam", "base"))
    percent = " %" if metric.scale == 100 else ""
    where, unit = wording.gained_in(metric)
    return (
        f"At {row['width']} ({row['parameters']:,.0f} parameters): {arm} {sam}{percent}, "
        f"{wording.base_label(runs)} {base}{percent}, gain{where} {gain}{unit}."
    )
