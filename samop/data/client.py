"""Runs a package client so that "no network" is known within seconds and a slow line may be slow.

No limit on the whole run tells the two apart: 139 MB take an hour on a slow line. So the folder
the client downloads into is watched. It must grow within `PATIENCE_S` of the start, and after
that never stand still for `STALL_S`.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from samop.errors import UserError

PATIENCE_S = 6.0  # start-up of the client and the first answer
STALL_S = 60.0
_POLL_S = 0.1


class Unavailable(Exception):
    """A source that cannot give the data set here; the text says why, and the next one is tried."""


def patience() -> float:
    """Seconds a client may take to its first byte: $SAMOP_DATA_PATIENCE, else 6.

    The environment variable is for machines on which starting npm alone takes that long.
    """
    text = os.environ.get("SAMOP_DATA_PATIENCE", "")
    try:
        seconds = float(text or PATIENCE_S)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"SAMOP_DATA_PATIENCE is {text!r}, allowed: a positive number of seconds")
    return seconds


def _size(folder: Path) -> int:
    """Bytes of all files below `folder`; those that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _complaint(output: str) -> str:
    """The lines of a client's output that say what went wrong, at most 300 characters."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [s for s in lines if "error" in s.lower() or s.startswith("E:")] or lines[-1:]
    return "; ".join(telling[:3])[:300] or "it said nothing"


def _stop(process: subprocess.Popen) -> None:
    """Ends the client and what it started; it has a session, hence a process group, of its own."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def run_client(command: list[str], folder: Path, advice: str = "") -> None:
    """Runs `command` in `folder`, which must hold all it downloads.

    Raises:
      Unavailable: it failed (`advice` is added), or the folder stood still for too long.
    """
    name = Path(command[0]).name if "pip" not in command else "pip"
    log = folder.parent / f"{folder.name}.log"  # beside the folder: a log is no download
    # Where warnings are errors, as in our tests, pip's own of itself are not meant.
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    with log.open("w+b") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**surroundings, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            # From an empty folder: what came before the first look has come too.
            before, still_since, limit = 0, time.monotonic(), patience()
            while process.poll() is None:
                time.sleep(_POLL_S)
                now = _size(folder)
                if now != before:
                    before, still_since, limit = now, time.monotonic(), STALL_S
                elif time.monotonic() - still_since > limit:
                    raise Unavailable(f"{name} received nothing for {limit:g} s")
        finally:
            _stop(process)
        if process.returncode != 0:
            output.seek(0)
            said = _complaint(output.read().decode("utf-8", "replace"))
            raise Unavailable(f"{name} failed: {said}{f' ({advice})' if advice else ''}")
