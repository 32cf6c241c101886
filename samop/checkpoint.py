"""Checkpoints through orbax (its only import), each file's sha256 verified before it is believed.

orbax alone restores flipped bits in silence. So a checkpoint here is a folder of what orbax wrote
plus `sha256.json`, put in place by one rename after the hashes are on the disk: that rename is the
commit marker, and a folder that does not match its hashes is as good as none.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from samop import processes, records
from samop.errors import UserError

PyTree = Any
HASHES = "sha256.json"
OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in what TensorStore says


class Writer:
    """Writes checkpoints of one folder in the background, in order, keeping the newest few.

    Args:
      folder: checkpoints become `folder/<step>`.
      keep: how many to keep; the one before the newest is there in case the newest is damaged.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None

    def save(self, step: int, state: PyTree) -> None:
        """Copies `state` to the host and returns; the caller may donate it afterwards.

        Of several processes all must call it, and it returns when the checkpoint is there: what
        they say to each other meanwhile must not come between the messages of training.
        """
        self.wait()
        if processes.several():
            save_together(self.folder / str(step), state)
            if processes.first():
                self._forget()
            return
        host = jax.device_get(state)

        def write():
            save(self.folder / str(step), host)
            self._forget()

        self._pending = self._thread.submit(write)

    def _forget(self) -> None:
        for old in steps(self.folder)[: -self.keep]:
            shutil.rmtree(self.folder / str(old))

    def wait(self) -> None:
        """Blocks until the last save is committed; raises what went wrong in it."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Waits and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def save(path: Path, tree: PyTree) -> None:
    """Writes a pytree of arrays to the folder `path`, which appears whole or not at all.

    This process alone writes, and has all of every array.

    Args:
      path: a folder that is not there yet, or is replaced.
      tree: arrays of any shapes.

    Raises:
      OSError: it cannot be written, a full disk for instance.
    """
    temporary = _begun(path)
    with _writing(temporary):
        with _alone() as checkpointer:
            checkpointer.save(_state(temporary), _full(tree))
        _commit(temporary, path)


@contextlib.contextmanager
def _writing(temporary: Path) -> Iterator[None]:
    """Leaves nothing half-written behind; where a disk is full, an OSError says so.

    Raises:
      OSError: what orbax says in words of its own and of the database within.
    """
    try:
        yield
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        found = OS_ERROR.search(str(error))
        if isinstance(error, OSError) or not found:
            raise
        number = int(found.group(1))
        raise OSError(number, os.strerror(number), str(temporary)) from error


def save_together(path: Path, tree: PyTree) -> None:
    """The same by all processes, each of which writes its part of the arrays; all must call it.

    They share the file system. The first one hashes and commits when all have written.
    """
    if processes.first():
        _begun(path)
    processes.wait(f"begin {path.name}")
    temporary = _temporary(path)
    with _writing(temporary), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(_state(temporary), _full(tree))
    processes.wait(f"written {path.name}")
    if processes.first():
        _commit(temporary, path)
    processes.wait(f"committed {path.name}")


def _alone() -> ocp.StandardCheckpointer:
    """A checkpointer that waits for no other process."""
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own,
        active_processes={own},
        barrier_sync_key_prefix=f"process{own}",
    )
    return ocp.StandardCheckpointer(
        **({"multiprocessing_options": options} if processes.several() else {})
    )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _begun(path: Path) -> Path:
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _state(folder: Path) -> Path:
    return (folder / "state").resolve()


def _full(tree: PyTree) -> dict[str, Any]:
    """Leaves by name. orbax refuses those without elements; `restore` puts them back."""
    return {name: leaf for name, leaf in _named(tree).items() if np.size(leaf)}


def _commit(temporary: Path, path: Path) -> None:
    records.write_json(temporary / HASHES, _hashes(temporary))
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)


def restore(path: Path, template: PyTree) -> PyTree:
    """The pytree saved at `path`, with the template's structure, dtypes and shardings.

    Of several processes all must call it; it does not matter how many there were that saved it.

    Args:
      path: a folder that `save` made.
      template: arrays or ShapeDtypeStructs (with `sharding` where it matters).

    Raises:
      UserError: the folder is damaged or holds something else.
    """
    verify(path)
    named = _named(template)
    with ocp.StandardCheckpointer() as checkpointer:
        leaves = checkpointer.restore(
            _state(path), {k: v for k, v in named.items() if np.prod(v.shape)}
        )
    filled = [leaves[k] if k in leaves else _empty(v) for k, v in named.items()]
    return jax.tree.unflatten(jax.tree.structure(template), filled)


def _empty(like: Any) -> Any:
    nothing = np.zeros(like.shape, like.dtype)
    sharding = getattr(like, "sharding", None)
    return processes.place(nothing, sharding) if processes.several() and sharding else nothing


def restore_arrays(path: Path) -> dict[str, np.ndarray]:
    """All leaves saved at `path` as NumPy arrays, by name ("params.Dense_0.kernel")."""
    verify(path)
    with _alone() as checkpointer:
        leaves = checkpointer.restore(_state(path))
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def restore_host(path: Path, template: PyTree) -> PyTree:
    """The pytree saved at `path` as NumPy arrays, with the template's structure.

    Args:
      path: folder of one checkpoint.
      template: shapes and types of its leaves, arrays or `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: the checkpoint is damaged.
    """
    arrays, named = restore_arrays(path), _named(template)
    leaves = [arrays.get(name, np.zeros(x.shape, x.dtype)) for name, x in named.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def load(run: str | Path) -> dict[str, PyTree]:
    """The final network of a finished run.

    Args:
      run: the run's folder, `WORKDIR/points/NAME`.

    Returns:
      {"params": ..., BatchNorm collections ...}: variables for the module's `apply`, NumPy arrays.

    Raises:
      UserError: the run is not finished, or its checkpoint is damaged.
    """
    run = Path(run)
    if not (run / "DONE").exists():
        raise UserError(f"run {run} is not finished: it has no DONE file")
    try:
        group = run.parent.parent / "groups" / records.read_json(run / "DONE")["group"]
        index = records.read_json(group / "members.json")["points"].index(run.name)
    except records.CorruptRecord as error:
        raise UserError(str(error)) from None
    arrays = restore_arrays(group / "final")
    return nested({name: leaf[index] for name, leaf in arrays.items()})


def nested(named: Mapping[str, Any]) -> dict[str, PyTree]:
    """Nested dictionaries from leaves by dotted names."""
    tree: dict[str, PyTree] = {}
    for name, leaf in named.items():
        *parents, last = name.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def steps(folder: Path) -> list[int]:
    """Steps of the committed checkpoints in a folder, ascending."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal())


def newest_good(folder: Path, most: int) -> int:
    """The newest step ≤ `most` whose files match their hashes; 0 without one.

    A damaged one is named in a warning.
    """
    for step in reversed([s for s in steps(folder) if s <= most]):
        try:
            verify(folder / str(step))
            return step
        except UserError as error:
            logging.warning("%s; going back to the one before", error)
    return 0


def is_good(path: Path) -> bool:
    """Whether a checkpoint is there and undamaged; a damaged one is named in a warning."""
    if not path.exists():
        return False
    try:
        verify(path)
    except UserError as error:
        logging.warning("%s; making it again", error)
        return False
    return True


def remove_all(folder: Path) -> None:
    """Removes a folder of checkpoints that are no longer needed."""
    if folder.exists():
        shutil.rmtree(folder)


def verify(path: Path) -> None:
    """Raises UserError unless every file under `path` is what was written."""
    try:
        expected = json.loads((path / HASHES).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None
    found = _hashes(path)
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise UserError(f"checkpoint {path} is damaged: {', '.join(wrong[:3])} changed")


def _hashes(folder: Path) -> Mapping[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / HASHES)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _named(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}
