"""What was read of the data, shown once on standard error before anything is spent."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from repairkit.core.process.text import printable
from repairkit.jobs.setup import told_reading


class _Told(logging.Handler):
    """Shows each line of a message; the same message is shown once."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message != self._last:
            self._last = message
            for line in message.splitlines():
                sys.stderr.write(f"repairkit: {printable(line)}\n")


@contextmanager
def reading_shown() -> Iterator[None]:
    """Show what jobs tell of the data that they read, until the block ends."""
    logger = logging.getLogger(told_reading.__name__)
    handler, level = _Told(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
