"""Figures as part of a page: inline SVG whose colours follow the page's, its heading as text.

Every colour of a figure becomes a CSS variable with a light and a dark value, so that one picture
serves both. Letters are outlines: they look the same everywhere. The figure's own heading is taken
out, for text on a page can be wrapped, searched and read aloud.
"""

import colorsys
import io
import re
from collections.abc import Iterable
from typing import NamedTuple

import matplotlib
from markupsafe import Markup, escape

from samop.figures.layout import STYLE
from samop.pages.gallery import Drawing

PIXELS = 96  # per inch, of CSS
LINE = 1.2  # a line of text is so many times its size high
SMALLEST = 0.66  # a figure is not shown smaller than this: it scrolls within its box instead
PAPER, WHITE = 0.09, 0.93  # lightness that white paper and black ink have in the dark
COLOR = re.compile(r"#[0-9a-fA-F]{6}\b")


class Picture(NamedTuple):
    """A figure for a page.

    Attributes:
      title, lines: the heading that the figure had.
      svg: the rest of it.
      caption: what the marks and bands are.
      colors: those it uses, "#rrggbb".
    """

    title: str
    lines: tuple[str, ...]
    svg: Markup
    caption: str
    colors: frozenset[str]


def picture(drawing: Drawing) -> Picture:
    """A figure as a picture; it loses its heading: its first two texts, title and lines."""
    figure = drawing.figure
    texts = list(figure.texts[:2])
    title = texts[0].get_text().replace("\n", " ") if texts else ""
    # What `figures.layout` wrapped to the figure's width it keeps whole as the text's label.
    lines = str(texts[1].get_label()).split("\n") if len(texts) > 1 else []
    height = 72 * figure.get_size_inches()[1]
    top = 0.0  # points that the heading takes
    for text in texts:
        size, count = float(text.get_fontsize()), text.get_text().count("\n") + 1
        top = height * (1 - text.get_position()[1]) + count * LINE * size
        text.remove()
    file = io.StringIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    style = {**STYLE, "svg.hashsalt": "samop", "svg.fonttype": "path"}
    with matplotlib.rc_context(style):
        figure.savefig(file, format="svg", metadata=none, transparent=True)
    label = f"{title}. {drawing.words}"
    svg, colors = _inline(file.getvalue(), drawing.stem.replace(".", "_"), label, top)
    return Picture(title, tuple(lines), Markup(svg), drawing.caption, frozenset(colors))


def _inline(svg: str, name: str, label: str, top: float) -> tuple[str, set[str]]:
    """An SVG file as an element of a page, and its colours.

    Args:
      svg: the file's text.
      name: before all its names.
      label: what is to be seen.
      top: points to cut off.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.DOTALL)
    # Names are of the page, on which there are several pictures.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    colors: set[str] = set()

    def painted(style: re.Match[str]) -> str:
        colors.update(color.lower() for color in COLOR.findall(style[0]))
        return COLOR.sub(lambda found: f"var({variable(found[0])})", style[0])

    svg = re.sub(r'style="[^"]*"', painted, svg)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None
    across, down = float(box[1]), float(box[2])
    pixels = across / 72 * PIXELS
    start = (
        f'<svg viewBox="0 {top:.1f} {across:.1f} {down - top:.1f}" role="img" '
        f'aria-label="{escape(label)}" '
        f'style="width:{pixels:.0f}px;min-width:{SMALLEST * pixels:.0f}px">'
    )
    return start + svg[svg.index(">") + 1 :], colors


def variable(color: str) -> str:
    """The name of a colour's CSS variable."""
    return f"--c{color[1:].lower()}"


def palette(pictures: Iterable[Picture]) -> Markup:
    """CSS that gives every colour its light and its dark value."""
    colors = sorted(set().union(*(each.colors for each in pictures)))
    if not colors:
        return Markup("")
    light = "".join(f"{variable(color)}:{color};" for color in colors)
    night = "".join(f"{variable(color)}:{dark(color)};" for color in colors)
    return Markup(f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{night}}}}}")


def dark(color: str) -> str:
    """A colour of equal hue for a dark page: light and dark change places.

    >>> dark("#ffffff"), dark("#000000")
    ('#171717', '#ededed')
    """
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    hue, lightness, saturation = colorsys.rgb_to_hls(*parts)
    turned = PAPER + (WHITE - PAPER) * (1 - lightness)
    shown = colorsys.hls_to_rgb(hue, turned, saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in shown)
