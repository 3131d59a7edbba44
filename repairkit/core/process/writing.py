"""The one way in which files are written: whole or not at all, and several together.

Every file is first a draft beside its place: a new file of a random name, opened so that no link is
followed and no file that exists is opened. The draft is put on the disk, then renamed. Files that
belong together are all drafts before the first rename; if a rename fails, the earlier ones are
taken back. A link at the place itself is replaced, and what it leads to stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_LONGEST_NAME = 255  # bytes, on every common file system
_ENDING = ".tmp"
# The second form is that of earlier versions: the process's number.
_DRAFT = re.compile(r"\..*\.([0-9a-f]{16}|\d+)\.tmp", re.DOTALL)
_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR
_NEW |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_whole(path: Path, content: bytes) -> None:
    """Write one file whole or not at all; its folder is made where it is missing.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    with together() as drafts:
        drafts.write(path, content)


@contextmanager
def together() -> Iterator[Drafts]:
    """Files that appear together, at the end of the block; none appears where it ends in an error.

    Raises:
        OSError: a draft cannot be renamed; all places are as they were.
    """
    drafts = Drafts()
    try:
        yield drafts
        drafts.publish()
    finally:
        drafts.discard()


@dataclass(frozen=True)
class _Draft:
    draft: Path
    place: Path


class Drafts:
    """Finished drafts, in the order in which they will be renamed; see `together`."""

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []

    def write(self, path: Path, content: bytes) -> None:
        """Add a file of these bytes.

        Raises:
            OSError: the draft cannot be written.
        """
        with self.open(path) as file:
            file.write(content)

    @contextmanager
    def open(self, path: Path) -> Iterator[BinaryIO]:
        """A new, empty draft, for writing; it is on the disk at the end of the block.

        Raises:
            OSError: the draft cannot be made or written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _new_name(path)
        with os.fdopen(os.open(draft, _NEW, 0o666), "wb") as file:
            self._drafts.append(_Draft(draft, path))
            yield file
            file.flush()
            os.fsync(file.fileno())

    def copy(self, source: Path, path: Path) -> None:
        """Add a copy of a file.

        Raises:
            OSError: it cannot be read, or the draft not be written.
        """
        with source.open("rb") as content, self.open(path) as file:
            shutil.copyfileobj(content, file)

    def adopt(self, made: Path, path: Path) -> None:
        """Add a finished file, which lies on the same file system and is moved away.

        Raises:
            OSError: it cannot be moved.
        """
        draft = _new_name(path)
        made.replace(draft)
        self._drafts.append(_Draft(draft, path))
        with draft.open("rb+") as file:
            os.fsync(file.fileno())

    def digests(self) -> dict[Path, str]:
        """The SHA-256 of every draft, by the place where it will be.

        Raises:
            OSError: a draft cannot be read.
        """
        digests = {}
        for step in self._drafts:
            with step.draft.open("rb") as file:
                digests[step.place] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests

    def rename_last(self, path: Path) -> None:
        """Rename the draft of this place after all others so far."""
        self._drafts.sort(key=lambda step: step.place == path)

    def publish(self) -> None:
        """Rename every draft to its place, in the order of the calls; take all back if one fails.

        Raises:
            OSError: a rename failed; all places are as they were.
        """
        several = len(self._drafts) > 1
        tried: list[tuple[_Draft, Path | None]] = []
        try:
            for step in self._drafts:
                tried.append((step, _kept(step.place) if several else None))
                step.draft.replace(step.place)
        except BaseException:
            for step, before in reversed(tried):
                if several and not step.draft.exists():  # it was renamed
                    _take_back(step.place, before)
                _remove(before)
            raise
        self._drafts.clear()
        for _, before in tried:
            _remove(before)
        for folder in {step.place.parent for step, _ in tried}:
            _sync(folder)

    def discard(self) -> None:
        """Remove what was not renamed."""
        while self._drafts:
            _remove(self._drafts.pop().draft)


def is_draft(path: Path) -> bool:
    """Whether a file is what a killed process left of one that it was writing."""
    return bool(_DRAFT.fullmatch(path.name)) and not path.is_symlink()


def _new_name(path: Path) -> Path:
    random = f".{secrets.token_hex(8)}{_ENDING}"
    name = os.fsencode(path.name)[: _LONGEST_NAME - len(random) - 1]
    short = name.decode("utf-8", "ignore")
    return path.with_name(f".{short}{random}")


def _kept(place: Path) -> Path | None:
    """Another name for what is at a place, by which it can be put back; None where nothing is."""
    if not os.path.lexists(place) or (place.is_dir() and not place.is_symlink()):
        return None
    name = _new_name(place)
    try:
        os.link(place, name, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without hard links
        shutil.copy2(place, name, follow_symlinks=False)
    return name


def _take_back(place: Path, before: Path | None) -> None:
    with suppress(OSError):  # the first error is the one to report
        if before is None:
            place.unlink()
        else:
            before.replace(place)


def _remove(path: Path | None) -> None:
    if path is not None:
        with suppress(OSError):  # a folder that cannot be written holds no draft
            path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Wait until renames are on the disk too."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some file systems cannot sync a folder, and lose nothing by it
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
