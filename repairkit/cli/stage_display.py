"""The stages of a job on standard error: a bar on a terminal, lines in a log.

In a log, a quick command prints nothing. From the fourth second on, each new stage prints a line,
and a thread prints how far a long stage is at least every four seconds.
"""

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from repairkit.core.process.nouns import worded
from repairkit.core.process.stages import READING_LOG, listener, listening
from repairkit.core.process.text import printable

if TYPE_CHECKING:
    from repairkit.core.scores import Progress as ScoringProgress  # loads numpy

FIRST_SECONDS = 3.0
BETWEEN_SECONDS = 1.0
SILENT_SECONDS = 4.0
_LOOK_SECONDS = 0.25
_FORECAST_SECONDS = 5.0

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class _Stage:
    """A stage in progress; `facts` are shown in place of the count where they are given."""

    name: str
    total: int | None
    unit: str
    begun: float = field(default_factory=time.monotonic)
    done: int = 0
    facts: str = ""

    def state(self) -> str:
        """How far it is."""
        if self.facts or not self.total:
            return self.facts
        count = f"{self.done} of {self.total} {self.unit}"
        seconds = time.monotonic() - self.begun
        if seconds < _FORECAST_SECONDS or not 0 < self.done < self.total:
            return count
        left = seconds * (self.total - self.done) / self.done
        return f"{count} ({self.done / self.total:.0%}), about {duration(max(left, 1.0))} left"


class Lines:
    """Stages as lines of a log; a thread writes them when too long nothing was written."""

    def __init__(self) -> None:
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
            now = time.monotonic()
            due = now >= max(self._quiet_until, self._last + BETWEEN_SECONDS)
            if due and name != self._begun:
                self._begun = name
                self._write(name)

    def advance(self, done: int) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages[-1].done = done

    def end(self) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages.pop()

    def show_facts(self, facts: str, done: int, total: int | None) -> None:
        """Show facts about the innermost stage in place of a count."""
        with self._lock:
            if self._stages:
                stage = self._stages[-1]
                stage.facts, stage.done, stage.total = facts, done, total

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            with self._lock:
                now = time.monotonic()
                if now - self._last >= SILENT_SECONDS - 2 * _LOOK_SECONDS:
                    stage = self._stages[-1] if self._stages else self._whole
                    state = [stage.state()] if stage.state() else []
                    lasted = f"{now - stage.begun:.0f} s"
                    self._write(f"{stage.name}: {', '.join([*state, lasted])}")

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        try:
            sys.stderr.write(f"{printable(worded(text))}\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # the reader has closed the stream; the job continues
            self._over.set()


class Bars:
    """The innermost stage as a bar on a terminal; it disappears after the last stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
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
            self._show(fresh=True)

    def advance(self, done: int) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages[-1].done = done
            self._show()

    def end(self) -> None:
        """See `Listener`."""
        with self._lock:
            self._stages.pop()
            self._show(fresh=True)

    def show_facts(self, facts: str, done: int, total: int | None) -> None:
        """Show facts about the innermost stage in place of a count."""
        with self._lock:
            if self._stages:
                stage = self._stages[-1]
                stage.facts, stage.done, stage.total = facts, done, total
                self._show()

    def _show(self, *, fresh: bool = False) -> None:
        if not self._stages:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
            return
        stage = self._stages[-1]
        if self._bar is None:
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
        if fresh:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            name = printable(worded(stage.name))
            self._bar.add_task(
                name, total=stage.total, completed=stage.done, state=worded(stage.state())
            )
            return
        known = self._bar.task_ids[0]
        self._bar.update(
            known, total=stage.total, completed=stage.done, state=worded(stage.state())
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
def shown(*, quiet: bool) -> Iterator[None]:
    """Show the stages of all jobs until the block ends."""
    if quiet or listener() is not None:
        yield
        return
    console = Console(stderr=True, highlight=False)
    display = Bars(console) if console.is_terminal else Lines()
    try:
        with listening(display), reading_shown():
            yield
    finally:
        display.close()


def staged(command: Command) -> Command:
    """A command whose stages are shown, unless it is called with `quiet`."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        with shown(quiet=bool(options.get("quiet"))):
            return command(*args, **options)

    return run  # type: ignore[return-value]  # it has the command's signature


def show_facts(facts: str, done: int, total: int | None) -> None:
    """Show facts about the innermost stage, if stages are shown."""
    display = listener()
    if isinstance(display, Bars | Lines):
        display.show_facts(facts, done, total)


def scoring_progress(progress: "ScoringProgress") -> None:
    """Show undecided filters, evaluations per second and the time left."""
    done, left = progress.spent.evaluations, progress.evaluations_left
    show_facts(_facts(progress), done, None if left is None else done + left)


def _facts(progress: "ScoringProgress") -> str:
    decided = "" if progress.n_undecided is None else f"{progress.n_undecided} undecided of "
    facts = (
        f"{decided}{progress.n_filters} filters, "
        f"{progress.spent.evaluations} evaluations, {progress.evaluations_per_second:.0f}/s"
    )
    if progress.seconds_left is not None:
        facts += f", at most {duration(max(progress.seconds_left, 1.0))} left"
    return facts


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
