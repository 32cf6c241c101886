"""Lines against the number of parameters: what is drawn is what was given."""

import numpy as np
import pandas as pd
import pytest

from samop import figures
from samop.errors import UserError
from samop.figures.layout import Heading


def rows(values, half=1.0):
    widths = [4, 16, 64][: len(values)]
    return pd.DataFrame(
        {
            "width": [str(w) for w in widths],
            "parameters": [10 * w for w in widths],
            "mean": values,
            "half95": half,
        }
    )


def test_each_line_is_drawn_in_its_panel():
    panels = {"last": {"a": rows([1, 2, 3]), "b": rows([0, -1, 5])}, "best": {"a": rows([2, 2, 2])}}
    figure = figures.trends(panels, Heading("Title", ["line"]), "gain", notes={"last": "a note"})
    last, best = figure.axes
    drawn = [
        np.asarray(line.get_ydata()).tolist() for line in last.lines if len(line.get_xdata()) == 3
    ]
    assert drawn == [[1, 2, 3], [0, -1, 5]]
    assert [len(line.get_xdata()) for line in best.lines].count(3) == 1
    assert last.get_ylim() == best.get_ylim()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["a", "b", "95 % t interval over seeds"]
    assert any("a note" in text.get_text() for text in last.texts)


def test_wide_intervals_leave_the_axis_and_scales_may_differ():
    panels = {"x": {"a": rows([1, 2, 3], half=500.0)}, "y": {"a": rows([100, 200, 300])}}
    figure = figures.trends(panels, Heading("Title", [""]), "gain", share=False)
    first, second = (axes.get_ylim() for axes in figure.axes)
    assert first[1] < 10 < 300 < second[1]


def test_a_log_axis_takes_ends_of_its_own():
    table = rows([0.01, 0.1, 0.4]).assign(low95=[0.01, 0.05, 0.2], high95=[0.02, 0.2, 0.5])
    figure = figures.trends({"x": {"ρ": table}}, Heading("T", [""]), "ρ", log=True, reference=None)
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_ylim()[0] > 0


def test_nothing_to_draw_is_said():
    with pytest.raises(UserError, match="nothing to draw"):
        figures.trends({"x": {"a": rows([np.nan, np.nan])}}, Heading("T", [""]), "gain")
    with pytest.raises(UserError, match="nothing to draw"):
        figures.trends({"x": {}}, Heading("T", [""]), "gain")
