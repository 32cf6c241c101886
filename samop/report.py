"""python -m samop.report --workdir=DIR: tables and figures of a sweep again, without training.

Prints the table and, below it, the speed that was recorded. Writes into the work folder, as far as
there is something to show:

  results.csv, slopes.csv   every gain, and the primary test
  runs.csv                  a row a run, with the speed that it recorded (timing.jsonl)
  variants.csv              of several variants of SAM, their differences to plain SAM
  curvature.csv, curvature_slopes.csv, curvature_runs.csv
                            where the curvature of runs was measured (curvature.jsonl): SAM beside
                            its base, how their ratio changes, a row a run and measured step
  figures/*.{png,pdf}       width_gap, accuracy, learning_curves, best_rho; variants; of curvature:
                            curvature, curvature_ggn, curvature_moments, curvature_ggn_moments,
                            spectrum, curvature_training. Of several variants width_gap and those
                            of curvature are the first's, plain SAM where it was run, and each
                            other has its own: width_gap_NAME
  report.html               all of it on one page (`samop.pages`)

Of a sweep that is not finished the page is written too and says so; tables and figures as files
take --allow_incomplete, so that nobody takes those of half a sweep for the whole. --follow watches
a sweep while it runs (`samop.follow`).
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from samop import comparison, figures, flatness, pages, results, summary, throughput
from samop.commands import Parser, asks_help
from samop.errors import UserError
from samop.pages import gallery, standing
from samop.records import write_atomic

LEAST_SECONDS = 0.1
HELP = """\
Tables and figures of a sweep again, without training.

  python -m samop.report --workdir=DIR [options]

  --workdir=DIR          the sweep's work folder; tables, figures and report.html go there too
  --allow_incomplete     tables and figures of what is finished; of a sweep that is not, only the
                         page is written otherwise
  --follow               watches the sweep while it runs, here and as a page that reads itself
                         again, and writes the whole report at its end; Ctrl-C ends the view alone
  --follow_seconds=S     between two looks, at least (default: 5)
  --help                 this text

Prints the table of the gain at every width. Exit status: 2 after an error, such as a sweep that is
not finished.
"""


def write(workdir: str | Path, *, allow_incomplete: bool = False) -> str:
    """Writes the tables, figures and page of a work folder; never trains.

    Args:
      workdir: the work folder of a sweep.
      allow_incomplete: report on what is finished.

    Returns:
      What to print: the table, speed and compute where they were recorded, and the paths written.

    Raises:
      UserError: as `samop.results.load`; of an incomplete sweep the page is written before.
    """
    root = Path(workdir)
    try:
        runs = results.load(root, allow_incomplete=allow_incomplete)
    except results.Unfinished as error:
        path = page(root)
        raise UserError(f"{error}; {path} shows what there is so far") from None
    table = results.table(runs)
    found = _made(root, _standing(root), runs)
    measured, timed = found.measured, found.timed
    if measured is None or timed is None:  # no run is finished
        pages.write(found)
        return table
    paths = [*_tables(runs, timed, root), *_curvature(runs, measured, root)]
    for drawing in found.drawings:
        paths += figures.save(drawing.figure, root / "figures" / drawing.stem)
    paths.append(pages.write(found._replace(files=tuple(paths))))
    wrote = "\n".join(f"wrote {path}" for path in paths)
    speed, compute = throughput.section(runs, timed), throughput.compute(runs, timed)
    parts = [table, flatness.section(runs, measured), speed, compute, wrote]
    return "\n".join(part for part in parts if part) + "\n"


def page(workdir: str | Path, live: pages.Live | None = None) -> Path:
    """Writes the page alone, of whatever there is; returns its path.

    Raises:
      UserError: no sweep was planned there, or a record is damaged.
    """
    return pages.write(material(Path(workdir)), live)


def material(root: Path) -> pages.Material:
    """What the page of a work folder is made of, finished or not; without files beside it."""
    state = _standing(root)
    if not any(run.status != "missing" for run in state.runs):
        return pages.Material(root, state)
    return _made(root, state, results.load(root, allow_incomplete=True))


def _made(root: Path, state: standing.Standing, runs: pd.DataFrame) -> pages.Material:
    if results.finished(runs).empty:
        return pages.Material(root, state, runs, drawings=gallery.drawings(root, runs, None))
    measured = flatness.load(root, runs, allow_incomplete=True)  # its text says what is missing
    drawn = gallery.drawings(root, runs, measured)
    return pages.Material(root, state, runs, measured, throughput.read(root, runs), drawn)


def _standing(root: Path) -> standing.Standing:
    state = standing.read(root)
    if state is None:
        raise UserError(f"workdir={str(root)!r} holds no plan.json: no sweep was started there")
    return state


def csv(table: pd.DataFrame) -> str:
    """The text of a table: ten significant digits, the same for the same numbers."""
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def _tables(runs: pd.DataFrame, timed: pd.DataFrame, root: Path) -> list[Path]:
    choices: list[str | float] = ["validation", "oracle", *comparison.rho_grid(runs)]
    slopes = [
        results.slopes(runs, epoch=epoch, choice=choice, widths=widths)
        for epoch in comparison.EPOCHS
        for choice in choices
        for widths in ("all", "upper")
    ]
    differences = []
    if len(comparison.arms(runs)) > 1:
        differences = [summary.differences(runs, epoch) for epoch in comparison.EPOCHS]
    tables = {
        "results.csv": results.tidy(runs),
        "slopes.csv": pd.concat(slopes, ignore_index=True),
        "variants.csv": pd.concat([pd.DataFrame(), *differences], ignore_index=True),
        "runs.csv": throughput.joined(runs, timed),
    }
    paths = []
    for name, table in tables.items():
        if not table.empty:
            write_atomic(root / name, csv(table))
            paths.append(root / name)
    return paths


def _curvature(runs: pd.DataFrame, measured: pd.DataFrame, root: Path) -> list[Path]:
    """The tables of what was measured of the curvature; none where nothing was."""
    if measured.empty:
        return []
    choices: list[str | float] = ["validation", *comparison.rho_grid(runs)]
    # The fixed ρ at the last epoch only: at equal loss there is one headline.
    cases: list[tuple[str, str | float]] = [("last", choice) for choice in choices]
    cases.append(("equal_loss", "validation"))
    tables = {
        "curvature.csv": [flatness.compare(runs, measured, at=a, choice=c) for a, c in cases],
        "curvature_slopes.csv": [
            flatness.slopes(runs, measured, at=a, choice=c, widths=widths)
            for a, c in cases
            for widths in ("all", "upper")
        ],
        "curvature_runs.csv": [measured],
    }
    paths = []
    for name, parts in tables.items():
        filled = [part for part in parts if not part.empty]
        if filled:
            write_atomic(root / name, csv(pd.concat(filled, ignore_index=True)))
            paths.append(root / name)
    return paths


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options; workdir, allow_incomplete, follow, follow_seconds."""
    parser = Parser()
    parser.add_argument("--workdir", default="")
    parser.add_argument("--allow_incomplete", action="store_true")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--follow_seconds", type=float, default=5.0)
    options = parser.read(argv)
    if not options.workdir:
        raise UserError("--workdir=DIR is needed: the work folder of a sweep")
    if not (math.isfinite(options.follow_seconds) and options.follow_seconds >= LEAST_SECONDS):
        raise UserError(
            f"--follow_seconds={options.follow_seconds} is not allowed: a number ≥ {LEAST_SECONDS}"
        )
    return options


def main(argv: Sequence[str]) -> int:
    """Runs a command line (without the program's name); returns the exit status."""
    if asks_help(argv):
        print(HELP, end="")
        return 0
    try:
        options = _parse(argv)
        if options.follow:
            from samop import follow

            return follow.follow(options.workdir, options.follow_seconds)
        text = write(options.workdir, allow_incomplete=options.allow_incomplete)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
