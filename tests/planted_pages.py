"""Planted sweeps with a page, and a reader of pages."""

import html.parser
import math

import numpy as np
import planted

from samop import pages

VOID = {"meta", "link"}


class Parsed(html.parser.HTMLParser):
    """Every tag of a page; fails where one is not closed by its own."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split()).replace("\u00a0", " ")


def value(hidden, noise, seed, rho):
    """Under noise the gain grows with the width; without it there is none on average."""
    rng = np.random.default_rng([hidden, seed, int(1000 * (rho or 0)), int(10 * noise)])
    gain = 0.02 * math.log2(hidden) * (noise > 0) * (rho is not None)
    level = 0.6 + gain + 0.004 * rng.normal()
    return [(level - 0.05, level - 0.05), (level, level)]


def sweep(folder, **kwargs):
    kwargs = {"seeds": 5, "noises": (0.0, 0.4), **kwargs}
    return planted.sweep(folder, planted.grid(value, **kwargs))


def page_of(folder):
    return (folder / pages.FILE).read_text(encoding="utf-8")


def unfinish(folder, names, *, begun=True):
    for name in names:
        (folder / "points" / name / "DONE").unlink()
        rows = folder / "points" / name / "metrics.jsonl"
        lines = rows.read_text().splitlines(keepends=True)
        # Half a line at the end, as a process leaves that is writing just now.
        rows.write_text(lines[0] + lines[1][:20] if begun else "")
