"""Several processes as one program, one or more a host: who decides, who writes, what all know.

All processes run the same code on one mesh of all devices. What they do next must be the same
everywhere, so whatever depends on a clock, on files or on this machine is decided by the first
process (`agreed`) or by a vote (`Ballot`) that the devices carry out beside their work. The first
process alone writes records; checkpoints are written and read by all, each its own part.
"""

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samop import stopping
from samop.errors import UserError

PyTree = Any
# A process that dies is missed after so long; jax's own 100 s keep the others' devices waiting.
HEARTBEAT_SECONDS = 25


class Launch(NamedTuple):
    """How this process finds the others.

    Attributes:
      coordinator: "host:port" of the first process; "": the surroundings tell.
      processes: how many there are; 0: the surroundings tell.
      process: which of them this one is, from 0; −1: the surroundings tell.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1


def launch(coordinator: str, processes: int, process: int) -> Launch:
    """The flags `--coordinator`, `--processes` and `--process`, checked.

    Raises:
      UserError: some of them without the others, or out of range.
    """
    given = (bool(coordinator), processes != 0, process != -1)
    if not any(given):
        return Launch()
    if not all(given):
        raise UserError(
            "--coordinator=HOST:PORT, --processes=N and --process=I (0 … N−1) belong together: "
            "give all three, or none on TPU pods and under Slurm, which tell them"
        )
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise UserError(f"--coordinator={coordinator!r} should be HOST:PORT of the first process")
    if processes < 1 or not 0 <= process < processes:
        raise UserError(
            f"--process={process} --processes={processes}: should be N ≥ 1 processes, of which "
            "this one is 0 … N−1"
        )
    return Launch(coordinator, processes, process)


def found_around(environ: Mapping[str, str], devices: Path = Path("/dev")) -> str:
    """What tells this process of others: "Slurm", "TPU", or "" where it is alone.

    A Slurm job step of one task, such as one of an array, is alone. On a TPU's host jax asks the
    machine itself, and a single host is a pod of one.

    Args:
      environ: environment variables.
      devices: where a TPU's device files are.
    """
    # What jax's own detection needs, see jax.distributed.initialize.
    step = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in environ for name in step) and int(environ["SLURM_NTASKS"]) > 1:
        return "Slurm"
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms:
        return ""
    named = "TPU_WORKER_HOSTNAMES" in environ or "TPU_PROCESS_ADDRESSES" in environ
    present = any((devices / name).exists() for name in ("accel0", "vfio/0"))
    if (named or present) and importlib.util.find_spec("libtpu"):
        return "TPU"
    return ""


def initialize(how: Launch) -> None:
    """Joins the other processes, where there are any; before jax computes anything.

    Raises:
      UserError: they cannot be reached.
    """
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": 60,
    }
    around = found_around(os.environ)
    if not how.coordinator and not around:
        return
    # jax's own service would take SIGTERM for itself; `samop.pauses` hears it, and the clock.
    jax.config.update("jax_enable_preemption_service", False)
    # From here on: one that ended while it joins would take the others with it.
    stopping.hold()
    try:
        if how.coordinator:
            jax.distributed.initialize(*how, **options)
        else:
            jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        where = f"--coordinator={how.coordinator}" if how.coordinator else around
        raise UserError(f"the other processes cannot be reached by {where}: {error}") from None
    if not several():
        stopping.release()


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def is_lost(error: Exception) -> bool:
    """Whether an error is what remains of a computation whose other processes may have gone."""
    return isinstance(error, jax.errors.JaxRuntimeError) and several()


def first() -> bool:
    """Whether this process is the one that decides and writes records."""
    return jax.process_index() == 0


def agreed(decide: Callable[[], Any]) -> Any:
    """What the first process decides, known to all; all must call it.

    Args:
      decide: called in the first process alone; its value is plain JSON.

    Raises:
      UserError: wherever `decide` raised one, in all processes.
    """
    if not several():
        return decide()
    text = b""
    error: BaseException | None = None
    if first():
        try:
            text = json.dumps({"value": decide()}).encode()
        except UserError as problem:
            text = json.dumps({"error": str(problem)}).encode()
        except BaseException as problem:
            # The others wait for an answer: they get one before this process ends.
            error = problem
            text = json.dumps({"error": f"the first process failed: {problem!r}"}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    if first():
        padded[:] = np.frombuffer(text, np.uint8)
    answer = json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)).decode())
    if error is not None:
        raise error
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def check_same(words: Any) -> None:
    """Raises UserError in all processes unless they were given the same, plain JSON."""
    if not several():
        return
    own = json.dumps(words)
    if any_of(agreed(lambda: own) != own):
        raise UserError(
            "the processes of this program were given different commands: all of them train "
            "together, so give each the same one. To train each for itself, as shards do, start "
            "them apart: under Slurm as an array, or with srun --ntasks=1 for each"
        )


class Ballot:
    """Votes of all processes that nobody waits for: they travel behind the devices' work.

    Several flags are put to the vote at a time; each is carried where one process votes for it.
    """

    def __init__(self):
        devices = jax.devices()
        self._mesh = Mesh(np.array(devices), ("devices",))
        every = NamedSharding(self._mesh, PartitionSpec())
        self._count = jax.jit(lambda votes: jnp.max(votes, 0), out_shardings=every)

    def cast(self, flags: Sequence[bool]) -> Any:
        """Hands in this process's votes; `result` reads what became of them."""
        if not several():
            return list(flags)
        own = np.tile(np.array(flags, np.int32), (jax.local_device_count(), 1))
        place = NamedSharding(self._mesh, PartitionSpec("devices"))
        return self._count(jax.make_array_from_process_local_data(place, own))

    def result(self, handed_in: Any) -> list[bool]:
        """Whether each flag was carried; waits for the devices."""
        return [bool(flag) for flag in np.asarray(handed_in)]


def any_of(flag: bool) -> bool:
    """Whether a flag is up in any process; waits for all of them."""
    ballot = Ballot()
    return ballot.result(ballot.cast([flag]))[0]


def place(value: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    """Host arrays, the same in all processes, on the devices of a mesh: each takes its own part."""
    if not several():
        return jax.device_put(value, sharding)

    def put(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, value)


def together(tree: PyTree) -> PyTree:
    """Arrays divided among processes as whole ones in each; nobody waits for them."""
    if not several():
        return tree

    def whole(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_replicated:
            return x
        assert isinstance(x.sharding, NamedSharding)
        return jax.jit(_identity, out_shardings=NamedSharding(x.sharding.mesh, PartitionSpec()))(x)

    return jax.tree.map(whole, tree)


def fetch(tree: PyTree) -> PyTree:
    """Arrays as NumPy arrays, whole in each process; all must call it."""
    if not several():
        return jax.device_get(tree)

    def own(x: Any) -> np.ndarray:
        # One at a time: all of what is divided would not fit on a device at once.
        x = together(x)
        return np.asarray(x.addressable_data(0) if isinstance(x, jax.Array) else x)

    return jax.tree.map(own, tree)


def wait(name: str) -> None:
    """Returns once all processes are here."""
    if several():
        multihost_utils.sync_global_devices(name)


def _identity(x: jax.Array) -> jax.Array:
    return x
