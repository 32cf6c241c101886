"""What tests of figures share: their words, and whether these are on the page."""

from collections.abc import Sequence


def texts(figure):
    """Everything that is written in a figure, a line each."""
    found = [t.get_text() for t in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title("left"), axes.get_ylabel(), axes.get_xlabel()]
        found += [t.get_text() for t in axes.texts]
        found += [label.get_text() for label in axes.get_xticklabels()]
    return "\n".join([*found, *(t.get_text() for t in figure.legends[0].get_texts())])


def assert_on_the_page(figure, more: Sequence = (), slack: float = 0.0):
    """Heads, legends and `more` of a figure, but for `slack` pixels."""
    figure.draw_without_rendering()
    page = figure.bbox
    for item in (*figure.legends, *figure.texts, *more):
        box = item.get_window_extent()
        assert page.x0 - slack <= box.x0, item
        assert box.x1 <= page.x1 + slack, item
        assert page.y0 - slack <= box.y0, item
        assert box.y1 <= page.y1 + slack, item
