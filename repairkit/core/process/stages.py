"""Named stages of a job, the listener that shows them, and the time limit of a command.

A job reports its stages and its progress; it does not know who shows them. The listener belongs to
the context in which the job runs, so two jobs at once report to two listeners. The threads of a
pool have no listener.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

logger = logging.getLogger(__name__)

READING_LOG = "repairkit.reading"
"""The logger of what was read of the data; the command line shows its messages."""

Tell = Callable[[int], None]
"""How many of a stage's images, filters or files are done."""


def event(name: str, **facts: Any) -> dict[str, Any]:
    """The fields of a log record beside its sentence; structured logs hold them."""
    return {"event": {"event": name, **facts}}


class Listener(Protocol):
    """Shows stages. A stage may begin inside another, which goes on when it ends."""

    def begin(self, name: str, total: int | None, unit: str) -> None:
        """A stage begins, of so many `unit`; None where that is not known."""
        ...

    def advance(self, done: int) -> None:
        """So many of the innermost stage are done."""
        ...

    def end(self) -> None:
        """The innermost stage is over."""
        ...


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def listener() -> Listener | None:
    """The listener, if there is one."""
    return _LISTENER.get()


@contextmanager
def listening(to: Listener) -> Iterator[None]:
    """Tell `to` of all stages until the block ends."""
    token = _LISTENER.set(to)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def stage(name: str, *, total: int | None = None, unit: str = "images") -> Iterator[Tell]:
    """A part of a job that may take a while.

    Args:
        name: what is done, such as `measuring means`.
        total: how much there is to do; None where that is not known.
        unit: of what.

    Yields:
        A function to call with how much is done.
    """
    logger.info("stage: %s", name)
    hearer = listener()
    if hearer is None:
        yield _ignore
        return
    hearer.begin(name, total, unit)
    try:
        yield hearer.advance
    finally:
        hearer.end()


def _ignore(done: int) -> None:
    """There is no listener."""


@dataclass(frozen=True)
class Deadline:
    """`seconds` after the moment `began`, which is one of `time.monotonic`.

    `whole` is the time limit that was asked for, where this is the end of a part of the job.
    """

    began: float
    seconds: float
    whole: float | None = None

    @property
    def limit(self) -> float:
        """The time limit that was asked for."""
        return self.seconds if self.whole is None else self.whole

    @property
    def left(self) -> float:
        """Seconds until then; negative once it is over."""
        return self.began + self.seconds - time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.began
