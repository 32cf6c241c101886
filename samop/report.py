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
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from absl import app, flags

from samop import comparison, figures, flatness, results, summary, throughput, wording
from samop.errors import UserError
from samop.records import write_atomic


def write(workdir: str | Path, *, allow_incomplete: bool = False) -> str:
    """Writes the tables and figures of a work folder; never trains.

    Args:
      workdir: the work folder of a sweep.
      allow_incomplete: report on what is finished.

    Returns:
      What to print: the table, speed and compute where they were recorded, and the paths written.

    Raises:
      UserError: as `samop.results.load`.
    """
    root = Path(workdir)
    runs = results.load(root, allow_incomplete=allow_incomplete)
    table = results.table(runs)
    if results.finished(runs).empty:
        return table
    measured = flatness.load(root, runs, allow_incomplete=True)  # its text says what is missing
    timed = throughput.read(root, runs)
    paths = [*_tables(runs, timed, root), *_figures(runs, root / "figures")]
    paths += _curvature(runs, measured, root)
    wrote = "\n".join(f"wrote {path}" for path in paths)
    speed, compute = throughput.section(runs, timed), throughput.compute(runs, timed)
    parts = [table, flatness.section(runs, measured), speed, compute, wrote]
    return "\n".join(part for part in parts if part) + "\n"


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


def _figures(runs: pd.DataFrame, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    arms = comparison.arms(runs)
    if results.gains(runs)["gain"].notna().any():
        if len(arms) > 1:
            paths += figures.save(figures.variants(runs), folder / "variants")
        for number, arm in enumerate(arms):
            alone = comparison.only(runs, arm)
            if results.gains(alone)["gain"].notna().any():
                # The first is plain SAM, where it was run.
                label = wording.arm_label(arm, runs)
                stem = "width_gap" + (f"_{_slug(label)}" if number else "")
                paths += figures.save(figures.width_gap(alone), folder / stem)
    return paths + figures.save(figures.accuracy(runs), folder / "accuracy")


def _curvature(runs: pd.DataFrame, measured: pd.DataFrame, root: Path) -> list[Path]:
    """The tables and figures of what was measured of the curvature; none where nothing was."""
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
    arms = comparison.arms(runs)
    for number, arm in enumerate([*arms] or [{}]):
        alone = comparison.only(runs, arm) if arm else runs
        suffix = f"_{_slug(wording.arm_label(arm, runs))}" if number and arm else ""
        for name, figure in figures.curvatures(alone, measured).items():
            paths += figures.save(figure, root / "figures" / f"{name}{suffix}")
    return paths


def _slug(label: str) -> str:
    """A label as part of a file name: "SAM (m = 16)" → sam_m_16."""
    return re.sub(r"[^a-z0-9.]+", "_", label.lower().replace("-", "")).strip("_")


def _main(argv: Sequence[str]) -> int:
    try:
        if len(argv) > 1:
            raise UserError(f"argument {argv[1]!r} is not understood; use --workdir=DIR")
        if not flags.FLAGS.workdir:
            raise UserError("--workdir=DIR is needed: the work folder of a sweep")
        text = write(flags.FLAGS.workdir, allow_incomplete=flags.FLAGS.allow_incomplete)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


def main() -> None:
    """Entry of `python -m samop.report`; the flags are its own, so that others can import this."""
    flags.DEFINE_string("workdir", "", "Work folder of the sweep to report on.")
    flags.DEFINE_bool("allow_incomplete", False, "Report on what is finished.")
    app.run(_main)


if __name__ == "__main__":
    main()
