"""The stages of a job on standard error: a bar on a terminal, lines in a log.

In a log, a quick command prints nothing. From the fourth second on, each new step of a command (or
stage, where it has no steps) prints a line. A thread prints how far a long stage is: every four
seconds at first, then each time that it has lasted a twentieth longer, and at least once a minute.
"""

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from repairkit.cli.steps import Forecast, Plan
from repairkit.core.process.nouns import worded
from repairkit.core.process.stages import READING_LOG, listener, listening
from repairkit.core.process.text import printable

if TYPE_CHECKING:
    from repairkit.core.scores import Progress as ScoringProgress  # loads numpy

FIRST_SECONDS = 3.0
BETWEEN_SECONDS = 1.0
SILENT_SECONDS = 4.0
_LONGEST_SILENCE = 60.0
_SHARE_OF_SILENCE = 0.05
_LOOK_SECONDS = 0.25
_FORECAST_SECONDS = 5.0

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class _Stage:
    """A stage in progress; `facts` are shown in place of the count where they are given.

    `limit` is the moment at which the stage ends at the latest, where there is one.
    """

    name: str
    total: int | None
    unit: str
    begun: float = field(default_factory=time.monotonic)
    done: int = 0
    facts: str = ""
    limit: float | None = None

    def __post_init__(self) -> None:
        self._forecast = Forecast(self.begun)

    def advance(self, done: int) -> None:
        """So much of it is done."""
        self.done = done
        if self.total:
            self._forecast.update(done, self.total, time.monotonic())

    def tell(self, facts: str, done: int, total: int | None, seconds_left: float | None) -> None:
        """Show facts in place of a count."""
        self.facts, self.total = facts, total
        self.limit = None if seconds_left is None else time.monotonic() + seconds_left
        self.advance(done)

    def state(self) -> str:
        """How far it is."""
        share = self.done / self.total if self.total else None
        if self.facts:
            left = self._left()
            shown = ["" if share is None else f"{100 * share:.0f} %", self.facts]
            shown.append("" if left is None else f"at most {duration(max(left, 1.0))} left")
            return ", ".join(filter(None, shown))
        if share is None:
            return ""
        count = f"{self.done} of {self.total} {self.unit}"
        left = self._left()
        if time.monotonic() - self.begun < _FORECAST_SECONDS or left is None or share >= 1:
            return count
        return f"{count} ({share:.0%}), about {duration(max(left, 1.0))} left"

    def _left(self) -> float | None:
        now = time.monotonic()
        limits = [self._forecast.left(now), None if self.limit is None else self.limit - now]
        return min((each for each in limits if each is not None), default=None)


def _shown(stages: Sequence[_Stage]) -> _Stage:
    """The outermost stage that knows how far it is, else the innermost."""
    return next((stage for stage in stages if stage.total or stage.facts), stages[-1])


class Lines:
    """Stages as lines of a log; a thread writes them when too long nothing was written."""

    def __init__(self, plan: Plan | None = None) -> None:
        self._plan = plan or Plan()
        self._stages: list[_Stage] = []
        self._whole = _Stage("working", None, "")
        self._begun = ""  # the last stage whose beginning was shown
        self._last = time.monotonic()
        self._quiet_until = self._last + FIRST_SECONDS
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="stages", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Write nothing more."""
        self._over.set()
        self._watcher.join()

    def begin(self, name: str, total: int | None, unit: str) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages.append(_Stage(name, total, unit))
            self._plan.begin(name)
            text = self._plan.step or name
            now = time.monotonic()
            due = now >= max(self._quiet_until, self._last + BETWEEN_SECONDS)
            if due and text != self._begun:
                self._begun = text
                self._write(text)

    def advance(self, done: int) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages[-1].advance(done)

    def end(self) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages.pop()

    def show_facts(
        self, facts: str, done: int, total: int | None, seconds_left: float | None = None
    ) -> None:
        """Show facts about the innermost stage in place of a count."""
        with self._lock:
            if self._stages:
                self._stages[-1].tell(facts, done, total, seconds_left)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            with self._lock:
                now = time.monotonic()
                stage = _shown(self._stages) if self._stages else self._whole
                lasted = now - stage.begun
                silence = max(SILENT_SECONDS, min(_SHARE_OF_SILENCE * lasted, _LONGEST_SILENCE))
                if now - self._last >= silence - 2 * _LOOK_SECONDS:
                    title = self._plan.title(stage.name)
                    sign = ", " if self._plan.step else ": "
                    state = ", ".join(filter(None, (stage.state(), f"{lasted:.0f} s")))
                    self._write(f"{title}{sign}{state}")

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        try:
            sys.stderr.write(f"{printable(worded(text))}\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # the reader has closed the stream; the job continues
            self._over.set()


class Bars:
    """The stage that runs as a bar on a terminal; it disappears after the last stage."""

    def __init__(self, console: Console, plan: Plan | None = None) -> None:
        self._console = console
        self._plan = plan or Plan()
        self._drawn: _Stage | None = None
        self._stages: list[_Stage] = []
        self._bar: Progress | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Take the bar away."""
        with self._lock:
            self._stages.clear()
            self._show()

    def begin(self, name: str, total: int | None, unit: str) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages.append(_Stage(name, total, unit))
            self._plan.begin(name)
            self._show()

    def advance(self, done: int) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages[-1].advance(done)
            self._show()

    def end(self) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages.pop()
            self._show()

    def show_facts(
        self, facts: str, done: int, total: int | None, seconds_left: float | None = None
    ) -> None:
        """Show facts about the innermost stage in place of a count."""
        with self._lock:
            if self._stages:
                self._stages[-1].tell(facts, done, total, seconds_left)
                self._show()

    def _show(self) -> None:
        if not self._stages:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
            return
        stage = _shown(self._stages)
        title, state = printable(worded(self._plan.title(stage.name))), worded(stage.state())
        if self._bar is None:
            self._drawn = None
            # Commands print to standard output, past the bar.
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[state]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                redirect_stdout=False,
            )
            self._bar.start()
        if stage is not self._drawn:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._drawn = stage
            self._bar.add_task(title, total=stage.total, completed=stage.done, state=state)
            return
        known = self._bar.task_ids[0]
        self._bar.update(
            known, description=title, total=stage.total, completed=stage.done, state=state
        )


class _Reading(logging.Handler):
    """Shows log messages about the data, line by line; a repeated message is shown once."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message != self._last:
            self._last = message
            for line in message.splitlines():
                sys.stderr.write(f"repairkit: {printable(worded(line))}\n")


@contextmanager
def reading_shown() -> Iterator[None]:
    """Show what jobs log about the data that they read, until the block ends."""
    logger = logging.getLogger(READING_LOG)
    handler, level = _Reading(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextmanager
def shown(*, quiet: bool, plan: Plan | None = None) -> Iterator[None]:
    """Show the stages of all jobs until the block ends, as steps of a plan if there is one."""
    if quiet or listener() is not None:
        yield
        return
    console = Console(stderr=True, highlight=False)
    display = Bars(console, plan) if console.is_terminal else Lines(plan)
    try:
        with listening(display), reading_shown():
            yield
    finally:
        display.close()


def staged(command: Command, name: str = "") -> Command:
    """A command whose stages are shown, unless it is called with `quiet`.

    Args:
        command: with options as keywords.
        name: as users type it; by it the steps are known.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        with shown(quiet=bool(options.get("quiet")), plan=Plan.of(name, options)):
            return command(*args, **options)

    return run  # type: ignore[return-value]  # it has the command's signature


def show_facts(facts: str, done: int, total: int | None, seconds_left: float | None = None) -> None:
    """Show facts about the innermost stage, if stages are shown.

    Args:
        facts: in words.
        done: how much is done.
        total: of how much; None where that is not known.
        seconds_left: after which it ends at the latest; None without a limit.
    """
    display = listener()
    if isinstance(display, Bars | Lines):
        display.show_facts(facts, done, total, seconds_left)


def scoring_progress(progress: "ScoringProgress") -> None:
    """Show the share of the budget, undecided filters, evaluations per second and the time left."""
    done, left = progress.spent.evaluations, progress.evaluations_left
    limit = progress.seconds_left
    show_facts(_facts(progress), done, None if left is None else done + left, limit)


def _facts(progress: "ScoringProgress") -> str:
    decided = "" if progress.n_undecided is None else f"{progress.n_undecided} undecided of "
    return (
        f"{decided}{progress.n_filters} filters, "
        f"{progress.spent.evaluations} evaluations, {progress.evaluations_per_second:.0f}/s"
    )


def duration(seconds: float) -> str:
    """Seconds in readable units."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
