"""What frameworks and runtimes log, print and warn of while repairkit works.

It is kept back: in a terminal it would bury what the user asked for. `--debug` shows it where it is
written, and a failure shows its last lines.
"""

import io
import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar

logger = logging.getLogger(__name__)
"""Where its level is DEBUG, nothing is kept back."""

_MOST_LINES = 5
_KEPT: ContextVar[deque[str] | None] = ContextVar("kept lines", default=None)
_NATIVE: ContextVar[Callable[[], str] | None] = ContextVar("kept native lines", default=None)


@contextmanager
def keeping(native: Callable[[], str]) -> Iterator[None]:
    """Keep the last lines of the block, for `last_lines`.

    Args:
        native: gives the end of what native code wrote.
    """
    tokens = _KEPT.set(deque(maxlen=_MOST_LINES)), _NATIVE.set(native)
    try:
        yield
    finally:
        _KEPT.reset(tokens[0])
        _NATIVE.reset(tokens[1])


def last_lines() -> list[str]:
    """The last lines that were kept back: of native code, then of Python's."""
    native = _NATIVE.get()
    written = [] if native is None else [each for each in native().splitlines() if each.strip()]
    return [*written[-_MOST_LINES:], *(_KEPT.get() or ())]


def is_shown() -> bool:
    """Whether noise is shown where it is written."""
    return logger.isEnabledFor(logging.DEBUG)


def keep(text: str) -> None:
    """Remember the lines of a text, if anyone keeps them."""
    lines = _KEPT.get()
    if lines is not None:
        lines.extend(line.rstrip() for line in text.splitlines() if line.strip())


class _Back(logging.Filter):
    """Keeps records of some loggers, and of those below them, from a handler."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self._names = names
        self._last: logging.LogRecord | None = None  # several handlers may be given one record

    def filter(self, record: logging.LogRecord) -> bool:
        if not _is_below(record.name, self._names):
            return True
        if record is not self._last:
            keep(record.getMessage())
        self._last = record
        return False


def _is_below(name: str, names: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in names)


@contextmanager
def silenced(*loggers: str, prints: bool = False) -> Iterator[None]:
    """Keep back warnings and log lines of these loggers in the block; errors are still raised.

    Args:
        loggers: their names; those below them are meant too.
        prints: also keep back what is printed.
    """
    if is_shown():
        yield
        return
    existing = [logging.getLogger(n) for n in list(logging.root.manager.loggerDict)]
    noisy = [each for each in existing if _is_below(each.name, loggers)]
    last = [] if logging.lastResort is None else [logging.lastResort]
    handlers = {*last, *logging.root.handlers, *(h for each in noisy for h in each.handlers)}
    back, printed = _Back(loggers), io.StringIO()
    for handler in handlers:
        handler.addFilter(back)
    try:
        with warnings.catch_warnings(action="ignore"):
            if prints:
                with redirect_stdout(printed):
                    yield
            else:
                yield
    finally:
        keep(printed.getvalue())
        for handler in handlers:
            handler.removeFilter(back)
