"""Code of the user's that we call: its `sys.exit` is an error of that code, not an end of ours."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from repairkit.core.errors import RepairkitError

_LIBRARIES = tuple(
    str(Path(path).resolve()) for path in set(sysconfig.get_paths().values()) if path
)


@contextmanager
def no_exit(what: str, error: type[RepairkitError]) -> Iterator[None]:
    """Turn `sys.exit` within into an error that tells who called it.

    Args:
        what: whose code it is, such as `metric a:b`.
        error: the kind to raise.

    Raises:
        RepairkitError: `sys.exit` was called; of the kind asked for.
    """
    try:
        yield
    except SystemExit as stop:
        raise error(f"{what}: {exit_words(stop)}") from stop


def exit_words(stop: SystemExit) -> str:
    """Who called `sys.exit`, where, and with what."""
    code = stop.code
    said = "no message" if code is None else f"{code!r}"
    if isinstance(code, str):
        said = f"the message {' '.join(code.split())!r}"
    return f"{_caller(stop)} called sys.exit with {said}; let it raise an error or return instead"


def _caller(stop: SystemExit) -> str:
    """The module nearest to the call that is no library, such as argparse, and its line."""
    frames = [
        (frame.f_globals.get("__name__", "?"), frame.f_code.co_filename, line)
        for frame, line in walk_tb(stop.__traceback__)
    ]
    if not frames:
        return "code of the user's"
    own = [f for f in frames if not f[0].startswith("repairkit") and not _is_library(f[1])]
    name, file, line = (own or frames)[-1]
    return f"module {name} ({Path(file).name}, line {line})"


def _is_library(file: str) -> bool:
    return file.startswith(("<frozen", *_LIBRARIES))
