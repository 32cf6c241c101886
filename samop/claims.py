"""Who works on what, where many workers share one work folder. No jax.

A claim is a file, `.claims/NAME.claim.K` in the work folder, that only one worker can create. The
highest K is in force. Its owner has locked it (flock) and written into it who it is before it gets
its name, so that one which is killed in between leaves no claim of nobody; and it renews the file's
modification time from a thread. A dead claim K is taken over by creating K+1, which again only one
can.

Whether an owner lives: on the same machine, that is under the same kernel, its lock says so at
once, and the system frees that however the process ends. From another machine only by the file
server's own times: the claim's against that of a file which is touched now. No machine's clock
takes part, so that one which is wrong, or jumps, changes nothing.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from samop.errors import UserError

FOLDER = ".claims"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # of Linux; other systems have none
TRIES = 10  # looks at a higher generation before it is believed
LATER = 0.1  # seconds between two looks at a claim that is waited for
PATIENCE = 10  # looks until the user is told
GONE = (errno.ENOENT, errno.ESTALE)
# No hard links there.
LINKLESS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class LostClaim(UserError):
    """This worker was taken for dead, and another has gone on with what it claimed."""


class Holder(NamedTuple):
    """The owner of a claim that is alive, as far as its file tells.

    Attributes:
      host: its machine's name; "": not known.
      pid: its process; 0: not known.
    """

    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.pid else "another process"


class Claim:
    """A claim of this process, in force until `release`. Made by `take`.

    Args:
      path: its file, without the generation.
      generation: which one it is.
      file: descriptor of the open file, as `_create` returns it.
      seconds: without renewal for longer, other machines take it for dead.
    """

    def __init__(self, path: Path, generation: int, file: int, seconds: float):
        self._path, self._generation, self._file = path, generation, file
        self._over = threading.Event()
        self._lost = False
        name = f"claim {path.name}"
        self._thread = threading.Thread(
            target=self._renew, args=(seconds / 4,), name=name, daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raises LostClaim unless the claim is in force still; before anything is written."""
        if self._lost or not self._stays():
            self._lost = True
            raise LostClaim(
                f"{self._path.parent.parent}: this process was stopped for so long that another "
                "one took over what it was doing (config field run.claim_seconds says how long "
                "that takes); nothing is lost, and the same command helps it"
            )

    def release(self) -> None:
        """Gives the claim up. Once lost, its files are for the new owner to remove."""
        if self._over.is_set():
            return
        self._end()
        with contextlib.suppress(OSError):
            if not self._lost and self._stays():
                # Its own last: a dead generation should never be the highest.
                for generation in sorted(_generations(self._path)):
                    _numbered(self._path, generation).unlink(missing_ok=True)
        os.close(self._file)

    def withdraw(self) -> None:
        """Takes back a claim that should not have been made, leaving the others' files."""
        self._end()
        with contextlib.suppress(OSError):
            if self._is_own():
                _numbered(self._path, self._generation).unlink(missing_ok=True)
        os.close(self._file)

    def _end(self) -> None:
        self._over.set()
        self._thread.join()  # it uses the descriptor that is closed next

    def _renew(self, every: float) -> None:
        while not self._over.wait(every):
            try:
                if not self._stays():
                    self._lost = True
                    return
                os.utime(self._file)  # without times: the file server sets its own
            except OSError:
                continue  # a network that is down, say: the next check tells what came of it

    def _stays(self) -> bool:
        """Whether it is in force, once a higher one that is only tried has been withdrawn."""
        for _ in range(TRIES):
            if self._in_force():
                return True
            if not self._is_own():
                return False
            time.sleep(LATER / 2)
        return self._in_force()

    def _in_force(self) -> bool:
        touched(self._path.parent)  # a change of the folder has a network's client read it anew
        return self._is_own() and max(_generations(self._path), default=-1) == self._generation

    def _is_own(self) -> bool:
        try:
            found, own = os.stat(_numbered(self._path, self._generation)), os.fstat(self._file)
        except OSError as error:
            if error.errno in GONE:
                return False
            raise
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def take(workdir: Path, name: str, seconds: float) -> Claim | Holder:
    """Claims `name` in a work folder, or tells whose it is.

    Args:
      workdir: the work folder, made where it is missing.
      name: what is claimed.
      seconds: claims that other machines have not renewed for longer are dead.

    Raises:
      UserError: the folder cannot be written.
    """
    path = workdir / FOLDER / f"{name}.claim"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            newest = max(_generations(path), default=-1)
            if newest >= 0 and (owner := _owner(_numbered(path, newest), seconds)):
                return owner
            try:
                file = _create(_numbered(path, newest + 1))
            except FileExistsError:
                continue
            claim = Claim(path, newest + 1, file, seconds)
            # Between the look and the file whole generations may have come and gone, also lower
            # ones that began anew, or an owner that slept have woken up.
            others = [k for k in _generations(path) if k != newest + 1]
            owners = (_owner(_numbered(path, k), seconds) for k in others)
            owner = next(filter(None, owners), None)
            if owner is None and max(others, default=-1) <= newest:
                return claim
            claim.withdraw()
            if owner is not None:
                return owner
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written: {error.strerror}; choose a folder that can"
        ) from None


@contextlib.contextmanager
def hold(workdir: Path, name: str, seconds: float, doing: str) -> Iterator[Claim]:
    """A claim for the length of a `with` block; waits while another worker has it.

    Args:
      workdir, name, seconds: as for `take`.
      doing: what its owner does, for who waits: "plans the sweep".
    """
    looks = 0
    while not isinstance(claim := take(workdir, name, seconds), Claim):
        looks += 1
        if looks == PATIENCE:
            print(f"waiting: {claim} {doing} in {workdir}", file=sys.stderr, flush=True)
        time.sleep(LATER)
    try:
        yield claim
    finally:
        claim.release()


def holder(workdir: Path, name: str, seconds: float) -> Holder | None:
    """Who has claimed `name` and is alive; arguments as for `take`."""
    path = workdir / FOLDER / f"{name}.claim"
    newest = max(_generations(path), default=-1)
    return _owner(_numbered(path, newest), seconds) if newest >= 0 else None


def touched(folder: Path) -> float:
    """What time the file server has now: that of a file which was just touched there."""
    probe = folder / f".probe-{secrets.token_hex(8)}"
    file = _opened(probe)
    try:
        os.utime(file)
        return os.fstat(file).st_mtime
    finally:
        os.close(file)
        probe.unlink(missing_ok=True)


def _create(file: Path) -> int:
    """Makes a claim's file, locked and with its owner in it; returns its descriptor.

    Raises:
      FileExistsError: somebody else has made it.
    """
    draft = file.with_name(f".draft-{secrets.token_hex(8)}")
    handle = _signed(draft)
    try:
        os.link(draft, file)
    except OSError as error:
        # Of a network's file server an answer may be lost, and what was done be asked again.
        if isinstance(error, FileExistsError) and os.fstat(handle).st_nlink == 2:
            return handle
        os.close(handle)
        if error.errno not in LINKLESS:
            raise
        return _signed(file)  # who is killed now leaves a claim of nobody, which counts by its time
    finally:
        draft.unlink(missing_ok=True)
    return handle


def _signed(file: Path) -> int:
    """Makes a file, locks it and writes into it whose it is; returns its descriptor."""
    handle = _opened(file)
    try:
        try:
            # Waits for nobody but who looks at the file right now.
            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
        except OSError:  # a file system without locks: times decide everywhere
            locked = False
        who = {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid()}
        text = json.dumps({**who, "token": secrets.token_hex(8), "locked": locked})
        os.write(handle, text.encode())
    except BaseException:
        file.unlink(missing_ok=True)
        os.close(handle)
        raise
    return handle


def _opened(file: Path) -> int:
    return os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)


def _owner(file: Path, seconds: float) -> Holder | None:
    """The owner of one generation of a claim; None: it is dead or gone."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    try:
        record = _record(os.read(handle, 4096))
        found = Holder(str(record.get("host", "")), int(record.get("pid", 0)))
        if record.get("locked") and _same_kernel(record):
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # many may look at a time
            except BlockingIOError:
                return found
            return None
        # Without a word in it too, where there are no hard links: its owner was killed, or is just
        # about to write.
        age = touched(file.parent) - os.fstat(handle).st_mtime
        return found if age <= seconds else None
    finally:
        os.close(handle)


def _record(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
        return record if isinstance(record, dict) and isinstance(record["pid"], int) else {}
    except (ValueError, KeyError):
        return {}


def _same_kernel(record: dict[str, Any]) -> bool:
    boot = _boot()
    if boot or record.get("boot"):
        return boot == record.get("boot")
    return record.get("host") == socket.gethostname()


def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _numbered(path: Path, generation: int) -> Path:
    return path.with_name(f"{path.name}.{generation}")


def _generations(path: Path) -> list[int]:
    """The generations of a claim that are there."""
    start = f"{path.name}."
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return []
    ends = (name.removeprefix(start) for name in names if name.startswith(start))
    return [int(end) for end in ends if end.isdecimal()]
