"""Whether a place is free for a run folder, and a lock for one writer at a time.

The operating system locks the file `lock` in the folder, and frees it as soon as its process ends,
for whatever reason. The file says who holds it. Reading a folder takes no lock, for
every file in it appears whole.
"""

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
from repairkit.core.process import text, writing
from repairkit.formats.run_file import LOCK, RunFolder

logger = logging.getLogger(__name__)
_MOST_BYTES = 1000
_TRIES = 20
_FAR = 1 << 20
_OPEN = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# A file system that knows no locks answers so.
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def check_free(folder: RunFolder, *, resume: bool) -> None:
    """Check that the folder holds nothing but a run.

    Raises:
        RunFolderError: something else is there, or there is nothing to resume.
    """
    if folder.run_file.is_file():
        return
    if os.path.lexists(folder.path) and not folder.is_free():
        raise RunFolderError(
            f"{folder.path}: exists and is no run folder; choose another place with -o"
        )
    if resume:
        raise RunFolderError(
            f"{folder.path}: holds no run to resume; leave --resume out to start one"
        )


def sweep(folder: RunFolder) -> None:
    """Remove drafts that a killed process left."""
    for path in filter(writing.is_draft, folder.path.iterdir()):
        with suppress(OSError):
            path.unlink()


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # the module is missing there


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside this context, no other process writes into a run folder. A missing folder is made.

    A lock that a dead process left is taken over with a warning. Folders that were made here are
    removed again if they are still empty.

    Args:
        folder: a run folder, or a place where one may be made; the caller has checked that.

    Raises:
        RunFolderError: another process holds the lock, or the folder cannot be written.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with _holding(folder / LOCK, folder, "-o"):
            yield
    finally:
        with suppress(OSError):  # something was put into one of them
            for place in made:
                place.rmdir()


@contextmanager
def locked_file(path: Path, option: str) -> Iterator[None]:
    """Inside this context, no other process writes a file. Its folder is made where it is missing.

    Args:
        path: the file, which need not be there; the lock lies beside it, as `NAME.lock`.
        option: with which the user names another place.

    Raises:
        RunFolderError: another process holds the lock, or the folder cannot be written.
    """
    with _holding(path.with_name(f"{path.name}.lock"), path, option):
        yield


@contextmanager
def _holding(lock: Path, claimed: Path, option: str) -> Iterator[None]:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _take(lock, claimed, option)
    except OSError as error:
        raise RunFolderError(
            f"{claimed}: cannot be written ({error.strerror or error}); free space or choose "
            f"another place with {option}"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(file, 0)
            # Removed while it is held: a process that opened it before sees that, and tries anew.
            lock.unlink()
        os.close(file)


def _take(lock: Path, claimed: Path, option: str) -> int:
    """The open file of the lock, which this process now holds."""
    for _ in range(_TRIES):
        file = os.open(lock, _OPEN, 0o666)
        try:
            held, before = _hold(file), _read(file, lock, option)
            if held is False or (held is None and _may_live(before)):
                who = "another process" if before is None else str(before)
                # The system's lock is that of a living process; a file may be of a dead one.
                doubt = "" if held is False else f" (if it is gone for sure, remove {lock})"
                raise RunFolderError(
                    f"{claimed}: {who} is writing into it; wait for it or stop it, or choose "
                    f"another place with {option}{doubt}"
                )
            if _is_still_there(file, lock):
                if before:
                    logger.warning("%s: took over the lock of %s, which is gone", claimed, before)
                me = {"process": os.getpid(), "host": platform.node(), "since": _now()}
                os.ftruncate(file, 0)
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, json.dumps(me).encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    raise RunFolderError(
        f"{claimed}: others take its lock all the time; choose another with {option}"
    )


def _hold(file: int) -> bool | None:
    """Whether the lock was taken; None if the file system has no locks."""
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
        return text.printable(f"process {self.process} on {self.host} (since {self.since})")


def _read(file: int, lock: Path, option: str) -> Holder | None:
    """The holder that the lock file names; None if the file is empty.

    Raises:
        RunFolderError: it is another file.
    """
    os.lseek(file, 0, os.SEEK_SET)
    content = os.read(file, _MOST_BYTES).strip(b"\0 ")
    if not content:
        return None
    try:
        entry = json.loads(content)
        return Holder(int(entry["process"]), str(entry["host"]), str(entry["since"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RunFolderError(
            f"{lock}: exists and is no lock of repairkit's; remove it, or choose another place "
            f"with {option}"
        ) from None


def _may_live(holder: Holder | None) -> bool:
    """Whether the holder may still run, on a file system without locks; always on other hosts."""
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
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(file)
    return (status.st_dev, status.st_ino) == (ours.st_dev, ours.st_ino)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
