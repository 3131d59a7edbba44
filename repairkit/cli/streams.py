"""Standard output and standard error: safe for any text, and for one JSON document.

With `--json`, standard output holds one document only. What a user's module, a framework or a
library prints goes to standard error.
"""

import faulthandler
import json
import os
import select
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from repairkit.core.process.text import printable
from repairkit.formats.documents import to_json


class Reserved:
    """Replaces standard output until the document is complete; text goes to standard error."""

    def __init__(self) -> None:
        self.document: object = None
        self.given = False

    def keep(self, document: object) -> None:
        """Keep the document until the command has ended.

        Raises:
            ValueError: it cannot be written as JSON.
        """
        to_json(document)
        self.document, self.given = document, True

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@contextmanager
def reserved() -> Iterator[tuple[Reserved, TextIO]]:
    """Reserve standard output; yields what keeps the document, and the true output."""
    stream, true = Reserved(), sys.stdout
    # It passes everything else on to standard error.
    sys.stdout = stream
    try:
        yield stream, true
    finally:
        sys.stdout = true


def print_json(document: object) -> None:
    """Print the one document of `--json`; it is written when the command has ended."""
    if isinstance(sys.stdout, Reserved):
        sys.stdout.keep(document)
    else:
        write_document(sys.stdout, document)


def write_document(stream: TextIO, document: object) -> None:
    """Write a JSON document; characters outside the stream's encoding become JSON escapes."""
    text, encoding = to_json(document), stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)
    stream.write(text)
    stream.flush()


def remark(text: str) -> None:
    """Print a line on standard error."""
    sys.stderr.write(f"repairkit: {printable(text)}\n")


def prepare_streams(*, one_document: bool) -> None:
    """Make the standard streams of this process accept any text.

    Characters outside an encoding are written as escapes. A closed stream is replaced by one that
    discards. For one document, libraries that write to file descriptor 1 are redirected to 2.
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
    """Give `sys.stdout` the old target of file descriptor 1, and point 1 at the target of 2."""
    try:
        if sys.stdout.fileno() != 1:
            return
        true = os.dup(1)
        os.dup2(sys.stderr.fileno(), 1)
    except OSError:  # one of them is not a file: nothing to redirect
        return
    sys.stdout = os.fdopen(true, "w", encoding=sys.stdout.encoding, errors="backslashreplace")


class KeptBack:
    """A file that takes what libraries write to file descriptor 2; what Python writes is shown."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def divert(self) -> None:
        """Give `sys.stderr` a descriptor of its own, and point 2 at the file.

        A crash of native code writes its last words to 2; Python's trace of it is shown.
        """
        try:
            if sys.stderr.fileno() != 2:
                return
            true = os.dup(2)
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open until the process ends
            os.dup2(self._file.fileno(), 2)
        except OSError:  # one of them is not a file: nothing to redirect
            return
        encoding = sys.stderr.encoding
        sys.stderr = os.fdopen(true, "w", 1, encoding=encoding, errors="backslashreplace")
        faulthandler.enable(sys.stderr)

    def last_lines(self) -> str:
        """The end of what was kept back."""
        if self._file is None:
            return ""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - _LAST_BYTES))
        return self._file.read().decode(errors="replace")


_LAST_BYTES = 2000


def reader_is_gone() -> bool:
    """Whether the reader of standard output or standard error has closed it (`| head`)."""
    if not hasattr(select, "poll"):
        return True  # unknown on this system; a pipe error brought us here
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), 0)
        except (OSError, ValueError):  # not a file
            continue
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))


def forget_output(stream: TextIO | None = None) -> None:
    """Discard the rest of standard output, so that it is not flushed again at exit.

    `stream` is standard output, if `sys.stdout` is replaced.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
