"""The page of a sweep: one self-contained report.html of its headline, figures and tables. No jax.

No script, no network, no clock: the same work folder under the same path gives the same bytes, but
for a page that is written while the sweep runs. What comes from a work folder is data: the template
escapes it.
"""

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from samop import comparison, flatness, summary, throughput
from samop.headline import headlines
from samop.pages import pictures, surroundings, tables
from samop.pages.gallery import SECTIONS, Drawing
from samop.pages.standing import Standing
from samop.records import write_atomic

FILE = "report.html"


class Live(NamedTuple):
    """What a page says of itself while it is written again and again.

    Attributes:
      seconds: until it reads itself again.
      when: when it was written.
    """

    seconds: int
    when: str


class Material(NamedTuple):
    """What a page is made of.

    Attributes:
      root: the work folder.
      standing: how far its sweep is.
      runs: table of `samop.results.load`; None: no run has a row yet.
      measured: table of `samop.flatness.load`.
      timed: table of `samop.throughput.read`.
      drawings: its figures, of `samop.pages.gallery`, which lose their headings.
      files: tables and figures beside the page.
    """

    root: Path
    standing: Standing
    runs: pd.DataFrame | None = None
    measured: pd.DataFrame | None = None
    timed: pd.DataFrame | None = None
    drawings: Sequence[Drawing] = ()
    files: Sequence[Path] = ()


def write(material: Material, live: Live | None = None) -> Path:
    """Writes the page into its work folder, as a whole; returns its path."""
    path = material.root / FILE
    write_atomic(path, render(material, live))
    return path


def render(material: Material, live: Live | None = None) -> str:
    """The page's text.

    Args:
      material: what it is made of.
      live: where the sweep runs still and the page is to read itself again.
    """
    folder = importlib.resources.files(__name__)
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
    )
    environment.filters["bound"] = _bound
    style = (folder / "report.css").read_text(encoding="utf-8")
    values = _values(material)
    template = environment.get_template("report.html")
    return template.render(style=Markup(style), live=live, **values)


def _bound(text: str) -> str:
    """Numbers kept on one line with their intervals and units."""
    for sign in ("±", "%"):
        text = text.replace(f" {sign}", f"\u00a0{sign}")
    return text.replace("± ", "±\u00a0")


def _values(material: Material) -> dict[str, Any]:
    root, standing, runs = material.root, material.standing, material.runs
    names = [run.name for run in standing.runs]
    states = {run.name: run.status for run in standing.runs}
    if runs is not None:
        states = dict(zip(runs["point"], runs["status"]))
    by_state = {
        state: tables.listing([name for name in names if states.get(name, "missing") == state])
        for state in ("diverged", "partial", "missing")
    }
    counts = {
        state: sum(states.get(name, "missing") == state for name in names)
        for state in ("done", "diverged", "partial", "missing")
    }
    finished = counts["done"] + counts["diverged"]
    values: dict[str, Any] = {
        "experiment": standing.experiment or root.name,
        "total": len(names),
        "counts": counts,
        "finished": finished,
        "whole": finished == len(names),
        "percent": standing.percent,
        "by_state": by_state,
        "facts": [],
        "headlines": [],
        "pictures": {name: [] for name in SECTIONS},
        "palette": Markup(""),
        "gains": [],
        "rule": "",
        "variants": [],
        "curvature": [],
        "curvature_text": "",
        "notes": [],
        "speed": [],
        "compute": "",
        "files": _files(material),
        "made_with": surroundings.read(root, names),
        "commands": surroundings.commands(root, standing.command, finished == len(names)),
    }
    if runs is not None:
        values |= _numbers(material, runs)
    return values


def _numbers(material: Material, runs: pd.DataFrame) -> dict[str, Any]:
    """What can be said once a run has begun; most of it once one is finished."""
    drawn: dict[str, list[pictures.Picture]] = {name: [] for name in SECTIONS}
    for drawing in material.drawings:
        drawn[drawing.section].append(pictures.picture(drawing))
    values: dict[str, Any] = {
        "pictures": drawn,
        "palette": pictures.palette([p for group in drawn.values() for p in group]),
    }
    if comparison.finished(runs).empty:
        return values
    gains = comparison.gains(runs)
    several = len(comparison.arms(runs)) > 1
    between = summary.differences(runs) if several else pd.DataFrame()
    values |= {
        "facts": _facts(runs),
        "headlines": headlines(runs),
        "gains": tables.gain_tables(runs, gains),
        "rule": summary.rule(comparison.finished(runs)) if comparison.rho_grid(runs) else "",
        "variants": tables.variant_tables(runs, between),
        "notes": [
            note[:1].upper() + note[1:] + "." for note in summary.notes(runs, gains, between)
        ],
    }
    if material.measured is not None and not material.measured.empty:
        values["curvature"] = tables.curvature_tables(runs, material.measured)
        values["curvature_text"] = flatness.section(runs, material.measured).strip("\n")
    if material.timed is not None:
        values["speed"] = tables.speed_table(runs, material.timed)
        values["compute"] = (
            throughput.compute(runs, material.timed).strip().removeprefix("compute: ")
        )
    return values


def _facts(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """What was run, in a few words each."""
    done = comparison.finished(runs)
    widths = done.drop_duplicates("width").sort_values("parameters")
    span = " … ".join(dict.fromkeys(widths["width"].iloc[[0, -1]]))
    parameters = [f"{n:,.0f}" for n in widths["parameters"].iloc[[0, -1]]]
    grid = comparison.rho_grid(runs)
    return [
        ("data", ", ".join(sorted(done["dataset"].unique()))),
        ("network", ", ".join(sorted(done["model"].unique()))),
        ("widths", f"{span} ({done['width'].nunique()})"),
        ("parameters", " … ".join(dict.fromkeys(parameters))),
        ("seeds", str(done["seed"].nunique())),
        ("ρ", ", ".join(f"{rho:g}" for rho in grid) or "–"),
    ]


def _files(material: Material) -> list[tuple[str, str, str]]:
    """(kind, address relative to the page, name) of the files beside it that are there."""
    found = []
    for path in material.files:
        relative = path.relative_to(material.root)
        found.append((path.suffix.removeprefix("."), relative.as_posix(), relative.as_posix()))
    return sorted(found)
