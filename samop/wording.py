"""How numbers, optimisers and conditions are called, the same in tables and figures. No jax."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from samop import comparison, variants
from samop.comparison import Metric
from samop.variants import LABELS

COLUMNS = 100  # letters across, in a terminal
DASH = "–"
HUMAN = "data.noise"  # whose labels a run learns from
MOST_DIGITS = 6  # after the point
CLOSE = 0.02  # compute that differs by less is called equal, and by how much is said


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
    if not positive:
        return 4
    return int(np.clip(1 - np.floor(np.log10(np.median(positive))), 2, MOST_DIGITS))


def digits_enough(value: float, half: float, digits: int) -> int:
    """Digits after the point, `digits` or more, so that rounding makes no ± 0.00 of an interval.

    Where there is none, or it is nothing but rounding errors, so that the value is not zero; as
    they were where MOST_DIGITS do not do.
    """
    for number in (half, value):
        for more in range(digits, MOST_DIGITS + 1):
            if round(abs(number), more) > 0:
                return more
    return digits


def slope_text(slope: pd.Series, metric: Metric) -> str:
    """A slope of `comparison.slopes` with its interval, never ± 0.00 of one that is there."""
    value, half = slope["slope"], slope["slope_half95"]
    digits = digits_enough(value, half, decimals([half], metric))
    return with_interval(value, half, digits, sign=True)


def p_text(p: float) -> str:
    """0.012, <0.001 or a dash."""
    return DASH if not np.isfinite(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def base_label(runs: pd.DataFrame) -> str:
    """The base optimiser as a title names it."""
    names = sorted(runs["base"].dropna().unique())
    return variants.base_label(names[0]) if len(names) == 1 else "base"


def arm_label(key: Mapping[str, object], runs: pd.DataFrame) -> str:
    """A kind of perturbation: "LookSAM", or "LookSAM (k = 10)" where k tells two of them apart.

    Args:
      key: the values of `comparison.arm_columns`, among others.
      runs: table of `samop.results.load`.
    """
    transform = str(key["transform"])
    name = LABELS.get(transform, transform.upper())
    parts = []
    for column in runs.attrs.get("kinds", {}).get(transform, []):
        text = value_text(key.get(column))
        if column == comparison.BUDGET:
            parts.append({"epochs": "equal epochs", "grad_evals": "equal compute"}.get(text, text))
        elif text:
            parts.append(f"{column.partition('.')[2]} = {text}")
    return f"{name} ({', '.join(parts)})" if parts else name


def sam_label(runs: pd.DataFrame) -> str:
    """The perturbed optimiser as a title names it; "variant" where there are several."""
    arms = comparison.arms(runs)
    if len(arms) > 1:
        return "variant"
    if arms:
        return arm_label(arms[0], runs)
    names = sorted(set(runs["transform"].dropna()) - {"base"})
    return LABELS.get(names[0], names[0].upper()) if len(names) == 1 else "SAM"


def value_text(value: object) -> str:
    """The value of a field; empty where there is none."""
    if value is None or value == "" or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def metric_label(metric: Metric) -> str:
    """test accuracy (%) or test loss."""
    return f"test {metric.name.replace('_', ' ')}" + (" (%)" if metric.scale == 100 else "")


def unit_label(metric: Metric) -> str:
    """What a gain is counted in: points, or the metric itself."""
    return metric.unit or metric.name.replace("_", " ")


def gained_in(metric: Metric, *, better: bool = True) -> tuple[str, str]:
    """What a gain is of, in a sentence.

    Args:
      metric: what was compared.
      better: whether to say which way is better; not of what is lost.

    Returns:
      What follows the word, and what follows the number: ("", " points"), (" in lower test loss",
      "").
    """
    if metric.unit:
        return "", f" {metric.unit}"
    lower = "" if metric.higher_is_better or not better else "lower "
    return f" in {lower}test {metric.name.replace('_', ' ')}", ""


def condition_label(key: Mapping[str, object], runs: pd.DataFrame) -> str:
    """Names what sets one condition apart from the others of the runs; empty where nothing does.

    Args:
      key: a row of `gains` or `slopes`, or its condition columns.
      runs: table of `samop.results.load`.
    """
    parts = []
    noise = runs["label_noise"].dropna().unique()
    human = value_text(key.get(HUMAN))
    if human not in ("", "symmetric"):
        parts.append(f"people's labels ({human})")
    elif len(noise) > 1 or any(noise) or human:
        level = float(key["label_noise"])  # type: ignore[arg-type]
        if comparison.metric(runs).name == "loss":  # regression: a standard deviation, no share
            parts.append(f"target noise of deviation {level:g}" if level else "clean targets")
        else:
            parts.append(f"{100 * level:g} % label noise" if level else "clean labels")
    for column in comparison.condition_columns(runs):
        if column not in ("label_noise", HUMAN) and runs[column].dropna().nunique() > 1:
            text = value_text(key.get(column))
            parts.append(f"{column} = {text}" if "." in column else text)
    return ", ".join(parts)


def panel_label(key: Mapping[str, object], runs: pd.DataFrame) -> str:
    """The condition and, where there are several, the arm."""
    parts = [condition_label(key, runs)]
    if len(comparison.arms(runs)) > 1 and key["transform"] != "none":
        parts.append(arm_label(key, runs))
    return ", ".join(part for part in parts if part)


def panel_columns(runs: pd.DataFrame) -> list[str]:
    """Columns that tell the blocks of the table, and the panels of a figure, apart."""
    return [*comparison.condition_columns(runs), *comparison.arm_columns(runs)]


def span(values: pd.Series) -> str:
    """ "8", or "5–8" where they differ."""
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"{low:g}{DASH}{high:g}"


def when_label(runs: pd.DataFrame, epoch: str) -> str:
    """The epoch that is shown: "the last epoch (60)"; where runs differ, `compute_label` says how.

    Args:
      runs: table of `samop.results.load`.
      epoch: "last" or "best".
    """
    epochs = comparison.finished(runs)["last_epoch"]
    number = "" if epochs.nunique() > 1 else span(epochs)
    if epoch == "last":
        return f"the last epoch ({number})" if number else "the last epoch of each run"
    return "the best epoch on validation" + (f", of {number}" if number else " of each run")


class Cost(NamedTuple):
    """What the runs of an arm took, against their base runs."""

    name: str
    epochs: float  # times the base's
    evaluations: float
    trained: str  # its epochs, as text


def costs(gains: pd.DataFrame, runs: pd.DataFrame) -> list[Cost]:
    """One entry per arm of a table of `comparison.gains`; arms without pairs have none."""
    found = []
    for arm in comparison.arms(runs):
        rows = comparison.matches(gains, arm, comparison.arm_columns(runs))
        rows = rows[rows["base_epochs"].notna() & rows["sam_epochs"].notna()]
        if len(rows):
            epochs = (rows["sam_epochs"] / rows["base_epochs"]).mean()
            evaluations = (rows["sam_grad_evals"] / rows["base_grad_evals"]).mean()
            trained = span(rows["sam_epochs"].round(2))
            found.append(Cost(arm_label(arm, runs), epochs, evaluations, trained))
    return found


def compute_label(gains: pd.DataFrame, runs: pd.DataFrame) -> str:
    """One sentence on what is equal between the arms and the base: epochs, compute or neither.

    Args:
      gains: table of `comparison.gains`.
      runs: the runs that it was made from.

    Returns:
      Such as "equal epochs (60), not equal compute: SAM 2×, LookSAM 1.2× the gradient evaluations
      of SGD"; empty where nothing was compared.
    """
    entries = costs(gains, runs)
    if not entries:
        return ""
    base = base_label(runs)
    epochs = span(gains["base_epochs"].dropna().round(2))
    same_epochs = [_equal(entry.epochs) for entry in entries]
    same_compute = [_equal(entry.evaluations) for entry in entries]
    if all(same_epochs) and all(same_compute):
        return f"equal epochs ({epochs}) and equal gradient evaluations"
    if all(same_epochs):
        ratios = _grouped([(e.name, f"{e.evaluations:.3g}×") for e in entries], "; ")
        return (
            f"equal epochs ({epochs}), not equal compute: {ratios} the gradient evaluations of "
            f"{base}"
        )
    if all(same_compute):
        exact = all(entry.evaluations == 1 for entry in entries)
        close = "" if exact else f" within {100 * CLOSE:g} %"
        trained = _grouped([(e.name, e.trained) for e in entries], "; ")
        return (
            f"equal gradient evaluations{close}, not equal epochs: {base} {epochs} epochs; "
            f"{trained}"
        )
    pairs = [(e.name, f"{e.epochs:.3g}× and {e.evaluations:.3g}×") for e in entries]
    return f"epochs and gradient evaluations, against those of {base}: {_grouped(pairs, '; ')}"


def closeness(ratio: float) -> str:
    """equal, equal within 2 %, or not equal: of a ratio of two computes."""
    if ratio == 1:
        return "equal"
    return f"equal within {100 * CLOSE:g} %" if _equal(ratio) else "not equal"


def count(value: float) -> str:
    """1,800 or, where runs differ, 62.5."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _equal(ratio: float) -> bool:
    return abs(ratio - 1) <= CLOSE


def _grouped(items: Sequence[tuple[str, str]], between: str) -> str:
    """ "SAM, ASAM 2×, LookSAM 1.2×" from names and texts."""
    groups: dict[str, list[str]] = {}
    for name, text in items:
        groups.setdefault(text, []).append(name)
    return between.join(f"{', '.join(names)} {text}" for text, names in groups.items())


def fill(text: str, indent: str = "", first: str = "") -> str:
    """Text in lines of COLUMNS letters; a space written as \\u00a0 does not end one."""
    return textwrap.fill(
        text, COLUMNS, initial_indent=first, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    ).replace("\u00a0", " ")  # fmt: skip


def align(header: list[str], lines: list[list[str]], left: tuple[int, ...] = (0, -1)) -> str:
    """A table as text, its columns to the right, but those of the numbers `left` to the left."""
    cells = [header, *lines]
    sizes = [max(len(line[i]) for line in cells) for i in range(len(header))]
    places = {i % len(header) for i in left}
    gap = next((g for g in (3, 2) if sum(sizes) + g * (len(sizes) - 1) <= COLUMNS - 2), 1)
    rows = [
        (" " * gap)
        .join(
            cell.ljust(size) if i in places else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(line, sizes))
        )
        .rstrip()
        for line in cells
    ]
    rows.insert(1, "─" * max(len(row) for row in rows))
    return "\n".join(f"  {row}" for row in rows)
