"""Whether a run folder is free for a run, or holds that very run already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Any

from repairkit.core.errors import RunFolderError
from repairkit.core.process.writing import is_draft
from repairkit.formats.run_file import RunDocument, RunFolder
from repairkit.jobs.runs.part_records import are_other_parts, options_in_words, parts_in_words


def claim(folder: RunFolder, run: RunDocument, *, resume: bool) -> None:
    """Make sure that the folder is free for a run, or holds it already.

    Args:
        folder: where the run is to go.
        run: its `run.json` as it stands before anything is estimated.
        resume: whether an unfinished run may be there.

    Raises:
        RunFolderError: it holds another model's run, an unfinished run that was not asked to be
            resumed, something else altogether, or nothing to resume.
    """
    check_free(folder, resume=resume)
    known = read_earlier(folder)
    if known is None:
        return
    if known["model"]["digest"] != run["model"]["digest"]:
        raise RunFolderError(
            f"{folder.path}: holds a run of another model ({known['model']['path']}); choose "
            "another place with -o"
        )
    if known["key"] != run["key"] and are_other_parts(known, run):
        raise RunFolderError(
            f"{folder.path}: holds a run with other parts ({parts_in_words(known)}); repeat them"
            f"{options_in_words(known)}; or choose another place with -o"
        )
    if known["key"] != run["key"]:
        raise RunFolderError(
            f"{folder.path}: holds a run with other settings or data; repeat its settings (see "
            "run.json), or choose another place with -o"
        )
    if not resume and not known["finished"]:
        raise RunFolderError(
            f"{folder.path}: holds an unfinished run; go on with --resume, or choose another "
            "place with -o"
        )


def check_free(folder: RunFolder, *, resume: bool) -> None:
    """Make sure that nothing but a run is in the folder.

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


def check_writable(folder: RunFolder) -> None:
    """Before anything is computed: what comes of it can be written.

    Raises:
        RunFolderError: the folder, or the one that it is to be made in, takes no file.
    """
    place = folder.path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with TemporaryFile(dir=place) as file:
            file.write(b"-")
            file.flush()
    except OSError as error:
        raise RunFolderError(
            f"{folder.path}: cannot be written ({error.strerror or error}); free space or choose "
            "another place with -o"
        ) from error


def sweep(folder: RunFolder) -> None:
    """Remove drafts that a killed process left."""
    for path in filter(is_draft, folder.path.iterdir()):
        with suppress(OSError):
            path.unlink()


def read_earlier(folder: RunFolder) -> RunDocument | None:
    """The run that is there, unfinished, or finished and to go on; None where there is none."""
    return folder.read() if folder.run_file.is_file() else None


def check_values(folder: RunFolder, ends: Mapping[str, Any]) -> None:
    """Make sure that a run that is there was about the same V(all) and V(none).

    Raises:
        RunFolderError: the metric, the runtime or the device gives other figures by now.
    """
    known = read_earlier(folder)
    if known is not None and known["metrics"] != ends:
        raise RunFolderError(
            f"{folder.path}: holds a run in which V(all) and V(none) were {known['metrics']} and "
            f"not {dict(ends)}: the metric, the runtime or the device has changed; choose another "
            "place with -o"
        )


def starts_anew(folder: RunFolder, run: RunDocument) -> bool:
    """Whether the run that is there was finished by another method, or on fewer images.

    Other limits made it so. It cannot be continued: its checkpoint is removed.
    """
    known = read_earlier(folder)
    if known is None or not known["finished"] or "taken" not in known:
        return False
    if known["taken"] == run.get("taken") and known.get("scored_on") == run.get("scored_on"):
        return False
    folder.checkpoint.unlink(missing_ok=True)
    return True
