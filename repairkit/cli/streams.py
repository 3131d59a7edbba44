"""Standard output and standard error: fit for any name, and for one JSON document.

With `--json` standard output belongs to one document. What a user's module, a framework or a
library prints meanwhile goes to standard error.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from repairkit.formats.documents import to_json


class Reserved:
    """Stands in for standard output while one document is awaited; text goes to standard error."""

    def __init__(self) -> None:
        self.document: object = None
        self.given = False

    def keep(self, document: object) -> None:
        """Keep the document until the command has ended.

        Raises:
            ValueError: it is no JSON.
        """
        to_json(document)
        self.document, self.given = document, True

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@contextmanager
def reserved() -> Iterator[tuple[Reserved, TextIO]]:
    """Standard output is reserved within; yields what keeps the document, and the true output."""
    stream, true = Reserved(), sys.stdout
    # All else that is asked of it is answered by standard error.
    sys.stdout = stream
    try:
        yield stream, true
    finally:
        sys.stdout = true


def print_json(document: object) -> None:
    """The one document of `--json`; written when the command has ended."""
    if isinstance(sys.stdout, Reserved):
        sys.stdout.keep(document)
    else:
        write_document(sys.stdout, document)


def write_document(stream: TextIO, document: object) -> None:
    """Write a JSON document; characters that the stream's encoding lacks are escaped as in JSON."""
    text, encoding = to_json(document), stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)
    stream.write(text)
    stream.flush()


def prepare_streams(*, one_document: bool) -> None:
    """Make a process's standard streams fit for what we write.

    Characters that an encoding lacks are written as escapes. A stream that is closed swallows what
    is written. For one document, libraries that write to file descriptor 1 are sent to 2.
    """
    sys.stdout = _sound(sys.stdout)
    sys.stderr = _sound(sys.stderr)
    if one_document:
        _divert_descriptor()


def _sound(stream: TextIO | None) -> TextIO:
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return stream


def _divert_descriptor() -> None:
    """Let `sys.stdout` alone lead to where file descriptor 1 led, and 1 to where 2 leads."""
    try:
        if sys.stdout.fileno() != 1:
            return
        true = os.dup(1)
        os.dup2(sys.stderr.fileno(), 1)
    except OSError:  # one of them is no file; then there is nothing to send elsewhere
        return
    sys.stdout = os.fdopen(true, "w", encoding=sys.stdout.encoding, errors="backslashreplace")


def reader_is_gone() -> bool:
    """Whether nobody reads standard output or standard error any more (`| head`)."""
    if not hasattr(select, "poll"):
        return True  # the system cannot tell; an error about a pipe has brought us here
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), 0)
        except (OSError, ValueError):  # no file is behind it
            continue
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))


def forget_output(stream: TextIO | None = None) -> None:
    """Send the rest of standard output nowhere: it must not be flushed once more at exit.

    `stream` is where it goes, if not to `sys.stdout` itself.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
