"""The results of a sweep as text for a terminal, 100 columns wide. No jax.

What a number is called here (of a condition, a width, a gain) the figures call the same.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from samop import comparison
from samop.comparison import Metric

COLUMNS = 100
DASH = "–"


def signed(value: float, decimals: int = 2) -> str:
    """+0.66, −3.10, or a dash where there is no number; rounded to zero it has no sign."""
    if not np.isfinite(value):
        return DASH
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def with_interval(value: float, half: float, decimals: int = 2, sign: bool = False) -> str:
    """97.50 ± 0.31, or the value alone where one run gives no interval."""
    if not np.isfinite(value):
        return DASH
    text = signed(value, decimals) if sign else f"{value:.{decimals}f}".replace("-", "−")
    return f"{text} ± {half:.{decimals}f}" if np.isfinite(half) else text


def decimals(halves: Sequence[float], metric: Metric) -> int:
    """Digits after the point: two for points, else those that show a middling half-width."""
    if metric.scale == 100:
        return 2
    positive = [half for half in halves if np.isfinite(half) and half > 0]
    return int(np.clip(1 - np.floor(np.log10(np.median(positive))), 2, 6)) if positive else 4


def p_text(p: float) -> str:
    """0.012, <0.001 or a dash."""
    return DASH if not np.isfinite(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def base_label(runs: pd.DataFrame) -> str:
    """The base optimiser as a title names it."""
    names = sorted(runs["base"].dropna().unique())
    return names[0].upper() if len(names) == 1 else "base"


def sam_label(runs: pd.DataFrame) -> str:
    """The perturbed optimiser as a title names it."""
    names = sorted(set(runs["transform"].dropna()) - {"base"})
    return names[0].upper() if len(names) == 1 else "SAM"


def metric_label(metric: Metric) -> str:
    """test accuracy (%) or test loss."""
    return f"test {metric.name}" + (" (%)" if metric.scale == 100 else "")


def unit_label(metric: Metric) -> str:
    """What a gain is counted in: points, or the metric itself."""
    return metric.unit or metric.name


def condition_label(key: Mapping[str, object], runs: pd.DataFrame) -> str:
    """Names what sets one condition apart from the others of the runs; empty where nothing does.

    Args:
      key: a row of `gains` or `slopes`, or its condition columns.
    """
    parts = []
    noise = runs["label_noise"].dropna().unique()
    if len(noise) > 1 or any(noise):
        level = float(key["label_noise"])  # type: ignore[arg-type]
        if comparison.metric(runs).name == "loss":  # regression: a standard deviation, no share
            parts.append(f"target noise of deviation {level:g}" if level else "clean targets")
        else:
            parts.append(f"{100 * level:g} % label noise" if level else "clean labels")
    columns = [*comparison.condition_columns(runs), *comparison.arm_columns(runs)]
    for column in columns:
        rows = runs if column not in comparison.arm_columns(runs) else _perturbed(runs)
        if column != "label_noise" and rows[column].dropna().nunique() > 1:
            value = key.get(column)
            text = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(f"{column} = {text}" if "." in column else text)
    return ", ".join(parts)


def _perturbed(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["transform"].notna() & (runs["transform"] != "base")]


def span(values: pd.Series) -> str:
    """ "8", or "5–8" where they differ, of whole numbers."""
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}{DASH}{high}"


def table(runs: pd.DataFrame) -> str:
    """The terminal table of a sweep: per condition the gain at every width, and what it hides.

    Args:
      runs: table of `samop.results.load`.

    Returns:
      Text of at most 100 columns, the same for the same runs.
    """
    gains = comparison.gains(runs)
    if gains.empty:
        return "No run is finished: there is nothing to compare yet.\n"
    best = comparison.gains(runs, epoch="best")
    slopes = _slopes(runs)
    by = panel_columns(runs)
    blocks = [_title(runs)]
    for values, rows in gains.groupby(by, dropna=False, sort=False):
        key = dict(zip(by, values))
        blocks.append(_block(key, rows, best.loc[rows.index], slopes, runs))
    blocks.append("\n".join(_bullet(note) for note in _notes(runs, gains)))
    return "\n\n".join(block for block in blocks if block) + "\n"


def panel_columns(runs: pd.DataFrame) -> list[str]:
    """Columns that tell the blocks of the table, and the panels of a figure, apart."""
    return [*comparison.condition_columns(runs), *comparison.arm_columns(runs)]


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _bullet(text: str) -> str:
    return _fill(f"- {text}", "  ")


def _grid_text(runs: pd.DataFrame) -> str:
    return ", ".join(f"{rho:g}" for rho in comparison.rho_grid(runs))


def _title(runs: pd.DataFrame) -> str:
    done = comparison.finished(runs)
    metric = comparison.metric(runs)
    parts = [runs.attrs["experiment"]] if runs.attrs.get("experiment") else []
    parts += [", ".join(sorted(done[c].unique())) for c in ("dataset", "model")]
    seeds = done["seed"].nunique()
    parts.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
    parts.append(f"{metric_label(metric)} at the last epoch ({span(done['last_epoch'])})")
    lines = [_fill(" · ".join(parts))]
    if len(comparison.rho_grid(runs)):
        names = [sam_label(runs), base_label(runs)]
        difference = " − ".join(names if metric.higher_is_better else names[::-1])
        lines.append(
            _fill(
                f"gain: {difference} in {unit_label(metric)}, paired by seed; ±: 95 % t interval; "
                "p (Holm): paired t test, adjusted over widths; ρ*: "
                f"{_rule(done)}"
            )
        )
    return "\n".join(lines)


def _rule(done: pd.DataFrame) -> str:
    grid = _grid_text(done)
    if len(comparison.rho_grid(done)) == 1:
        return f"only ρ = {grid} was run, nothing was chosen"
    if done["seed"].nunique() == 1:
        return f"best on the validation split among {grid}, by the very seed it is scored on"
    return (
        f"best on the validation split among {grid}; each seed is scored with the ρ that is best "
        "for the other seeds, (7/8) says how many of those agree with ρ*"
    )


def _slopes(runs: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([comparison.slopes(runs, widths=widths) for widths in ("all", "upper")])


def _headline(key: Mapping[str, object], slopes: pd.DataFrame, runs: pd.DataFrame) -> str:
    """One sentence on how the gain changes with width; says why where it cannot be said."""
    metric = comparison.metric(runs)
    here = matches(slopes, key, panel_columns(runs))
    if here.empty:
        return "no gain can be computed: it takes base and perturbed runs of one seed"
    slope = here.iloc[0]
    if not np.isfinite(slope["slope"]):
        one = slope["n_widths"] < 2
        return "one width: no slope" if one else "no seed has a gain at every width: no slope"
    unit = f"{unit_label(metric)} per doubling of the parameters"
    digits = decimals([slope["slope_half95"]], metric)
    text = with_interval(slope["slope"], slope["slope_half95"], digits, sign=True)
    if slope["n"] < 2:
        return f"slope {text} {unit}; one seed gives no interval"
    clear = abs(slope["slope"]) > slope["slope_half95"]
    verb = "has no clear trend" if not clear else "grows" if slope["slope"] > 0 else "falls"
    p = p_text(slope["p"])
    sentence = (
        f"the gain {verb}{' with width' if clear else ''}: {text} {unit} "
        f"({slope['n']} seeds, p {p.replace('<', '< ') if p[0] == '<' else '= ' + p})"
    )
    for _, upper in here.iloc[1:].iterrows():
        alone = with_interval(upper["slope"], upper["slope_half95"], digits, sign=True)
        sentence += f"; over the {upper['n_widths']} largest widths alone {alone}"
    return sentence


def matches(rows: pd.DataFrame, key: Mapping[str, object], columns: list[str]) -> pd.DataFrame:
    """The rows that agree with the key in the columns; nothing agrees with nothing."""
    agree = np.ones(len(rows), bool)
    for column in columns if len(rows) else []:
        same = rows[column].isna() if pd.isna(key[column]) else rows[column] == key[column]
        agree &= same.to_numpy(bool)
    return rows[agree]


def _block(
    key: Mapping[str, object],
    rows: pd.DataFrame,
    best: pd.DataFrame,
    slopes: pd.DataFrame,
    runs: pd.DataFrame,
) -> str:
    metric = comparison.metric(runs)
    label = condition_label(key, runs)
    sentence = _headline(key, slopes, runs)
    title = f"{label}: {sentence}" if label else sentence[0].upper() + sentence[1:]
    means = decimals([*rows["base_half95"], *rows["sam_half95"]], metric)
    digits = decimals(rows["gain_half95"], metric)
    header = ["width", "parameters", base_label(runs), sam_label(runs), "gain", "p (Holm)", "ρ*"]
    lines = [
        [
            row["width"],
            f"{int(row['parameters']):,}",
            with_interval(row["base_mean"], row["base_half95"], means),
            with_interval(row["sam_mean"], row["sam_half95"], means),
            with_interval(row["gain"], row["gain_half95"], digits, sign=True),
            p_text(row["p_holm"]),
            _rho(row),
        ]
        for _, row in rows.iterrows()
    ]
    text = f"{_fill(title)}\n\n{_align(header, lines)}"
    if not rows["gain"].notna().any():
        return text
    changes = [
        f"{width}: {signed(last, digits)} → "
        f"{with_interval(early, half, digits, sign=True)}".replace(" ", "\u00a0")
        for width, last, early, half in zip(
            rows["width"], rows["gain"], best["gain"], best["gain_half95"]
        )
    ]
    change = "Gain, last epoch → best epoch on validation:  " + "   ".join(changes)
    return f"{text}\n\n{_fill(change, '  ')}".replace("\u00a0", " ")


def _rho(row: pd.Series) -> str:
    if not np.isfinite(row["rho_star"]):
        return DASH
    votes = ""
    if row["selection"] == "leave-one-seed-out":
        votes = f" ({row['rho_votes']}/{row['rho_seeds']})"
    return f"{row['rho_star']:g}{votes}{' ▲' if row['edge'] == 'highest' else ''}" + (
        " ▼" if row["edge"] == "lowest" else ""
    )


def _align(header: list[str], lines: list[list[str]]) -> str:
    """Columns to the right, the first and the last to the left."""
    cells = [header, *lines]
    sizes = [max(len(line[i]) for line in cells) for i in range(len(header))]
    left = (0, len(header) - 1)
    gap = next((g for g in (3, 2) if sum(sizes) + g * (len(sizes) - 1) <= COLUMNS - 2), 1)
    rows = [
        (" " * gap)
        .join(
            cell.ljust(size) if i in left else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(line, sizes))
        )
        .rstrip()
        for line in cells
    ]
    rows.insert(1, "─" * max(len(row) for row in rows))
    return "\n".join(f"  {row}" for row in rows)


def _notes(runs: pd.DataFrame, gains: pd.DataFrame) -> list[str]:
    """What a reader must know before believing the table."""
    done = comparison.finished(runs)
    grid = comparison.rho_grid(runs)
    base, sam = base_label(runs), sam_label(runs)
    plain = done["transform"] == "base"
    notes = []
    if not grid:
        notes.append("there are only base runs: no gain can be computed")
    elif not plain.any():
        notes.append("there are no base runs: no gain can be computed")
    else:
        holds = "contains 0" if grid[0] == 0 else f"does not contain 0: {sam} could not choose"
        notes.append(f"the grid of ρ {holds}{'' if grid[0] == 0 else ' to do nothing'}")
        cost = done.loc[~plain, "grad_evals"].mean() / done.loc[plain, "grad_evals"].mean()
        notes.append(
            f"equal epochs, not equal compute: {sam} took {cost:.2g}× the gradient evaluations "
            f"of {base}"
        )
        if (done["seed"].nunique()) == 1:
            notes.append("one seed: no interval and no test; give several for both")
    for edge, sign, end in (("highest", "▲", "larger"), ("lowest", "▼", "smaller")):
        if count := int((gains["edge"] == edge).sum()):
            notes.append(
                f"{sign} best ρ at the edge of the grid in {count} of {len(gains)} rows: a {end} "
                "ρ may be better"
            )
    states = runs["status"].value_counts()
    if count := states.get("diverged", 0):
        excluded = gains["n_excluded"].sum()
        fate = (
            f"; the table's means leave out {excluded} pairs that have no number"
            if excluded
            else "; their recorded values are in the means"
        )
        notes.append(f"{count} of {len(done)} runs diverged (non-finite values){fate}")
    if count := states.get("missing", 0) + states.get("partial", 0):
        notes.append(
            f"INCOMPLETE: {count} of {len(runs)} runs are not finished; seeds that lack one at a "
            "width are left out there"
        )
    if count := runs.attrs.get("others", 0):
        notes.append(f"{count} runs of earlier sweeps in the same folder are not part of this")
    return notes + list(runs.attrs.get("notes", []))
