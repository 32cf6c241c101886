"""python -m samop.main --config=configs/digits_width.py: a sweep, its table and its figure."""

import sys
from collections.abc import Sequence

from absl import flags, logging

from samop import cli
from samop.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Runs a command line (without the program's name); returns the exit status."""
    if not {"--help", "-help", "-h", "--helpfull"}.isdisjoint(argv):
        print(cli.HELP)
        return 0
    try:
        request = cli.parse(argv)
        set_up(request)
        return execute(request)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command resumes where this one stopped", file=sys.stderr)
        return 130


def set_up(request: cli.Request) -> None:
    """Logging, devices and compilation cache; before jax computes anything."""
    flags.FLAGS(["samop.main"])  # libraries read flags that somebody must have parsed
    logging.set_verbosity(logging.INFO if request.verbose else logging.WARNING)
    import jax

    from samop import environment

    run = request.config.run
    # One simulated device per core: on a CPU several runs side by side beat one with all cores.
    try:
        jax.config.update("jax_num_cpu_devices", environment.cores())
    except RuntimeError:
        logging.warning("jax was running already: its devices are used as they are")
    if run.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(environment.cache_dir() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def execute(request: cli.Request) -> int:
    """Plans, trains and reports."""
    from samop import plans, sweep

    plan = sweep.plan(request.config, request.axes, request.command)
    for note in request.notes:
        print(note)
    print(plans.describe(plan, request.workdir, foretell=request.dry_run))
    if request.dry_run:
        return 0
    sweep.run(plan, request.workdir)
    from samop import report

    print(report.write(request.workdir), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
