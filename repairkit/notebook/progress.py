"""A bar in a notebook's cell while a job runs; it is gone when the job is over.

The bar is one output of the cell, which IPython replaces in place: any front end that shows HTML
shows it, without widgets. Outside a notebook nothing is shown, and IPython is not even imported.
"""

import functools
import html
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from repairkit.core.process.stages import listener, listening
from repairkit.core.process.text import printable
from repairkit.core.scores import Progress

FIRST_SECONDS = 0.5
BETWEEN_SECONDS = 0.2

P = ParamSpec("P")
R = TypeVar("R")


class Output(Protocol):
    """An output of a cell that can be replaced."""

    def show(self, page: str) -> None:
        """Show this HTML in place of what was shown; nothing is visible of an empty one."""
        ...


class CellOutput:
    """An output of the cell that IPython runs now; it appears when it is first shown."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, page: str) -> None:
        """See `Output`."""
        data = {"text/html": page, "text/plain": ""}
        if self._handle is None:
            # IPython is there in every kernel, and is no dependency.
            display = importlib.import_module("IPython.display").display
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class CellBar:
    """Shows the innermost stage and how far it is; a `repairkit.core.process.stages.Listener`."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._next = clock() + FIRST_SECONDS
        self._shown = False
        self._stages: list[tuple[str, int | None, str]] = []
        self._done: list[int] = []

    def begin(self, name: str, total: int | None, unit: str) -> None:
        """See `Listener`."""
        self._stages.append((name, total, unit))
        self._done.append(0)
        self._show()

    def advance(self, done: int) -> None:
        """See `Listener`."""
        self._done[-1] = done
        self._show()

    def end(self) -> None:
        """See `Listener`."""
        self._stages.pop()
        self._done.pop()
        self._show()

    def scored(self, progress: Progress) -> None:
        """Show how far a scoring is, in place of the count of its stage."""
        spent, left = progress.spent.evaluations, progress.evaluations_left
        facts = f"{progress.n_filters:,} filters, {spent:,} evaluations"
        if progress.seconds_left is not None:
            facts += f", at most {max(progress.seconds_left, 1.0):.0f} s left"
        self._show(None if left is None else spent / max(spent + left, 1), facts)

    def close(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._output.show("")

    def _show(self, share: float | None = None, facts: str = "") -> None:
        now = self._clock()
        if now < self._next or not self._stages:
            return
        self._next, self._shown = now + BETWEEN_SECONDS, True
        name, total, unit = self._stages[-1]
        if total and not facts:
            share = min(self._done[-1] / total, 1.0)
            facts = f"{self._done[-1]:,} of {total:,} {unit}"
        value = "" if share is None else f' value="{share:.3f}"'
        text = html.escape(printable(f"{name}: {facts}" if facts else name))
        self._output.show(
            f'<div><progress max="1"{value} style="width:12em;vertical-align:middle"></progress> '
            f"<span>{text}</span></div>"
        )


def in_notebook() -> bool:
    """Whether the code runs in a kernel, to which a notebook or its like is attached."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def shown_in_cell(job: Callable[P, R]) -> Callable[P, R]:
    """A job that shows a bar when it is called in a notebook, unless it is told `progress=False`.

    A job that takes `on_progress`, and is given none, shows how far its scoring is.
    """

    @functools.wraps(job)
    def run(*args: P.args, **given: P.kwargs) -> R:
        if given.get("progress") is False or listener() is not None or not in_notebook():
            return job(*args, **given)
        bar = CellBar(CellOutput())
        try:
            with listening(bar):
                if job.__name__ in ("score", "patch"):
                    given = {"on_progress": bar.scored, **given}  # type: ignore[assignment]  # both take it
                return job(*args, **given)
        finally:
            bar.close()

    return run
