"""Output files: written to a temporary name and renamed, so that none is ever half there."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from repairkit.core.errors import RunFolderError


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise RunFolderError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another "
            "place with -o"
        ) from error


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document whole or not at all."""
    write_text(path, to_json(document))


def to_json(document: Any) -> str:
    """JSON as repairkit writes it: readable, keys in the order given, no NaN."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, what: str, *, limit: int = 256 * 2**20) -> Any:
    """Read a JSON document of bounded size.

    Raises:
        RunFolderError: it is missing, too large or no JSON.
    """
    try:
        if path.stat().st_size > limit:
            raise RunFolderError(f"{path}: too large to be {what} ({limit} bytes at most)")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: cannot be read as {what} ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
