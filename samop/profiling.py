"""A profiler's trace of one epoch of each group, for XProf, TensorBoard or Perfetto.

With `config.profile` set, `samop.loop.train` traces the second epoch that it trains, when
everything is warm, or the only one. What is computed stays the same to the last bit; the epoch
itself is slower, and its seconds are in the group's `timing.jsonl` like those of any other.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from samop import config as configs
from samop.errors import UserError
from samop.groups import Group


def check(folder: Path) -> None:
    """Makes the folder and tries to write into it.

    Raises:
      UserError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"profile={str(folder)!r} cannot be written: {error.strerror}; choose a folder that can"
        ) from None


def place(folder: Path, group: Group) -> Path:
    """Where a group's trace goes: readable, and unique by the group's name."""
    point = group.points[0]
    optimizer, width = configs.optimizer_label(point), configs.width_label(point)
    return folder / f"{optimizer.lower()}_{width}_{group.name}"


def traced(fn: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """`fn` with a trace of its call written into a folder.

    The devices are waited for before the trace begins and before it ends, so that it holds this
    call, the whole of it, and nothing else of theirs. Python is left out: the threads that compile
    the next groups would fill the trace.
    """

    def call(*args: Any) -> Any:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        jax.block_until_ready(args)
        with jax.profiler.trace(folder, profiler_options=options):
            return jax.block_until_ready(fn(*args))

    return call
