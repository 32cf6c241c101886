"""Figures of convergence and of power laws: what they show is in their tables."""

import itertools

import numpy as np
import pandas as pd
import pytest

from samop import figures
from samop.errors import UserError

WIDTHS = (5, 10, 20)


def convergence_tables():
    """A rate of .001 a width, but none at 5, for SGD, SAM and SAM at the theorem's rates."""
    rows, curves = [], []
    kinds = (("SGD", "fixed"), ("SAM", "fixed"), ("SAM", "theorem"))
    for width, (name, rates) in itertools.product(WIDTHS, kinds):
        stalls = width == 5
        rate = 0.0 if stalls else 0.001 * width / (10 if rates == "theorem" else 1)
        key = {"problem": "matrix factorisation", "start": "fan-in", "width": width}
        key |= {"parameters": 20 * width, "optimizer": name, "rates": rates}
        row = {"n": 3, "fit_rate": rate, "fit_rate_half95": rate / 10, "alpha": 0.1 * width}
        row |= {"alpha_half95": 0.01, "f_star": float(stalls)}
        row |= {"kappa_min": width, "kappa_max": 2.0 + width, "slope": "line"}
        row["end"] = "f* > 0" if stalls else "near its minimum"
        row["bound_holds"] = 3 if rates == "theorem" else 0
        rows.append(key | row | {"bound": rate / 2 if rates == "theorem" else np.nan})
        for step in (0, 500, 1000):
            value = -rate * step / np.log(10)
            spread = {"log10_loss_low": value - 0.1, "log10_loss_high": value + 0.1}
            curves.append(key | {"step": step, "log10_loss": value} | spread)
    return pd.DataFrame(curves), pd.DataFrame(rows)


def test_rates_stand_at_their_widths_and_stalls_at_the_edge():
    curves, summary = convergence_tables()
    figure = figures.convergence(curves, summary)["rates"]
    rates, constants = figure.axes
    lines = {line.get_label(): line for line in rates.get_lines()}
    sam = next(c for c in rates.containers if c.get_label() == "SAM")
    np.testing.assert_allclose(sam[0].get_ydata(), [0.01, 0.02])
    np.testing.assert_allclose(sam[0].get_xdata(), [10, 20], rtol=0.02)
    bound = lines["the least rate it proves for these"]
    np.testing.assert_allclose(bound.get_ydata()[1:], [0.0005, 0.001])
    assert "▼ stalls" in [text.get_text() for text in rates.texts]
    assert "▼ stalls" not in [text.get_text() for text in constants.texts]
    assert "3 seeds" in figure.texts[1].get_text()
    said = figure.texts[1].get_text().replace("\n", " ")
    assert "a rate for 0 of 18 runs: κ = βρ√(β/α) of SAM's is 5 to 22" in said
    assert said.endswith("of the orange lines it proves one for 9 of 9 runs")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert not any(text.startswith(("hollow", "crossed")) for text in legend)


def test_a_start_that_two_arms_share_is_drawn_twice_and_counted_once():
    curves, summary = (
        pd.concat(
            [
                table[table["width"] != 10],
                table[table["width"] == 10].assign(start="both"),
                table[table["width"] != 10].assign(start="fixed scale"),
            ]
        )
        for table in convergence_tables()
    )
    drawn = figures.convergence(curves, summary)
    axes = drawn["rates"].axes
    assert len(axes) == 4
    assert len(drawn["loss"].axes) == 2
    for panel in axes[:2]:
        sam = next(c for c in panel.containers if c.get_label() == "SAM")
        np.testing.assert_allclose(sam[0].get_ydata(), [0.01, 0.02])
    for panel in drawn["loss"].axes:
        assert {text.get_text() for text in panel.texts} == {str(width) for width in WIDTHS}
    said = drawn["rates"].texts[1].get_text().replace("\n", " ")
    assert "a rate for 0 of 30 runs" in said
    assert "one for 15 of 15 runs" in said
    assert said.endswith("counted once")


def test_average_slopes_are_hollow_and_ends_far_from_a_minimum_crossed():
    curves, summary = convergence_tables()
    wide = summary["width"] == 20
    summary.loc[wide & (summary["optimizer"] == "SGD"), "slope"] = "average slope"
    summary.loc[summary["width"] == 5, "slope"] = "average slope"  # a stall is marked as such
    theorem = (summary["width"] == 10) & (summary["rates"] == "theorem")
    summary.loc[theorem, "end"] = "not near its minimum"
    figure = figures.convergence(curves, summary)["rates"]
    rates, constants = figure.axes
    hollow, none = (
        [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
        for axes in (rates, constants)
    )
    assert len(hollow) == 1
    assert not none, "a constant is no slope"
    np.testing.assert_allclose(hollow[0].get_xydata(), [[20 * 0.985, 0.02]])
    for axes, height in ((rates, 0.001), (constants, 1.0)):
        (cross,) = (line for line in axes.get_lines() if line.get_marker() == "x")
        np.testing.assert_allclose(cross.get_xydata(), [[10, height]])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sum(text.startswith(("hollow", "crossed")) for text in legend) == 2


def test_losses_have_a_line_a_width_and_optimiser():
    curves, summary = convergence_tables()
    (axes,) = figures.convergence(curves, summary)["loss"].axes
    assert len(axes.get_lines()) == 2 * len(WIDTHS)
    assert {text.get_text() for text in axes.texts} == {str(width) for width in WIDTHS}
    with pytest.raises(UserError, match="summary has no rows"):
        figures.convergence(curves, summary.iloc[:0])


def power_tables():
    rows = [
        {"examples": 100, "optimizer": name, "rho": rho, "width": width, "parameters": 10 * width,
         "seed": seed, "test": (1 + 0.01 * seed) / width**power}
        for (name, rho, power), width, seed in itertools.product(
            (("Adam", 0.0, 0.5), ("SAM, ρ = 0.05", 0.05, 1.0)), (4, 8, 16, 32), range(3)
        )
    ]  # fmt: skip
    fitted = {"examples": 100, "of": "test", "widths": "below the floor", "first": 4, "last": 16}
    exponents = [
        fitted | {"optimizer": name, "rho": rho, "exponent": p, "exponent_half95": 0.1,
                  "constant": 1.0}
        for name, rho, p in (("Adam", 0.0, 0.5), ("SAM, ρ = 0.05", 0.05, 1.0))
    ]  # fmt: skip
    return pd.DataFrame(rows), pd.DataFrame(exponents)


def test_power_laws_are_drawn_over_what_they_were_fitted_to():
    errors, exponents = power_tables()
    (axes,) = figures.power_laws(errors, exponents).axes
    assert axes.get_title(loc="left") == "100 training examples, 3 seeds"
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["Adam: p = 0.50 ± 0.10", "SAM, ρ = 0.05: p = 1.00 ± 0.10"]
    fits = [line for line in axes.get_lines() if len(line.get_xdata()) == 2]
    for line, power in zip(fits, (0.5, 1.0)):
        np.testing.assert_allclose(line.get_ydata(), line.get_xdata() ** -power)
        np.testing.assert_allclose(line.get_xdata(), [4, 16], rtol=0.05)


def test_power_laws_need_rows():
    errors, exponents = power_tables()
    with pytest.raises(UserError, match="nothing to draw"):
        figures.power_laws(errors, exponents.iloc[:0])
