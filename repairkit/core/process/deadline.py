"""When a command is to end."""

from __future__ import annotations

import time
from dataclasses import dataclass


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
