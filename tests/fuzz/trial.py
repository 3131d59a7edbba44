"""One spoilt input through the command line, and whether the command kept its promises."""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from repairkit.cli import run, stage_display
from tests.fuzz.targets import TARGETS

MEMORY_BYTES = 2 << 30
SECONDS = 10.0
_CODES = {0, 1, 3, 4}


def limit_memory() -> None:
    """Let this process have `MEMORY_BYTES` of memory of its own; more is refused to it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def attempt(target: str, seed: int) -> str | None:
    """What went wrong with the input that target and seed name; None where all was well."""
    return attempt_drawn(target, random.Random(f"{target}:{seed}"))


def attempt_drawn(target: str, rng: random.Random) -> str | None:
    """The same for whatever changes the generator draws."""
    with tempfile.TemporaryDirectory(prefix="repairkit-fuzz-") as name:
        folder = Path(name)
        arguments = TARGETS[target](folder, rng)
        out, err = io.StringIO(), io.StringIO()
        with _errors_of_libraries() as noise, _inside(folder), _without_progress():
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(arguments)
            said = noise()
        return _fault(code, out.getvalue(), err.getvalue(), said)


def _fault(code: int, out: str, err: str, noise: str) -> str | None:
    if code not in _CODES:
        return f"exit code {code}: {err.strip()}"
    if "please report it" in err or "Traceback" in err + out:
        return err.strip()
    if code and not (err.startswith("repairkit: ") and err.count("\n") == 1):
        return f"not one line: {err!r}"
    if not (err + out).replace("\n", "").isprintable():
        odd = sorted({c for c in err + out if not c.isprintable() and c != "\n"})
        return f"unprintable characters shown: {odd!r}"
    return f"a library wrote: {noise!r}" if noise else None


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """Lines about stages, which a busy machine prints after some seconds, are no fault."""
    with (
        patch.object(stage_display, "FIRST_SECONDS", math.inf),
        patch.object(stage_display, "SILENT_SECONDS", math.inf),
    ):
        yield


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _errors_of_libraries() -> Iterator[Callable[[], str]]:
    """What is written to standard error past Python's own stream."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def read() -> str:
            file.seek(0)
            return file.read(300).decode("utf-8", "replace")

        try:
            yield read
        finally:
            os.dup2(kept, 2)
            os.close(kept)
