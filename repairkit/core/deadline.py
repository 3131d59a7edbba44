"""When a command is to end."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """`seconds` after the moment `began`, which is one of `time.monotonic`."""

    began: float
    seconds: float

    @property
    def left(self) -> float:
        """Seconds until then; negative once it is over."""
        return self.began + self.seconds - time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.began
