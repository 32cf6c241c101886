"""The curvature of a sweep as text for a terminal, 100 columns wide."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from samop import comparison, wording
from samop.flatness.ratios import compare, slopes
from samop.flatness.records import QUANTITIES
from samop.wording import COLUMNS, DASH, align, fill, p_text


def section(runs: pd.DataFrame, measured: pd.DataFrame) -> str:
    """What was measured of the networks' curvature, base beside SAM.

    Args:
      runs: table of `samop.results.load`.
      measured: table of `samop.flatness.load`.

    Returns:
      Text of at most 100 columns: per condition and arm a sentence on the trend with width, a
      table of the first quantity, one of the ratios of the others, the comparison at equal
      training loss, and how exact the measurements are; then what is missing. Empty where nothing
      was measured.
    """
    if measured.empty:
        return ""
    table = compare(runs, measured)
    if table.empty:
        return "\n".join(_notes(runs, measured, table)) + "\n"
    equal = compare(runs, measured, at="equal_loss")
    trends = pd.concat([slopes(runs, measured, widths=widths) for widths in ("all", "upper")])
    blocks = [_title(runs, measured, table)]
    by = [c for c in wording.panel_columns(runs) if c in table]
    for values, rows in table.groupby(by, dropna=False, sort=False):
        key = dict(zip(by, values))
        same = _of(equal, key)
        blocks.append(_block(key, rows, same, _of(trends, key), runs))
    blocks.append("\n".join(_notes(runs, measured, table)))
    return "\n\n".join(block for block in blocks if block) + "\n"


def number(value: float) -> str:
    """Three significant digits: 0.0123, 8.71, 12,300, −1.2e−07; a dash where there is none."""
    if not np.isfinite(value):
        return DASH
    size = abs(value)
    if size and not 1e-3 <= size < 1e6:
        return f"{value:.2g}".replace("-", "−")
    digits = 3 if not size else max(0, 2 - int(np.floor(np.log10(size))))
    return f"{value:,.{digits}f}".replace("-", "−")


def ratio_text(ratio: float, low: float, high: float) -> str:
    """0.57 [0.51, 0.64]; without the interval where one run gives none."""
    if not np.isfinite(ratio):
        return DASH
    return f"{_two(ratio)} [{_two(low)}, {_two(high)}]" if np.isfinite(low) else _two(ratio)


def _two(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 10 else number(value)


def verb(low: float, high: float, neutral: float) -> str:
    """Whether an interval lies below or above the value that means no change."""
    return "falls" if high < neutral else "grows" if low > neutral else "has no clear trend"


def _of(table: pd.DataFrame, key: Mapping[str, Any]) -> pd.DataFrame:
    return comparison.matches(table, key, [c for c in key if c in table]) if len(table) else table


def _title(runs: pd.DataFrame, measured: pd.DataFrame, table: pd.DataFrame) -> str:
    base, sam = wording.base_label(runs), wording.sam_label(runs)
    over = wording.span(measured.loc[measured["trained"], "examples"].astype(float))
    text = (
        f"Curvature of the training loss, on {over} training examples, at the last epoch. "
        f"loss: mean training loss on the same examples; {base} and {sam}: geometric means"
    )
    if table["ratio"].notna().any():
        text += (
            f"; {sam} / {base}: geometric mean of the ratio, paired by seed, with its 95 % t "
            "interval, below 1 where the base is sharper; p (Holm): paired t test of the log "
            "ratio, adjusted over widths; ρ as above"
        )
    return fill(text)


def _block(
    key: Mapping[str, Any],
    rows: pd.DataFrame,
    equal: pd.DataFrame,
    trends: pd.DataFrame,
    runs: pd.DataFrame,
) -> str:
    names = [name for name in QUANTITIES if name != "loss" and (rows["quantity"] == name).any()]
    if not names:
        names = ["loss"]
    base = wording.base_label(runs)
    arm = wording.sam_label(runs) if key["transform"] == "none" else wording.arm_label(key, runs)
    sam = arm.partition(" (")[0]
    symbol = QUANTITIES[names[0]].symbol
    label = wording.panel_label(key, runs)
    sentence = trend(symbol, trends, names[0], f"{sam} / {base}")
    title = f"{label}: {sentence}" if label else sentence[0].upper() + sentence[1:]
    head = rows[rows["quantity"] == names[0]]
    header = ["width", f"{symbol} {base}", sam, f"{sam} / {base}", "p (Holm)"]
    header += [f"loss {base}", sam, f"{sam} / {base}"]
    lines = [
        [
            row["width"],
            number(row["base_mean"]),
            number(row["sam_mean"]),
            ratio_text(*row[["ratio", "ratio_low95", "ratio_high95"]]),
            p_text(row["p_holm"]),
            number(row["base_loss"]),
            number(row["sam_loss"]),
            ratio_text(*row[["loss_ratio", "loss_ratio_low95", "loss_ratio_high95"]]),
        ]
        for _, row in head.iterrows()
    ]
    parts = [fill(title), align(header, lines, left=(0,))]
    parts += _others(rows, names[1:], base, sam)
    below = [_equal(symbol, equal, names[0], f"{sam} / {base}"), _losses(rows, equal, sam, base)]
    below += [_errors(rows, names), _converged(rows, names)]
    below.append(_no_ratio(rows, names, sam, base))
    parts.append("\n".join(fill(text, "  ", "  ") for text in below if text))
    return "\n\n".join(part for part in parts if part)


def trend(symbol: str, trends: pd.DataFrame, name: str, ratio: str) -> str:
    """One sentence on how the ratio changes with width, by `slopes` over all and upper widths."""
    here = trends[trends["quantity"] == name] if len(trends) else trends
    if here.empty or not np.isfinite(here["slope"].iloc[0]):
        return f"no trend of {symbol} with width can be computed"
    first = here.iloc[0]
    text = f"the ratio of {symbol}, {ratio},"
    if first["n"] < 2:
        return f"{text} changes × {_two(first['factor'])} per doubling of the parameters; one seed"
    word = verb(first["factor_low95"], first["factor_high95"], 1.0)
    p = p_text(first["p"])
    ends = ("factor", "factor_low95", "factor_high95")
    left = f", {first['n_left_out']} left out" if first["n_left_out"] else ""
    text += (
        f" {word}{' with width' if word != 'has no clear trend' else ''}: × "
        f"{ratio_text(*first[list(ends)])} per doubling of the parameters ({first['n']} "
        f"seeds{left}, p {p.replace('<', '< ') if p[0] == '<' else '= ' + p})"
    )
    for _, upper in here.iloc[1:].iterrows():
        text += f"; over the {upper['n_widths']} largest widths alone × "
        text += ratio_text(*upper[list(ends)])
    return text


def _others(rows: pd.DataFrame, names: Sequence[str], base: str, sam: str) -> list[str]:
    """The ratios of the other quantities side by side, or the means where one side has no runs.

    Wide tables are cut into several.
    """
    columns = {}
    alone = next((k for k in ("base", "sam") if rows[f"{k}_mean"].isna().all()), "")
    side, who = ("sam", sam) if alone == "base" else ("base", base)
    for name in names:
        here = rows[rows["quantity"] == name].set_index("width")
        columns[QUANTITIES[name].symbol] = {
            width: number(row[f"{side}_mean"])
            if alone
            else ratio_text(*row[["ratio", "ratio_low95", "ratio_high95"]])
            for width, row in here.iterrows()
        }
    widths = list(dict.fromkeys(rows["width"]))
    tables: list[str] = []
    band: list[str] = []
    for number_, symbol in enumerate(columns, 1):
        band.append(symbol)
        following = list(columns)[number_ : number_ + 1]
        if not following or _width([*band, *following], widths, columns) > COLUMNS:
            lines = [[w, *(columns[s].get(w, DASH) for s in band)] for w in widths]
            tables.append(align(["width", *band], lines, left=(0,)))
            band = []
    what = f"{who}, the other measures" if alone else f"{sam} / {base} of the other measures"
    return [f"  {what}:\n\n{tables[0]}", *tables[1:]] if tables else []


def _width(symbols: Sequence[str], widths: list[str], columns: Mapping[str, Any]) -> int:
    """Letters that a table of these columns is wide."""
    cells = [max(len(s), *map(len, columns[s].values())) for s in symbols]
    return 2 + max(map(len, ["width", *widths])) + sum(3 + size for size in cells)


def _equal(symbol: str, equal: pd.DataFrame, name: str, ratio: str) -> str:
    """The ratios where both of a pair have the same training loss."""
    rows = equal[equal["quantity"] == name] if len(equal) else equal
    rows = rows[rows["n"] > 0] if len(rows) else rows
    if rows.empty:
        return ""
    entries = []
    for _, row in rows.iterrows():
        text = ratio_text(*row[["ratio", "ratio_low95", "ratio_high95"]])
        some = f" n = {row['n']}" if row["n_excluded"] else ""
        text = f"{row['width']}: {text}{some} at {number(row['base_loss'])}"
        entries.append(text.replace(" ", "\u00a0"))
    return (
        f"{symbol}, {ratio} at equal training loss (the lowest that both of a pair reach):  "
        + "   ".join(entries)
    )


def _losses(rows: pd.DataFrame, equal: pd.DataFrame, sam: str, base: str) -> str:
    """Whether a ratio at the last epoch compares networks of unequal training loss."""
    here = rows.drop_duplicates("width")
    found = here["loss_ratio"]
    if not found.notna().any():
        return ""
    clear = (here["loss_ratio_low95"] > 1) | (here["loss_ratio_high95"] < 1)
    far = np.abs(np.log(found)) > np.log(1.1)
    if not (clear | far).any():
        return ""
    low, high = _two(found.min()), _two(found.max())
    span = low if low == high else f"{low} … {high}"
    text = (
        f"The training losses are not equal ({sam} / {base}: {span}): at the last epoch a ratio "
        "of curvatures is also one of how far the networks are trained"
    )
    return text + ("" if len(equal) else "; runs measured once give none at equal training loss")


def _errors(rows: pd.DataFrame, names: Sequence[str]) -> str:
    texts = []
    for name in names:
        here = rows.loc[rows["quantity"] == name, ["base_error", "sam_error", "error_max"]]
        if here["error_max"].notna().any():
            middle = np.nanmedian(here[["base_error", "sam_error"]])
            most = here["error_max"].max()
            text = f"{QUANTITIES[name].symbol} {100 * middle:.2g} %, at most {100 * most:.2g} %"
            texts.append(f"{text} ({QUANTITIES[name].kind})".replace(" ", "\u00a0"))
    return f"Error of a measurement, median over runs: {'; '.join(texts)}" if texts else ""


def _converged(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """Which iterations did not end within their tolerance."""
    texts = []
    for name in names:
        here = rows[rows["quantity"] == name]
        bad = here["base_unconverged"] + here["sam_unconverged"]
        if bad.sum():
            sides = here[["base_mean", "sam_mean"]].notna().sum(axis=1)
            where = ", ".join(here.loc[bad > 0, "width"])
            whole = int((here["n"] * sides).sum())
            texts.append(f"{QUANTITIES[name].symbol} of {bad.sum()} of {whole} runs, at {where}")
    if texts:
        return f"NOT CONVERGED, in the means as measured: {'; '.join(texts)}"
    iterated = [name for name in names if QUANTITIES[name].converged]
    return "Every eigenvalue iteration converged" if iterated else ""


def _no_ratio(rows: pd.DataFrame, names: Sequence[str], sam: str, base: str) -> str:
    """Where values of the wrong sign leave no ratio."""
    here = rows[(rows["scale"] == "linear") & rows["quantity"].isin(names)]
    texts = [
        f"{QUANTITIES[row['quantity']].symbol} at {row['width']} ({base} "
        f"{number(row['base_mean'])}, {sam} {number(row['sam_mean'])})".replace(" ", "\u00a0")
        for _, row in here.iterrows()
    ]
    if not texts:
        return ""
    return (
        "No ratio, since values have both signs or are within their residual of 0; arithmetic "
        f"means: {'; '.join(texts)}"
    )


def _notes(runs: pd.DataFrame, measured: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What a reader must know before believing the tables."""
    notes = []
    if names := measured.attrs["incomplete"]:
        notes.append(
            f"INCOMPLETE: the curvature of {len(names)} trained networks was not measured, or not "
            "to the end; seeds that lack one at a width are left out there"
        )
    elif count := measured.attrs["without"]:
        notes.append(
            f"the trained networks of {count} of {len(comparison.finished(runs))} runs were not "
            "measured; seeds that lack one that is compared are left out at that width"
        )
    if table.empty:
        return [fill(f"- curvature: {note}", "  ") for note in notes] or [
            "- curvature: no trained network was measured yet"
        ]
    by = [c for c in wording.panel_columns(runs) if c in table]
    first = table.drop_duplicates([*by, "width"])
    if count := int(first["n_unpaired"].sum()):
        notes.append(f"curvature: {count} pairs (seed, width) are incomplete and left out")
    if count := int(table.groupby([*by, "width"], dropna=False)["n_excluded"].max().sum()):
        notes.append(f"curvature: {count} pairs have no number (diverged) and are left out")
    if first["examples"].isna().any():
        where = ", ".join(dict.fromkeys(first.loc[first["examples"].isna(), "width"]))
        notes.append(f"curvature at {where} was measured on different numbers of examples: it does "
                     "not compare like with like")  # fmt: skip
    return [fill(f"- {note}", "  ") for note in notes]
