"""SIGTERM, by which batch queues and clouds announce the end: a checkpoint first, then exit 0."""

import contextlib
import os
import signal
from collections.abc import Iterator

STATUS = "SAMOP_STOPPED"  # environment variable: the exit status of a command that was stopped


class Stopped(BaseException):
    """The end was announced. No error: what was done is on the disk, and can be resumed."""


_announced = False
_deferred = 0


def catch() -> None:
    """From now on SIGTERM raises `Stopped`, at once or where it is no longer `deferred`."""
    global _announced
    _announced = False
    signal.signal(signal.SIGTERM, _handle)


def _handle(*_: object) -> None:
    global _announced
    _announced = True
    if not _deferred:
        raise Stopped


def status() -> int:
    """The exit status of a command that was stopped: 0, unless who started it wants to know."""
    return int(os.environ.get(STATUS, "0"))


def announced() -> bool:
    """Whether SIGTERM has come."""
    return _announced


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within, who works asks `announced` and ends by itself where it suits."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
