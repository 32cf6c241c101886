"""SIGTERM, by which batch queues and clouds announce the end: a checkpoint first, then status 0.

Where nothing trains there is nothing to save, and the process ends at once: an exception could
come up in the middle of anything, an import's C code included, and be taken for its failure.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

STATUS = "SAMOP_STOPPED"  # environment variable: the exit status of a command that was stopped

_announced = False
_deferred = 0
_words = ""


class Stopped(BaseException):
    """The end was announced. No error: what was done is on the disk, and can be resumed."""


def catch(command: str) -> None:
    """From now on SIGTERM ends this process, at once or, where that is `deferred`, in good time.

    Args:
      command: what resumes, for the user.
    """
    global _announced, _words
    _announced = False
    _words = f"stopped by SIGTERM; resume with: {command}"
    signal.signal(signal.SIGTERM, _handle)


def _handle(*_: object) -> None:
    global _announced
    _announced = True
    if not _deferred:
        say()
        os._exit(status())


def say() -> None:
    """Tells the user, safely also from within a signal's handler."""
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{_words}\n".encode())


def status() -> int:
    """The exit status of a command that was stopped: 0, unless who started it wants to know."""
    return int(os.environ.get(STATUS, "0"))


def announced() -> bool:
    """Whether SIGTERM has come."""
    return _announced


def hold() -> None:
    """From now on SIGTERM is `announced` alone: of several processes all end together or none."""
    global _deferred
    _deferred += 1


def release() -> None:
    """Takes a `hold` back; SIGTERM that has come meanwhile ends the process now."""
    global _deferred
    _deferred -= 1
    if _announced and not _deferred:
        raise Stopped


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within, who works asks `announced` and ends by itself where it suits."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
