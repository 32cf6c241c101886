"""What a person sees while a sweep runs: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from typing import Self


class Progress:
    """Progress over a whole sweep, on stderr.

    Args:
      runs: number of runs to train.
      work: total work, in any unit; `advance` reports parts of it.
      quiet: say nothing: another process does.
    """

    EVERY_SECONDS = 15.0  # between lines where there is no terminal
    TELLING = 0.03  # of the work, from which on what it took says something of the rest

    def __init__(self, runs: int, work: float, quiet: bool = False):
        self._quiet = quiet
        self.runs, self.work = runs, max(work, 1e-9)
        self.done, self.finished = 0.0, 0
        self._said = time.monotonic()
        self._first: tuple[float, float] | None = None  # when work was first reported, and how much
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("compiling", total=self.work, left="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, what: str, work: float = 0.0, finished: int = 0) -> None:
        """Reports progress.

        Args:
          what: what is training now, e.g. "SAM 64-64".
          work: work done since the last report.
          finished: runs finished since the last report.
        """
        self.done += work
        self.finished += finished
        if self._first is None and self.done > 0:
            self._first = time.monotonic(), self.done
        text = f"{self.finished}/{self.runs} runs  {what}"
        if self._bar:
            self._bar.update(self._task, description=text, completed=self.done, left=self._left())
            return
        now = time.monotonic()
        if now - self._said > self.EVERY_SECONDS and not self._quiet:
            self._said = now
            print(f"{text}  {100 * self.done / self.work:.0f} %  {self._left()}", file=sys.stderr)

    def leave_out(self, runs: int, work: float) -> None:
        """Counts less: of runs that another worker trains."""
        self.runs -= runs
        self.work = max(self.work - work, 1e-9)
        if self._bar:
            self._bar.update(self._task, total=self.work)

    def _left(self) -> str:
        """What the rest takes at the pace since work was first reported: compiling comes before."""
        if self._first is None:
            return ""
        began, before = self._first
        if self.done - before < self.TELLING * self.work:
            return ""
        elapsed = time.monotonic() - began
        return f"{duration(elapsed * (self.work - self.done) / (self.done - before))} left"


def duration(seconds: float) -> str:
    """ "45 s", "3 min 20 s" or "2 h 5 min"."""
    seconds = round(max(seconds, 0.0))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
