"""Named stages of a job, told to whoever listens.

A job says what it is about and how far it is; who shows it, and whether anybody does, is no matter
of the job's. The listener belongs to the context in which the job runs, so that two jobs at once
tell two listeners; the threads of a pool have none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

logger = logging.getLogger(__name__)

READING_LOG = "repairkit.reading"
"""The logger of what was read of the data; the command line shows its messages."""

Tell = Callable[[int], None]
"""How many of a stage's images, filters or files are done."""


class Listener(Protocol):
    """Who is told of stages. A stage may begin inside another, which goes on when it ends."""

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
    """Who is told, if anybody is."""
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
        What to tell how much is done.
    """
    logger.info("stage: %s", name)
    told = listener()
    if told is None:
        yield _nobody
        return
    told.begin(name, total, unit)
    try:
        yield told.advance
    finally:
        told.end()


def _nobody(done: int) -> None:
    """Nobody listens."""
