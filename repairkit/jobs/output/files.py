"""Output files: written to a temporary name and renamed, so that none is ever half there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repairkit.core.errors import RunFolderError
from repairkit.core.process.text import decoded
from repairkit.core.process.writing import Drafts, together

_MOST_VALUES = 4_000_000


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full.
    """
    with outputs(path) as drafts:
        drafts.write(path, content)


@contextmanager
def outputs(path: Path) -> Iterator[Drafts]:
    """Files that appear together at the end of the block, or not at all.

    Args:
        path: the one that the user named, for messages.

    Raises:
        RunFolderError: a folder cannot be written or the disk is full.
    """
    try:
        with together() as drafts:
            yield drafts
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another "
            "place with -o"
        ) from error


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document whole or not at all."""
    write_text(path, to_json(document))


def to_json(document: Any) -> str:
    """JSON as repairkit writes it: readable, keys in the order given, no NaN.

    Characters that do not print are escaped: no terminal obeys them, and the meaning is the same.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def read_json(path: Path, what: str, *, limit: int = 128 * 2**20) -> Any:
    """Read a JSON document of bounded size, and of as few values as need little memory.

    Raises:
        RunFolderError: it is missing, too large, no JSON, names a value twice or holds NaN.
    """
    try:
        if path.stat().st_size > limit:
            raise RunFolderError(f"{path}: too large to be {what} ({limit} bytes at most)")
        content = path.read_bytes()
        if sum(content.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
            raise RunFolderError(f"{path}: holds too many values to be {what}")
        return json.loads(
            decoded(content), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: cannot be read as {what} ({_reason(error)})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it names a value twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
