"""python -m samop.main --config=configs/digits_width.py: a sweep, its table and its figure."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from samop import stopping
from samop.errors import UserError

if TYPE_CHECKING:
    from samop import cli


def main(argv: Sequence[str]) -> int:
    """Runs a command line (without the program's name); returns the exit status."""
    try:
        stopping.catch(shlex.join(["python", "-m", "samop.main", *argv]))
        from samop import cli  # takes a second, in which the end may be announced already

        if not {"--help", "-help", "-h", "--helpfull"}.isdisjoint(argv):
            print(cli.help_text())
            return 0
        request = cli.parse(argv)
        set_up(request)
        return execute(request)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, or gone: nothing half-written is believed
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: {error.strerror or error}{where}: what was saved before is whole; the same "
            "command goes on from there once this is mended",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command resumes where this one stopped", file=sys.stderr)
        return 130
    except stopping.Stopped:
        stopping.say()
        return stopping.status()
    except RuntimeError as error:
        from samop import processes

        if not processes.is_lost(error):
            raise
        print(
            f"error: what all processes compute together failed, as it does when one of them ends "
            f"(its own output says why): {str(error).splitlines()[0]}; the same command resumes",
            file=sys.stderr,
        )
        return 1


def set_up(request: "cli.Request") -> None:
    """Logging, other processes, devices and compilation cache; before jax computes anything."""
    import jax
    from absl import flags, logging

    from samop import environment, processes

    flags.FLAGS(["samop.main"])  # libraries read flags that somebody must have parsed
    logging.set_verbosity(logging.INFO if request.verbose else logging.WARNING)
    # One simulated device per core: on a CPU several runs side by side beat one with all cores.
    try:
        if "JAX_NUM_CPU_DEVICES" not in os.environ:
            jax.config.update("jax_num_cpu_devices", environment.cores())
    except RuntimeError:
        logging.warning("jax was running already: its devices are used as they are")
    processes.initialize(request.launch)
    if request.config.run.compilation_cache:
        environment.keep_programs()


def execute(request: "cli.Request") -> int:
    """Plans, trains and reports; of several processes the first one speaks."""
    from samop import plans, processes, sweep

    plan = sweep.plan(request.config, request.axes, request.command, request.shard)
    processes.check_same([request.command, str(request.workdir), request.shard, request.dry_run])
    if processes.first():
        for note in request.notes:
            print(note)
    say(lambda: plans.describe(plan, request.workdir, foretell=request.dry_run) + "\n")
    if request.dry_run:
        return 0
    others = sweep.run(plan, request.workdir)

    def report() -> str:
        if unfinished := plans.unfinished(plan, request.workdir, others):
            return unfinished + "\n"
        from samop import claims, report

        with claims.hold(request.workdir, "report", request.config.run.claim_seconds, "reports"):
            return report.write(request.workdir)

    say(report)
    return 0


def say(words: Callable[[], str]) -> None:
    """Prints what the first process has to say; the others wait for it."""
    from samop import processes

    text = processes.agreed(words)
    if processes.first():
        print(text, end="", flush=True)


def leave() -> None:
    """Parts from other processes, which have stopped too, before this one ends."""
    import jax

    if jax.distributed.is_initialized() and jax.process_count() > 1:
        jax.distributed.shutdown()


def command_line() -> None:
    """Ends this process with its command's status; at once, where nothing is left to wait for.

    A compilation that nobody needs any more would hold it up, and so would other processes.
    """
    try:
        status = main(sys.argv[1:])
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if not status and stopping.announced():
        leave()
    sys.stdout.flush()
    sys.stderr.flush()
    if status or stopping.announced():
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    command_line()
