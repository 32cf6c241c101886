"""What print asks of every figure: embedded fonts, text in its place, lines told apart in grey."""

import io
import itertools
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import planted
import pytest
from figure_checks import assert_on_the_page
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from test_figures import collapse
from test_figures_curvature import written
from test_figures_domains import table
from test_figures_family import FAMILY, member
from test_figures_theory import convergence_tables

from samop import curves, figures, results
from samop.figures import looks, stability
from samop.figures.layout import STYLE, Heading, Panel, lean

WHITE = 1.0
RESULTS = Path(__file__).parent.parent / "experiments" / "results"
TABLES = (
    "two_layer_error/errors", "two_layer_error/exponents", "linear_stability/minima",
    "linear_stability/ensembles",
)  # fmt: skip


def sweeps(folder):
    """A sweep of one variant with label noise, its curves, and one of five variants."""
    grid = planted.grid(collapse, widths=(8, 16, 64), noises=(0.0, 0.4), seeds=2)
    one = results.load(planted.sweep(folder / "one", grid))
    wide = {"widths": (8, 16, 64), "seeds": 2, "noises": (0.0, 0.4)}
    several = planted.family(member, FAMILY, **wide)
    return one, curves.load(folder / "one", one), results.load(planted.sweep(folder / "f", several))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, Figure]:
    """Every kind of figure, by name."""
    folder = tmp_path_factory.mktemp("paper")
    one, epochs, several = sweeps(folder)
    found = {
        "width_gap": figures.width_gap(one),
        "accuracy": figures.accuracy(one),
        "learning_curves": figures.learning_curves(one, epochs),
        "best_rho": figures.best_rho(one),
        "variants": figures.variants(several),
        "accuracy of variants": figures.accuracy(several),
        "domains": figures.domains({name: table() for name in ("Digits", "Words", "Molecules")}),
    }
    found |= figures.curvatures(*written(folder / "curvature", widths=(4, 64), seeds=2))
    found |= figures.convergence(*convergence_tables())
    stored = {name: pd.read_csv(RESULTS / f"{name}.csv") for name in TABLES}
    found["power_laws"] = figures.power_laws(*(stored[name] for name in TABLES[:2]))
    found["minima"] = stability.minima(stored[TABLES[2]])
    found["ensembles"] = stability.ensembles(stored[TABLES[3]])
    gains = results.gains(one).assign(mean=lambda t: t["gain"], half95=lambda t: t["gain_half95"])
    lines = {"clean labels": gains[gains["label_noise"] == 0], "noisy labels": gains.tail(3)}
    long = "A condition whose name is longer than the panel that it stands above is wide"
    for name, ordered in (("degrees", True), ("kinds", False)):
        panels = {"Last epoch": lines, long: lines}
        found[name] = figures.trends(
            panels, Heading("Title", ["line"]), "gain", notes={long: "a note"}, ordered=ordered
        )
    return found


NAMES = (
    "width_gap", "accuracy", "learning_curves", "best_rho", "variants", "accuracy of variants",
    "domains", "curvature", "curvature_ggn", "spectrum", "curvature_training", "loss", "rates",
    "degrees", "kinds", "power_laws", "minima", "ensembles",
)  # fmt: skip


def test_every_figure_is_looked_at(drawn):
    assert set(drawn) == set(NAMES)


def written_texts(figure):
    """(text, its box) of what is not a number beside a line: those stand as near as they must."""
    found = list(figure.texts)
    for legend in figure.legends:
        found += legend.get_texts()
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        found += [t for t, x in zip(axes.get_xticklabels(), axes.get_xticks()) if seen(axes, x=x)]
        found += [t for t, y in zip(axes.get_yticklabels(), axes.get_yticks()) if seen(axes, y=y)]
        found += [t for t in axes.texts if t.get_transform() == axes.transAxes]
    found = [t for t in found if t.get_visible() and t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent()) for t in found]


def seen(axes, x=None, y=None):
    """Whether a tick is on the axis: labels of others exist, and are not drawn."""
    low, high = sorted(axes.get_xlim() if y is None else axes.get_ylim())
    return low <= (x if y is None else y) <= high


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_on_the_page_and_apart(drawn, name):
    figure = drawn[name]
    everything = [t for axes in figure.axes for t in axes.texts if t.get_text().strip()]
    assert_on_the_page(figure, everything, slack=1)
    boxes = written_texts(figure)
    assert len(boxes) > 5
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        up = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 1 or up <= 1, f"{one!r} and {other!r} overlap"


# Among them all that differ in what they write: names, powers of ten, bounds, Greek.
@pytest.mark.parametrize(
    "name", ["width_gap", "variants", "best_rho", "spectrum", "rates", "power_laws", "ensembles"]
)
def test_fonts_are_embedded_and_none_is_of_type_3(drawn, name):
    with matplotlib.rc_context(STYLE):  # as `save` does
        drawn[name].savefig(file := io.BytesIO(), format="pdf")
    objects = re.findall(rb"\d+ 0 obj\s*(.*?)\s*endobj", file.getvalue(), re.DOTALL)
    fonts = [o for o in objects if re.search(rb"/Type\s*/Font\b(?!Descriptor)", o)]
    descriptors = [o for o in objects if b"/FontDescriptor" in o and b"/FontName" in o]
    assert fonts
    assert descriptors
    assert not any(b"/Type3" in font for font in fonts)
    kinds = {re.search(rb"/Subtype\s*/(\w+)", font).group(1) for font in fonts}
    assert kinds <= {b"Type0", b"CIDFontType2", b"TrueType"}
    assert all(b"/FontFile2" in descriptor for descriptor in descriptors)


def grey(color) -> float:
    """Relative luminance of an sRGB colour, 0 black, 1 white."""
    part = np.array(to_rgb(color))
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(color) -> float:
    """Contrast ratio with white paper."""
    return (WHITE + 0.05) / (grey(color) + 0.05)


def test_lines_can_be_seen_on_white():
    colors = [look[0] for look in (*looks.LOOKS.values(), *looks.KINDS)]
    colors += [*map(tuple, looks.shades(6)), *map(tuple, looks.shades_of_rho(6))]
    colors += [looks.BLUE, looks.INK, looks.FAINT, looks.AMBER]
    assert min(map(contrast, colors)) > 2.0
    # Text is darker: what accessibility guidelines ask of small print.
    assert min(map(contrast, (looks.INK, looks.FAINT, looks.BLUE))) > 4.5


def test_shades_descend_in_grey():
    for shades in (looks.shades, looks.shades_of_rho):
        tones = [grey(color) for color in shades(5)]
        assert (np.diff(tones) < -0.02).all()


@pytest.mark.parametrize("name", ["degrees", "kinds", "accuracy", "learning_curves", "variants"])
def test_lines_differ_in_dash(drawn, name):
    dashes = {}
    for axes in drawn[name].axes:
        for line in axes.lines:
            if line.get_transform() != axes.transData or line.get_linestyle() == "None":
                continue
            if len(line.get_xdata()) > 1:
                dash = str(line._unscaled_dash_pattern)
                dashes.setdefault(to_hex(line.get_color()), set()).add(dash)
    assert len(dashes) > 1
    patterns = [pattern for found in dashes.values() for pattern in found]
    assert len(set(patterns)) == len(patterns)


def test_numbers_lean_inwards_at_the_ends(drawn):
    axes = drawn["accuracy"].axes[0]
    panel = Panel(axes, {}, pd.DataFrame())
    low, high = axes.get_xlim()
    assert lean(panel, low * 1.001, "+0.12", 8) > 5
    assert lean(panel, high / 1.001, "+0.12", 8) < -5
    assert lean(panel, (low * high) ** 0.5, "+0.12", 8) == 0
