"""The moment at which a command began, from which its time limit counts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import typer

_STAT = Path("/proc/self/stat")
_START_TIME = 19  # of the fields behind the process's name (proc(5))
_MOST_SECONDS = 600.0  # an older process did not begin with this command


def process_began() -> float:
    """When this process began, by `time.monotonic`; now where the system does not tell."""
    now = time.monotonic()
    try:
        fields = _STAT.read_text().rpartition(")")[2].split()
        ticks = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks
    except (OSError, AttributeError, ValueError, IndexError):  # no Linux
        return now
    return now - age if 0 <= age <= _MOST_SECONDS else now


def began(context: typer.Context) -> float:
    """When the command began: with its process, or now where a program called it."""
    known = context.obj
    return known if isinstance(known, float) else time.monotonic()
