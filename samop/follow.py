"""python -m samop.report --workdir=DIR --follow: a sweep while it runs, here and as a page. No jax.

While the sweep runs it reads what that writes, and itself writes report.html alone, as a whole each
time. At the sweep's end it writes the whole report, files beside the page too, one after the other
with the command that trained. Works too where no sweep has begun yet, and on one that another
machine trains in a shared folder.
"""

import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from samop import claims, comparison, pages, report, wording
from samop.errors import UserError
from samop.pages import standing
from samop.pages.standing import Run, Standing
from samop.progress import duration
from samop.wording import decimals, with_interval

SHARE = 0.2  # of one core that looking may take: then the pauses grow
MOST_ROWS = 24  # of the table of gains, in a terminal


class Unwritable(UserError):
    """The page cannot be written: looking again would not help."""


def follow(
    workdir: str | Path,
    seconds: float,
    *,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Shows a sweep until it is finished, then writes its whole report; 0 then and on Ctrl-C.

    Args:
      workdir: the work folder; it need not exist yet.
      seconds: between two looks, at least.
      console: where to print.
      sleep: waits so many seconds.

    Raises:
      UserError: the plan is damaged, the page cannot be written, or the whole report fails.
    """
    watch = Watch(Path(workdir), seconds)
    console = console or Console()
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not watch.look():
                if console.is_terminal:
                    live.update(watch.view(), refresh=True)
                elif line := watch.news():
                    console.print(line, highlight=False, soft_wrap=True)
                sleep(watch.pause)
        # The command that trained may be writing the same files now.
        with claims.hold(watch.root, "report", watch.claim_seconds, "reports"):
            console.out(report.write(watch.root), end="", highlight=False)
    except KeyboardInterrupt:
        console.print(watch.left(), highlight=False, soft_wrap=True)
    return 0


class Watch:
    """One sweep as it was seen at the last look.

    Args:
      root: the work folder.
      seconds: between two looks.
    """

    def __init__(self, root: Path, seconds: float):
        self.root, self._seconds = root, seconds
        self.state: Standing | None = None
        self.pause = seconds
        self._known: dict[str, Run] = {}
        self._table: Table | None = None
        self._trouble = ""
        self._said = ""
        self._page: pages.Material | None = None
        self._first: tuple[float, float] | None = None  # time and share of the work
        self._began = time.monotonic()

    def look(self) -> bool:
        """Reads how far the sweep is and writes its page; whether it is finished."""
        begin = time.monotonic()
        before, self.state = self.state, standing.read(self.root, self._known)
        if self.state is None:
            return False
        if self.state.whole:
            return True
        if self._first is None:
            self._first = (begin, self.state.share)
        if self.state != before or self._trouble:
            self._update()
        self.pause = max(self._seconds, (time.monotonic() - begin) * (1 / SHARE - 1))
        return False

    def _update(self) -> None:
        """The table of gains and the page, from what is finished."""
        try:
            found = report.material(self.root)
            self._page, self._table = found, _gains(found)
            # Nothing that was read before the end should replace the page of the whole.
            if not self._whole_by_now():
                when = time.strftime("%H:%M:%S")
                self._write(found, pages.Live(max(1, math.ceil(self._seconds)), when))
        except Unwritable:
            raise
        except UserError as error:  # a file that is damaged, or changed while it was read
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _whole_by_now(self) -> bool:
        now = standing.read(self.root, self._known)
        return now is not None and now.whole

    def _write(self, found: pages.Material, live: pages.Live | None = None) -> None:
        try:
            pages.write(found, live)
        except OSError as error:
            raise Unwritable(
                f"workdir={str(self.root)!r} cannot be written: {error.strerror}"
            ) from None

    @property
    def claim_seconds(self) -> float:
        """The config's field, for who writes the report."""
        assert self.state is not None
        return self.state.claim_seconds

    def view(self) -> Group:
        """What a terminal shows."""
        if self.state is None:
            return Group(Text(self._waiting(), style="dim"))
        state = self.state
        bar = Table.grid(padding=(0, 2), expand=False)
        bar.add_row(
            ProgressBar(total=1.0, completed=state.share, width=40),
            f"{state.percent} %",
            Text(self._time(), style="dim"),
        )
        parts: list[RenderableType] = [
            Text(state.experiment or self.root.name, style="bold"),
            bar,
            Text(self._counts()),
        ]
        if self._table is not None:
            parts += [Text(""), self._table]
        if self._trouble:
            parts.append(Text(self._trouble, style="yellow"))
        path = self.root / pages.FILE
        parts.append(Text(f"{path} shows all of it. Ctrl-C ends this view alone", style="dim"))
        return Group(*parts)

    def news(self) -> str:
        """A line where there is no terminal; empty where nothing has changed."""
        told = self._waiting()
        if self.state is not None:
            told = f"{self.state.percent} %  {self._counts()}  {self._trouble}".rstrip()
        if told == self._said:
            return ""
        self._said = told
        return told

    def left(self) -> str:
        """What is said when the view is left; the page stops to read itself again.

        Raises:
          UserError: the plan is damaged, or the page cannot be written.
        """
        if self._whole_by_now():  # the page of the whole may be there already
            return (
                "stopped watching: the sweep is finished; `python -m samop.report --workdir="
                f"{shlex.quote(str(self.root))}` writes its report, where its command has not"
            )
        if self.state is None:
            return "stopped watching: the sweep had not begun"
        told = (
            f"stopped watching at {self.state.finished} of {len(self.state.runs)} runs; the sweep "
            "is not touched by this."
        )
        if self._page is None:
            return f"{told} There is no page of it: {self._trouble or 'it was not read yet'}"
        self._write(self._page)
        return f"{told} {self.root / pages.FILE} shows it as it was"

    def _waiting(self) -> str:
        return f"waiting: no sweep has begun in {self.root} yet"

    def _counts(self) -> str:
        assert self.state is not None
        count = {s: len(self.state.names(s)) for s in ("done", "diverged", "partial", "missing")}
        parts = [f"{count['done']} of {len(self.state.runs)} runs done"]
        parts += [f"{count['diverged']} diverged"] if count["diverged"] else []
        parts += [f"{count['partial']} training or stopped"] if count["partial"] else []
        parts += [f"{count['missing']} to begin"] if count["missing"] else []
        return ", ".join(parts)

    def _time(self) -> str:
        """How long it was watched and, by the work done meanwhile, how long it will take."""
        assert self.state is not None
        watched = time.monotonic() - self._began
        text = f"watched for {duration(watched)}"
        if self._first is not None and self.state.share > self._first[1]:
            rate = (self.state.share - self._first[1]) / (time.monotonic() - self._first[0])
            text += f", about {duration((1 - self.state.share) / rate)} left"
        return text


def _gains(found: pages.Material) -> Table | None:
    """The gains so far; None where there are none."""
    runs = found.runs
    if runs is None or comparison.finished(runs).empty:
        return None
    gains = comparison.gains(runs)
    gains = gains[gains["n"] > 0] if len(gains) else gains
    if gains.empty:
        return None
    metric = comparison.metric(runs)
    digits = decimals(gains["gain_half95"], metric)
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    labels = [wording.panel_label(dict(row), runs) for _, row in gains.iterrows()]
    columns = ["condition"] if any(labels) else []
    unit = wording.unit_label(metric)
    for name in [*columns, "width"]:
        table.add_column(name)
    for name in (f"gain so far ({unit}, ± 95 %)", "pairs", "ρ*"):
        table.add_column(name, justify="right")
    for label, (_, row) in list(zip(labels, gains.iterrows()))[-MOST_ROWS:]:
        gain = with_interval(row["gain"], row["gain_half95"], digits, sign=True)
        cells = [str(row["width"]), gain, str(row["n"]), f"{row['rho_star']:g}"]
        table.add_row(*([label] if columns else []), *cells)
    return table
