"""A command line of samop.main that notes when it passes what; start.py starts it.

python experiments/benchmarks/start_child.py MARKS.json --config=configs/digits_width.py …

It runs `samop.main.main` with functions of samop wrapped by ones that note the time, and imports
nothing of its own but what Python has started with. The first training step is the first call of a
compiled epoch (dispatched), and its end is when its results are there: that one epoch is waited
for. A line on stderr says so too, so that -X importtime shows what was imported before.
"""

import json
import sys
import time

marks = [("python", time.time())]


def mark(name: str) -> None:
    """Notes that what `name` says ends here; what is passed again counts the first time."""
    if all(name != known for known, _ in marks):
        marks.append((name, time.time()))


def after(module, function: str, name: str) -> None:
    """Wraps a function of a module so that its end is noted."""
    original = getattr(module, function)

    def wrapped(*args, **kwargs):
        found = original(*args, **kwargs)
        mark(name)
        return found

    setattr(module, function, wrapped)


def watch_training() -> None:
    """Imports what a sweep needs and wraps its functions; within `samop.main.execute`."""
    import jax

    from samop import loop, plans, sweep

    mark("import of the sweep")
    jax.devices()
    mark("jax's devices")
    after(sweep, "plan", "points")
    after(plans, "describe", "data and plan in words")
    after(sweep, "write_plan", "folders of the runs")
    after(loop, "resume", "initial state")
    after(loop, "feed", "data on the devices")
    after(sweep, "run", "rest of training, final parameters")
    prepare = loop.prepare

    def prepared(*args):
        ready = prepare(*args)

        def epoch(*inputs):
            first = all(name != "first epoch called" for name, _ in marks)
            mark("first epoch called")
            if first:
                print("FIRST STEP", file=sys.stderr, flush=True)
            found = ready.epoch(*inputs)
            if first:
                jax.block_until_ready(found)
                mark("first epoch")
            return found

        mark("first program built or read")
        return ready._replace(epoch=epoch)

    loop.prepare = prepared


def main() -> int:
    file, *argv = sys.argv[1:]
    from samop import main as command

    mark("import of samop.main")
    execute = command.execute
    after(command.cli, "parse", "config and arguments, import of jax")
    after(command, "set_up", "set-up")

    def watched(request):
        watch_training()
        return execute(request)

    command.execute = watched
    status = command.main(argv)
    mark("table and figure")
    with open(file, "w") as out:
        json.dump(marks, out)
    return status


if __name__ == "__main__":
    sys.exit(main())
