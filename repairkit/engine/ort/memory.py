"""Memory that the C library keeps after it was freed, handed back to the system.

Opening a session copies all weights several times over. The C library of Linux holds on to what was
freed, so that a job would seem to need, and keep others from, some hundreds of megabytes more.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def release_freed() -> None:
    """Hand freed memory back where the C library can be told to; costs about a millisecond."""
    trim = _trimmer()
    if trim is not None:
        trim(0)


@cache
def _trimmer() -> Callable[[int], int] | None:
    """The C library's `malloc_trim`; None with another C library or system."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
