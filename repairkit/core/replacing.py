"""Put a finished draft in the place of a file, so that neither a kill nor a power cut halves it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_durably(draft: Path, path: Path) -> None:
    """Rename a draft that is already on the disk itself, and wait until the rename is there too.

    Raises:
        OSError: the rename failed; `path` is as it was.
    """
    draft.replace(path)
    if os.name != "posix":
        return
    with suppress(OSError):  # some file systems cannot sync a folder, and lose nothing by it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def is_draft(path: Path) -> bool:
    """Whether a file is what a killed process left of one that it was writing."""
    return path.name.startswith(".") and path.name.endswith(".tmp")
