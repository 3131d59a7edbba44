"""One process at a time writes into a run folder.

The lock is the operating system's, on the file `lock` in the folder: it is free the moment that its
process is gone, however that ended. The file says who holds it. Reading a folder takes no lock, for
every file in it appears whole.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from repairkit.core.errors import RunFolderError
from repairkit.core.process.text import printable
from repairkit.formats.run_file import LOCK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # the module is missing there

logger = logging.getLogger(__name__)

_MOST_BYTES = 1000
_TRIES = 20
_FAR = 1 << 20
_OPEN = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# A file system that knows no locks answers so.
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within, no other process writes into a run folder; it is made where it is missing.

    A lock that a dead process left is taken over with a warning. Folders that were made here and
    that nothing was put into are removed again.

    Args:
        folder: a run folder, or a place where one may be made; the caller has checked that.

    Raises:
        RunFolderError: another process holds the lock, or the folder cannot be written.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _take(folder)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be written ({error.strerror or error}); free space or choose "
            "another place with -o"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(file, 0)
            # Removed while it is held: a process that opened it before sees that, and tries anew.
            (folder / LOCK).unlink()
        os.close(file)
        with suppress(OSError):  # something was put into one of them
            for place in made:
                place.rmdir()


def _take(folder: Path) -> int:
    """The open file of the lock, which is held from now on."""
    for _ in range(_TRIES):
        file = os.open(folder / LOCK, _OPEN, 0o666)
        try:
            held, before = _hold(file), _read(file, folder)
            if held is False or (held is None and _may_live(before)):
                raise RunFolderError(_in_use(folder, before, known=held is False))
            if _is_still_there(file, folder / LOCK):
                if before:
                    logger.warning("%s: took over the lock of %s, which is gone", folder, before)
                me = {"process": os.getpid(), "host": platform.node(), "since": _now()}
                os.ftruncate(file, 0)
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, json.dumps(me).encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    raise RunFolderError(f"{folder}: others take its lock all the time; choose another with -o")


def _hold(file: int) -> bool | None:
    """Whether the lock could be taken; None where the file system knows no locks."""
    try:
        if fcntl is None:
            import msvcrt

            os.lseek(file, _FAR, os.SEEK_SET)  # what is locked there cannot be read by others
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _UNKNOWN else False
    return True


@dataclass(frozen=True)
class Holder:
    """Who took a lock."""

    process: int
    host: str
    since: str

    def __str__(self) -> str:
        return printable(f"process {self.process} on {self.host} (since {self.since})")


def _read(file: int, folder: Path) -> Holder | None:
    """Who says in the file that the lock is theirs; None where it is empty.

    Raises:
        RunFolderError: it is another file.
    """
    os.lseek(file, 0, os.SEEK_SET)
    content = os.read(file, _MOST_BYTES).strip(b"\0 ")
    if not content:
        return None
    try:
        found = json.loads(content)
        return Holder(int(found["process"]), str(found["host"]), str(found["since"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RunFolderError(
            f"{folder / LOCK}: exists and is no lock of repairkit's; remove it, or choose another "
            "place with -o"
        ) from None


def _may_live(holder: Holder | None) -> bool:
    """Whether a process may still be there, where no lock tells: one elsewhere always may."""
    if holder is None or holder.host != platform.node() or os.name != "posix":
        return holder is not None
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_still_there(file: int, path: Path) -> bool:
    """Whether the open file is the one at the path: its last holder may have removed it."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(file)
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


def _in_use(folder: Path, holder: Holder | None, *, known: bool) -> str:
    who = "another process" if holder is None else str(holder)
    # The system's lock is that of a living process; a mere file may be of a dead one elsewhere.
    doubt = "" if known else f" (if it is gone for sure, remove {folder / LOCK})"
    return (
        f"{folder}: {who} is writing into it; wait for it or stop it, or choose another place with "
        f"-o{doubt}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
