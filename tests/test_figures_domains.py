"""The figure of several workloads."""

import numpy as np
import pandas as pd
import pytest

from samop import figures
from samop.errors import UserError


def table(metric="accuracy", unit="points", n=3, **changes):
    rows = {
        "metric": metric, "unit": unit, "base": "sgd", "width": ["8", "16", "32"],
        "parameters": [100, 400, 1600], "gain": [-0.5, 0.25, 1.5], "gain_half95": [0.4, 0.3, 0.2],
        "rho_star": [0.05, 0.1, 0.2], "n": n,
    }  # fmt: skip
    return pd.DataFrame({**rows, **changes})


def test_a_panel_shows_the_numbers_of_its_table():
    tables = {"Digits": table(), "Teacher": table("loss", np.nan, gain=[0.01, 0.02, 0.03])}
    figure = figures.domains(tables)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Digits", "Teacher"]
    for axes, rows in zip(figure.axes, tables.values()):
        line = axes.get_lines()[1]
        np.testing.assert_array_equal(line.get_xdata(), rows["parameters"])
        np.testing.assert_array_equal(line.get_ydata(), rows["gain"])
        low, high = axes.get_ylim()
        assert low < min(0, (rows["gain"] - rows["gain_half95"]).min())
        assert high > (rows["gain"] + rows["gain_half95"]).max()
    first, second = (" ".join(t.get_text() for t in axes.texts) for axes in figure.axes)
    assert "SGD · test accuracy (%) · 3 seeds" in first
    assert "−0.50" in first
    assert "+1.50" in first
    assert "SGD · test loss · 3 seeds" in second
    assert figure.axes[0].get_ylabel() == "gain (points)"
    assert figure.axes[1].get_ylabel() == "gain (loss)"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (table().drop(columns="rho_star"), "Digits: the table lacks rho_star"),
        (table().iloc[:0], "Digits: no gain to draw"),
        (table(gain=np.nan), "Digits: no gain to draw"),
        (table(width=["8", "8", "16"]), "Digits: several rows of width 8"),
    ],
)
def test_tables_that_are_none_are_refused(bad, said):
    with pytest.raises(UserError, match=said):
        figures.domains({"Digits": bad})
