"""python -m samop.curvature --run=DIR: the curvature of a trained network, with error bars."""

import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging
from rich.console import Console
from rich.table import Table

from samop import records, theory, validation, variants
from samop.commands import Parser, asks_help
from samop.errors import UserError
from samop.limits import one_of
from samop.meanings import WHAT
from samop.theory.minima import INTERPOLATES

HELP = f"""\
Measures the curvature of trained networks, with error bars; nothing of the sweep changes.

  python -m samop.curvature --run=DIR[,DIR ...] [options]

  --run=DIR          a finished run's folder, WORKDIR/points/NAME; several joined by commas
  --what=WORDS       what to measure, joined by commas; all unless told otherwise:
                     {", ".join(WHAT)}
  --examples=N       training examples to measure on; 0: all
  --k=N              eigenvalues
  --probes=N         products with random vectors for a trace
  --rho=R            radius of the worst-case and average sharpness
  --tol=T            largest residual of an eigenvalue, relative to the largest eigenvalue
  --max_matvecs=N    most products for eigenvalues
  --seed=N           of the random vectors (default: 0)
  --help             this text

What is not given is as in the run's config (`python -m samop.fields curvature`). Prints a table and
the criteria of linear stability at the run's rate and radius; writes DIR/sharpness.json and, of a
density, DIR/spectrum.png and .pdf.
"""
FLAGS = {"examples": int, "k": int, "probes": int, "rho": float, "tol": float, "max_matvecs": int}
Row = dict[str, Any]


def measure_run(run: Path, what: Sequence[str], overrides: Mapping[str, Any], seed: int) -> Row:
    """Everything asked for of a finished run's network.

    Args:
      run: the run's folder.
      what: words of `samop.measures`.
      overrides: fields of `config.curvature` that hold instead of the run's own.
      seed: of the random vectors.

    Returns:
      {"run", "curvature": settings, "row": see `samop.measures`, "eta", "rho", "note", "stability":
      the criteria that apply}.

    Raises:
      UserError: no finished run, or fields that are not allowed.
    """
    from samop import checkpoint, measures
    from samop.groups import read_point
    from samop.train import make_run
    from samop.workloads import build, parameters

    if not what:
        raise UserError(f"--what= names nothing; allowed: {', '.join(WHAT)}")
    if not (run / "config.json").exists():
        raise UserError(f"--run={run} is no run: a folder WORKDIR/points/NAME is needed")
    config: Any = copy.deepcopy(read_point(run.parent.parent, run.name))
    fields = config["curvature"] | dict(overrides) | {"what": tuple(what), "what_end": ()}
    config["curvature"] = fields
    validation.validate(config)
    workload = build(config)
    measures.check(config, workload, parameters(config))
    variables = checkpoint.load(run)
    params = variables.pop("params")
    rate = config["data"]["label_noise"]
    labels = make_run(config, workload).labels(np.uint32(config["seed"]), rate)
    batch = measures.batch_of(config, workload, labels)
    key = measures.key_of(seed, 0)
    args = (workload, params, variables, batch, key)
    # The moments are measured with the criteria, to the order that these need.
    besides = tuple(word for word in what if word != "moments")
    row = measures.measure({**config, "curvature": fields | {"what": besides}}, *args, last=True)
    eta, rho, note = at(config, row["loss"])
    criteria: list[theory.Criterion] = []
    if "moments" in what and np.isfinite(row["loss"]):
        criteria, moments, converged = measures.stability(config, *args, eta=eta, rho=rho)
        row |= moments
        if not converged:
            note += " NOT CONVERGED: one of the eigenvalues behind these did not."
    return {
        "run": run.name,
        "curvature": {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()},
        "row": row,
        "eta": eta,
        "rho": rho,
        "note": note,
        "stability": [{**c._asdict(), "margin": c.margin, "verdict": c.verdict} for c in criteria],
    }


def at(config: Mapping[str, Any], loss: float) -> tuple[float, float, str]:
    """(η, ρ of unnormalised SAM, what is not as the theory has it) of a run with that loss."""
    fields = config["optimizer"]
    resolved = variants.resolved(fields)
    plain = fields["name"] == "sam" and resolved["ascent"] == "unnormalized"
    rho = float(fields["rho"]) if plain else 0.0
    notes = []
    if fields["name"] != "base" and not plain:
        notes.append(
            "The theory's SAM is unnormalised (optimizer.ascent='unnormalized'); this run's is "
            "not, so these are the criteria of its base, ρ = 0."
        )
    if fields["base"] != "sgd" or fields["momentum"] or fields["weight_decay"]:
        notes.append("The theory has no momentum, decay or adaptive rates; this run has.")
    if fields["schedule"] != "constant" or fields["warmup"]:
        notes.append("η is the peak of a schedule.")
    size = config["train"]["batch_size"]
    if size > 1:
        notes.append(f"M₂ and s₂ are of batches of {size}, from those of the examples measured on.")
    if loss > INTERPOLATES:
        notes.append(f"A training loss of {loss:.2g} is no interpolating minimum.")
    return float(fields["lr"]), rho, " ".join(notes)


def show(found: Row, console: Console) -> None:
    """Prints a record as tables."""
    row = found["row"]
    console.print(
        f"{found['run']}\n{row['parameters']:,} parameters; mean training loss on "
        f"{row['examples']:,} examples: {row['loss']:.4g}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for name, justify in (("", "left"), ("value", "right"), ("±", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, value in row.items():
        error, kind = row.get(f"{name}_residual"), "residual"
        if error is None:
            error, kind = row.get(f"{name}_se"), "standard error"
        if error is None or value is None or isinstance(value, list):
            continue
        if row.get(f"{name}_converged") is False:
            kind += ", NOT CONVERGED"
        table.add_row(name, f"{value:.5g}", f"{error:.2g}", kind)
    console.print(table)
    if row.get("eigenvalues"):
        values = "  ".join(f"{x:.4g}" for x in row["eigenvalues"])
        console.print(f"largest eigenvalues: {values}", highlight=False)
    if found["stability"]:
        console.print(f"\nlinear stability at η = {found['eta']:g}, ρ = {found['rho']:g}")
        table = Table(box=None, pad_edge=False)
        for name in ("criterion", "value", "±", "bound", "margin", "", "assumes"):
            table.add_column(name)
        for c in found["stability"]:
            verdict = f"{c['kind']}: {c['verdict']}"
            numbers = [f"{c['value']:.4g}", f"{c['error']:.1g}", f"{c['bound']:.4g}"]
            table.add_row(c["name"], *numbers, f"{c['margin']:.3g}", verdict, c["assumes"])
        console.print(table)
        if found["note"]:
            console.print(found["note"], highlight=False)


def draw(found: Row, run: Path) -> list[Path]:
    """Draws the spectrum into the run's folder, where a density was measured."""
    from samop import figures
    from samop.flatness import Density

    row = found["row"]
    if not row.get("density_nodes"):
        return []
    shape = (row["density_probes"], -1)
    density = Density(
        np.array(row["density_nodes"]).reshape(shape),
        np.array(row["density_weights"]).reshape(shape),
        np.array(row.get("eigenvalues", [])),
        row["parameters"],
        0,
    )
    lines = [found["run"], f"curvature of the training loss on {row['examples']:,} examples"]
    return figures.save(figures.one_spectrum(density, lines), run / "spectrum")


def finite(value: Any) -> Any:
    """The value with null in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _parse(argv: Sequence[str]) -> tuple[list[Path], list[str], Row, int]:
    """(runs, what, fields of `config.curvature`, seed)."""
    parser = Parser()
    parser.add_argument("--run", default="")
    parser.add_argument("--what", default=",".join(WHAT))
    parser.add_argument("--seed", type=int, default=0)
    for name, kind in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind)
    options = parser.read(argv)
    if not options.run:
        raise UserError("--run=DIR is needed: the folder of a run, WORKDIR/points/NAME")
    what = [word for word in options.what.split(",") if word]
    for word in what:
        one_of("--what", word, WHAT)
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed={options.seed} is not allowed: a whole number from 0 to 2³² − 1")
    given = {name: vars(options)[name] for name in FLAGS}
    overrides = {name: value for name, value in given.items() if value is not None}
    return [Path(run) for run in options.run.split(",") if run], what, overrides, options.seed


def main(argv: Sequence[str]) -> int:
    """Runs a command line (without the program's name); returns the exit status."""
    if asks_help(argv):
        print(HELP, end="")
        return 0
    try:
        runs, what, overrides, seed = _parse(argv)
        flags.FLAGS(["samop.curvature"])  # libraries read flags that somebody must have parsed
        logging.set_verbosity(logging.WARNING)
        from samop import environment

        environment.keep_programs()
        for run in runs:
            found = measure_run(run, what, overrides, seed)
            show(found, Console(width=None if sys.stdout.isatty() else 160))
            records.write_json(run / "sharpness.json", finite(found))
            for path in (run / "sharpness.json", *draw(found, run)):
                print(f"wrote {path}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
