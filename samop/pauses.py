"""When a group that trains is saved, and whether it ends with that: the same in all processes."""

import time

from samop import processes, stopping


class Pauses:
    """Asked once an epoch.

    Args:
      every: seconds between checkpoints, by the clock of whichever process is the first to think
        that one is due.
    """

    def __init__(self, every: float):
        self._every, self._saved = every, time.monotonic()
        self._ballot = processes.Ballot()
        self._votes = None

    def due(self) -> tuple[bool, bool]:
        """(whether to save now, whether to end then, since SIGTERM has come).

        What several processes say is known an epoch later, when the devices have carried it.
        """
        flags = [time.monotonic() - self._saved > self._every, stopping.announced()]
        votes = self._ballot.cast(flags)
        known, self._votes = (self._votes, votes) if processes.several() else (votes, None)
        save, stop = self._ballot.result(known) if known is not None else (False, False)
        return save or stop, stop

    def saved(self) -> None:
        """Counts anew from now on."""
        self._saved, self._votes = time.monotonic(), None
