"""python -m samop.main --config=configs/digits_width.py: a sweep, its table and its figure."""

import os
import sys
from collections.abc import Sequence

from absl import flags, logging

from samop import cli, stopping
from samop.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Runs a command line (without the program's name); returns the exit status."""
    if not {"--help", "-help", "-h", "--helpfull"}.isdisjoint(argv):
        print(cli.HELP)
        return 0
    try:
        request = cli.parse(argv)
        stopping.catch()
        set_up(request)
        return execute(request)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command resumes where this one stopped", file=sys.stderr)
        return 130
    except stopping.Stopped:
        print(f"stopped by SIGTERM; resume with: {request.command}", file=sys.stderr)
        return 0


def set_up(request: cli.Request) -> None:
    """Logging, other processes, devices and compilation cache; before jax computes anything."""
    flags.FLAGS(["samop.main"])  # libraries read flags that somebody must have parsed
    logging.set_verbosity(logging.INFO if request.verbose else logging.WARNING)
    import jax

    from samop import environment, processes

    run = request.config.run
    # One simulated device per core: on a CPU several runs side by side beat one with all cores.
    try:
        if "JAX_NUM_CPU_DEVICES" not in os.environ:
            jax.config.update("jax_num_cpu_devices", environment.cores())
    except RuntimeError:
        logging.warning("jax was running already: its devices are used as they are")
    processes.initialize(request.launch)
    if run.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(environment.cache_dir() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def execute(request: cli.Request) -> int:
    """Plans, trains and reports; of several processes the first one speaks."""
    from samop import plans, processes, sweep

    plan = sweep.plan(request.config, request.axes, request.command)
    if processes.first():
        for note in request.notes:
            print(note)
        print(plans.describe(plan, request.workdir))
    if request.dry_run:
        return 0
    sweep.run(plan, request.workdir)
    if processes.first():
        from samop import report

        print(report.write(request.workdir), end="")
    return 0


def command_line() -> None:
    """Ends this process with the status of its command.

    At once, where there is nothing more to say: a compilation that nobody needs any more, or other
    processes that wait for this one, would hold it up.
    """
    try:
        status = main(sys.argv[1:])
    except BaseException:
        import jax

        if jax.process_count() == 1:
            raise
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if status or stopping.announced():
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    command_line()
