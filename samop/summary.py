"""The results of a sweep as text for a terminal, 100 columns wide. No jax."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from samop import comparison, wording
from samop.headline import Headline, headlines
from samop.variants import EVALUATE_ELSEWHERE
from samop.wording import COLUMNS, DASH, align, decimals, fill, p_text, signed, with_interval

REFERENCE = "sam"


def table(runs: pd.DataFrame) -> str:
    """The terminal table of a sweep: per condition the gain at every width, and what it hides.

    Args:
      runs: table of `samop.results.load`.

    Returns:
      Text of at most 100 columns, the same for the same runs: per condition and arm a block with
      the gain at every width; where there are several arms, per condition a block of all of them
      and their differences to plain SAM; then what a reader must know to believe it.
    """
    gains = comparison.gains(runs)
    if gains.empty:
        return "No run is finished: there is nothing to compare yet.\n"
    best = comparison.gains(runs, epoch="best")
    said = {each.label: each for each in headlines(runs)}
    several = len(comparison.arms(runs)) > 1
    between = differences(runs) if several else pd.DataFrame()
    blocks = [_title(runs)]
    conditions = comparison.condition_columns(runs)
    for values, here in gains.groupby(conditions, dropna=False, sort=False):
        condition = dict(zip(conditions, values))
        # The columns of an arm that was not run here may be missing altogether.
        by = [c for c in wording.panel_columns(runs) if c in gains]
        for arm, rows in here.groupby(by, dropna=False, sort=False):
            blocks.append(_block(dict(zip(by, arm)), rows, best.loc[rows.index], said, runs))
        if several:
            blocks += _all_arms(condition, here, runs)
            blocks += _between(condition, between, runs)
    blocks.append("\n".join(_bullet(note) for note in notes(runs, gains, between)))
    return "\n\n".join(block for block in blocks if block) + "\n"


def differences(runs: pd.DataFrame, epoch: str = "last") -> pd.DataFrame:
    """`comparison.between` with plain SAM; no rows where plain SAM was not run."""
    if all(arm["transform"] != REFERENCE for arm in comparison.arms(runs)):
        return pd.DataFrame()
    return comparison.between(runs, reference=REFERENCE, epoch=epoch)


def _bullet(text: str) -> str:
    return fill(f"- {text}", "  ")


def _grid_text(runs: pd.DataFrame) -> str:
    return ", ".join(f"{rho:g}" for rho in comparison.rho_grid(runs))


def _grids(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Grid of ρ, as text → the labels of the arms that have it."""
    found: dict[str, list[str]] = {}
    for arm in comparison.arms(runs):
        grid = _grid_text(comparison.only(runs, arm))
        found.setdefault(grid, []).append(wording.arm_label(arm, runs))
    return found


def _title(runs: pd.DataFrame) -> str:
    done = comparison.finished(runs)
    metric = comparison.metric(runs)
    parts = [runs.attrs["experiment"]] if runs.attrs.get("experiment") else []
    parts += [", ".join(sorted(done[c].unique())) for c in ("dataset", "model")]
    seeds = done["seed"].nunique()
    parts.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
    parts.append(f"{wording.metric_label(metric)} at {wording.when_label(runs, 'last')}")
    lines = [fill(" · ".join(parts))]
    if len(comparison.rho_grid(runs)):
        names = [wording.sam_label(runs), wording.base_label(runs)]
        difference = " − ".join(names if metric.higher_is_better else names[::-1])
        lines.append(
            fill(
                f"gain: {difference} in {wording.unit_label(metric)}, paired by seed; ±: 95 % t "
                f"interval; p (Holm): paired t test, adjusted over widths; ρ*: {rule(done)}"
            )
        )
    if told := _settings(runs):
        lines.append(fill(f"fields: {told}"))
    return "\n".join(lines)


def _settings(runs: pd.DataFrame) -> str:
    """The fields of each variant that its label does not say."""
    found = runs.attrs.get("settings", {})
    parts = []
    for transform in dict.fromkeys(arm["transform"] for arm in comparison.arms(runs)):
        fields = [f"{k} = {wording.value_text(v)}" for k, v in found.get(transform, {}).items()]
        if fields:
            label = wording.LABELS.get(transform, transform.upper())
            parts.append(f"{label} {', '.join(fields)}".replace(" ", "\u00a0"))
    return "; ".join(parts)


def rule(done: pd.DataFrame) -> str:
    """How ρ was chosen, of the finished runs."""
    grids = _grids(done)
    if len(comparison.rho_grid(done)) == 1:
        return f"only ρ = {_grid_text(done)} was run, nothing was chosen"
    among = next(iter(grids))
    if len(grids) > 1:
        each = "; ".join(f"{', '.join(arms)}: {grid}" for grid, arms in grids.items())
        among = f"those of its variant ({each})"
    if done["seed"].nunique() == 1:
        return f"best on the validation split among {among}, by the very seed it is scored on"
    return (
        f"best on the validation split among {among}; each seed is scored with the ρ that is best "
        "for the other seeds, (7/8) says how many of those agree with ρ*"
    )


def gain_cells(rows: pd.DataFrame, runs: pd.DataFrame) -> list[list[str]]:
    """Of each row of `comparison.gains`, as every table writes it: parameters, means, gain, p, ρ*.

    Args:
      rows: of one condition and arm.
      runs: table of `samop.results.load`.
    """
    metric = comparison.metric(runs)
    means = decimals([*rows["base_half95"], *rows["sam_half95"]], metric)
    digits = decimals(rows["gain_half95"], metric)
    return [
        [
            f"{int(row['parameters']):,}",
            with_interval(row["base_mean"], row["base_half95"], means),
            with_interval(row["sam_mean"], row["sam_half95"], means),
            with_interval(row["gain"], row["gain_half95"], digits, sign=True),
            p_text(row["p_holm"]),
            rho_text(row),
        ]
        for _, row in rows.iterrows()
    ]


def difference_cells(wide: pd.DataFrame, runs: pd.DataFrame) -> list[list[str]]:
    """Of each row of `differences` at one width: the variant, its difference, p, its compute."""
    digits = decimals(wide["difference_half95"], comparison.metric(runs))
    return [
        [
            wording.arm_label(dict(row), runs),
            with_interval(row["difference"], row["difference_half95"], digits, sign=True),
            p_text(row["p_holm"]),
            f"{row['grad_evals'] / row['reference_grad_evals']:.3g}×",
        ]
        for _, row in wide.iterrows()
    ]


def sides(key: Mapping[str, object], runs: pd.DataFrame) -> tuple[str, str]:
    """What base and perturbed optimiser of an arm are called; a title says which kind of it."""
    none = key["transform"] == "none"
    sam = wording.sam_label(runs) if none else wording.arm_label(key, runs)
    return wording.base_label(runs), sam.partition(" (")[0]


def _sentence(said: Headline) -> str:
    """A headline for the terminal; what the widest network gained stands in the table."""
    source = f" ({said.source})" if said.source else ""
    label = f"{said.label}: " if said.label else ""
    return f"{label}{said.text}{source}{'. ' + said.upper if said.upper else '.'}"


def _block(
    key: Mapping[str, object],
    rows: pd.DataFrame,
    best: pd.DataFrame,
    said: Mapping[str, Headline],
    runs: pd.DataFrame,
) -> str:
    title = _sentence(said[wording.panel_label(key, runs)])
    digits = decimals(rows["gain_half95"], comparison.metric(runs))
    base, plain = sides(key, runs)
    header = ["width", "parameters", base, plain, "gain", "p (Holm)", "ρ*"]
    lines = [[width, *cells] for width, cells in zip(rows["width"], gain_cells(rows, runs))]
    text = f"{fill(title)}\n\n{align(header, lines)}"
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
    return f"{text}\n\n{fill(change, '  ')}\n{fill(_compute(rows, base, plain), '  ')}"


def _compute(rows: pd.DataFrame, base: str, sam: str) -> str:
    """What the runs of a block took: epochs and gradient evaluations of both sides."""
    names = ("sam_epochs", "sam_grad_evals", "base_epochs", "base_grad_evals")
    epochs, evaluations, base_epochs, base_evaluations = (rows[name].mean() for name in names)
    ratio = (rows["sam_grad_evals"] / rows["base_grad_evals"]).mean()
    verdict = "equal" if ratio == 1 else f"{ratio:.3g}×, {wording.closeness(ratio)}"
    return (
        f"Compute: {sam} {wording.count(epochs)} epochs, {wording.count(evaluations)} gradient "
        f"evaluations; {base} {wording.count(base_epochs)} epochs, "
        f"{wording.count(base_evaluations)}: {verdict}"
    )


def _all_arms(condition: Mapping[str, object], rows: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """The gains of all arms side by side; wide tables are cut into several."""
    rows = rows[rows["n"] > 0]
    if rows.empty:
        return []
    metric = comparison.metric(runs)
    digits = decimals(rows["gain_half95"], metric)
    widths = list(dict.fromkeys(rows.sort_values("parameters")["width"]))
    columns: dict[str, dict[str, str]] = {}
    clear: dict[str, list[str]] = {}  # arm → widths at which its interval excludes 0
    for arm in comparison.arms(runs):
        here = comparison.matches(rows, arm, comparison.arm_columns(runs)).set_index("width")
        label = wording.arm_label(arm, runs)
        if here.empty:
            continue
        away = here.index[here["gain"].abs() > here["gain_half95"]]
        clear[label] = [width for width in widths if width in away]
        columns[label] = {
            width: with_interval(row["gain"], row["gain_half95"], digits, sign=True)
            + ("*" if width in away else " ")
            for width, row in here.iterrows()
        }
    label = wording.condition_label(condition, runs)
    unit = wording.unit_label(metric)
    base = wording.base_label(runs)
    title = f"{label + ': ' if label else ''}gain of every variant over {base} in {unit}"
    title = fill(title[:1].upper() + title[1:] if not label else title)
    tables, band = [], ["width"]
    for number, name in enumerate(columns, 1):
        band.append(name)
        following = list(columns)[number : number + 1]
        if not following or _width([*band, *following], widths, columns) > COLUMNS:
            lines = [[w, *(columns[n].get(w, DASH + " ") for n in band[1:])] for w in widths]
            tables.append(align([band[0], *(f"{n} " for n in band[1:])], lines, left=(0,)))
            band = ["width"]
    widest = widths[-1]
    yes = [name for name in clear if widest in clear[name]]
    no = [name for name in clear if widest not in clear[name]]
    whose = ", ".join(yes) if no else "all variants"
    below = (
        f"every gain is over the same {base} runs; * its 95 % interval, unadjusted, excludes 0: at "
        f"{widest} of {whose or 'no variant'}" + (f", not of {', '.join(no)}" if yes and no else "")
    )
    return ["\n\n".join([title, *tables, fill(below, "  ", "  ")])]


def _width(names: Sequence[str], widths: list[str], columns: Mapping[str, Any]) -> int:
    """Letters that a table of these columns is wide."""
    cells = [max(len(name) + 1, *map(len, columns[name].values())) for name in names[1:]]
    return 2 + max(map(len, [names[0], *widths])) + sum(2 + size for size in cells)


def _between(
    condition: Mapping[str, object], between: pd.DataFrame, runs: pd.DataFrame
) -> list[str]:
    """One line per variant: its difference to plain SAM at the widest network."""
    if between.empty:
        return []
    here = comparison.matches(between, condition, comparison.condition_columns(runs))
    here = here[here["n"] > 0]
    if here.empty:
        return []
    metric = comparison.metric(runs)
    tests = int(here["p"].notna().sum())
    wide = here[here["parameters"] == here["parameters"].max()]
    reference = wording.LABELS[REFERENCE]
    lines = difference_cells(wide, runs)
    width = wide["width"].iloc[0]
    header = [f"at {width}", f"better than {reference} by", "p (Holm)", f"compute of {reference}"]
    label = wording.condition_label(condition, runs)
    title = (
        f"{label + ': ' if label else ''}difference to {reference} in "
        f"{wording.unit_label(metric)}, paired by seed, each with its own ρ*; p adjusted over all "
        f"{tests} differences here (variants × widths, see variants.csv)"
    )
    return [f"{fill(title if label else title[0].upper() + title[1:])}\n\n{align(header, lines)}"]


def rho_text(row: pd.Series) -> str:
    """ρ* of a row of `comparison.gains`: how many seeds agree, and whether it ends the grid."""
    if not np.isfinite(row["rho_star"]):
        return DASH
    votes = ""
    if row["selection"] == "leave-one-seed-out":
        votes = f" ({row['rho_votes']}/{row['rho_seeds']})"
    return f"{row['rho_star']:g}{votes}{' ▲' if row['edge'] == 'highest' else ''}" + (
        " ▼" if row["edge"] == "lowest" else ""
    )


def notes(runs: pd.DataFrame, gains: pd.DataFrame, between: pd.DataFrame) -> list[str]:
    """What a reader must know before believing the table.

    Args:
      runs: table of `samop.results.load`.
      gains: its `comparison.gains`.
      between: its `differences`.
    """
    done = comparison.finished(runs)
    grid = comparison.rho_grid(runs)
    plain = done["transform"] == "base"
    arms = comparison.arms(runs)
    told = []
    if not grid:
        told.append("there are only base runs: no gain can be computed")
    elif not plain.any():
        told.append("there are no base runs: no gain can be computed")
    else:
        told += _grid_notes(runs)
        if compute := wording.compute_label(gains, runs):
            told.append(compute)
        if (done["seed"].nunique()) == 1:
            told.append("one seed: no interval and no test; give several for both")
    if len(arms) > 1 and between.empty:
        told.append("there is no plain SAM that the variants could be tested against")
    for arm in arms:
        if arm["transform"] in EVALUATE_ELSEWHERE:
            told.append(
                f"the training values of {wording.arm_label(arm, runs)} (runs.csv) were taken at "
                "its perturbed weights; validation and test values were not"
            )
    for edge, sign, end in (("highest", "▲", "larger"), ("lowest", "▼", "smaller")):
        if count := int((gains["edge"] == edge).sum()):
            told.append(
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
        told.append(f"{count} of {len(done)} runs diverged (non-finite values){fate}")
    if count := states.get("missing", 0) + states.get("partial", 0):
        told.append(
            f"INCOMPLETE: {count} of {len(runs)} runs are not finished; seeds that lack one at a "
            "width are left out there"
        )
    if count := runs.attrs.get("others", 0):
        told.append(f"{count} runs of earlier sweeps in the same folder are not part of this")
    return told + list(runs.attrs.get("notes", []))


def _grid_notes(runs: pd.DataFrame) -> list[str]:
    """Whether SAM, and each of the variants, could choose to do nothing."""
    free: list[str] = []
    bound: list[str] = []
    for arm in comparison.arms(runs):
        grid = comparison.rho_grid(comparison.only(runs, arm))
        (free if grid[0] == 0 else bound).append(wording.arm_label(arm, runs))
    several = len(free) + len(bound) > 1
    notes = []
    if free:
        notes.append(f"the grid of ρ{' of ' + ', '.join(free) if several else ''} contains 0")
    if bound:
        whose = f" of {', '.join(bound)}" if several and free else ""
        who = ("the variants" if several else bound[0]) if not whose else "they"
        notes.append(
            f"the grid of ρ{whose} does not contain 0: {who} could not choose to do nothing"
        )
    return notes
