"""python -m samop.report --workdir=DIR: tables and figures of a sweep again, without training.

Writes into the work folder results.csv (every gain), slopes.csv (the primary test), runs.csv (one
row a run), figures/width_gap.{png,pdf} and figures/accuracy.{png,pdf}, and prints the table. Where
there are several variants of SAM, also variants.csv (their differences to plain SAM) and
figures/variants.{png,pdf}; width_gap is then plain SAM's, and each other variant has a
width_gap_NAME.

Where the curvature of runs was measured (curvature.jsonl), also curvature.csv (SAM beside its
base), curvature_slopes.csv, curvature_runs.csv (a row a run and measured step) and the figures
curvature, curvature_ggn, spectrum and curvature_training, as far as there is something to draw.

The speed that runs recorded (timing.jsonl) is in runs.csv and printed below the table.

report.html shows all of it on one page (`samop.pages`). Of a sweep that is not finished the page is
written too and says so; tables and figures as files take --allow_incomplete, so that nobody takes
those of half a sweep for the whole. --follow watches a sweep while it runs (`samop.follow`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from absl import app, flags

from samop import comparison, figures, flatness, pages, results, summary, throughput
from samop.errors import UserError
from samop.pages import gallery, standing
from samop.records import write_atomic


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
    if results.finished(runs).empty:
        page(root)
        return table
    measured = flatness.load(root, runs, allow_incomplete=True)  # its text says what is missing
    timed = throughput.read(root, runs)
    drawn = gallery.drawings(root, runs, measured)
    paths = [*_tables(runs, timed, root), *_curvature(runs, measured, root)]
    for drawing in drawn:
        paths += figures.save(drawing.figure, root / "figures" / drawing.stem)
    whole = pages.Material(root, _standing(root), runs, measured, timed, drawn, paths)
    paths.append(pages.write(whole))
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
    runs = results.load(root, allow_incomplete=True)
    if results.finished(runs).empty:
        return pages.Material(root, state, runs, drawings=gallery.drawings(root, runs, None))
    measured = flatness.load(root, runs, allow_incomplete=True)
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


def _main(argv: Sequence[str]) -> int:
    try:
        if len(argv) > 1:
            raise UserError(f"argument {argv[1]!r} is not understood; use --workdir=DIR")
        if not flags.FLAGS.workdir:
            raise UserError("--workdir=DIR is needed: the work folder of a sweep")
        if flags.FLAGS.follow:
            from samop import follow

            return follow.follow(flags.FLAGS.workdir, flags.FLAGS.follow_seconds)
        text = write(flags.FLAGS.workdir, allow_incomplete=flags.FLAGS.allow_incomplete)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


def main() -> None:
    """Entry of `python -m samop.report`; the flags are its own, so that others can import this."""
    flags.DEFINE_string("workdir", "", "Work folder of the sweep to report on.")
    flags.DEFINE_bool("allow_incomplete", False, "Tables and figures of what is finished.")
    flags.DEFINE_bool("follow", False, "Watch the sweep while it runs.")
    flags.DEFINE_float("follow_seconds", 5.0, "Between two looks.", lower_bound=0.1)
    app.run(_main)


if __name__ == "__main__":
    main()
