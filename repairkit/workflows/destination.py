"""Where a patched model goes, and what must not be lost there."""

from __future__ import annotations

from pathlib import Path

from repairkit.core.errors import RepairkitError, RunFolderError, SettingsError
from repairkit.graph.files import read_model
from repairkit.graph.revert import read_claims
from repairkit.workflows.files import write_text
from repairkit.workflows.settings import Settings
from repairkit.workflows.subject import Subject

_START = 2000  # bytes


def check_place(subject: Subject, settings: Settings, out: Path) -> None:
    """Before anything is computed: the result must not replace what repairkit did not write.

    Raises:
        SettingsError: `out` is the model or the data.
        RunFolderError: something else is there, or nothing can be written.
    """
    data = settings.data
    if data is not None and out.exists() and data.exists() and out.samefile(data):
        raise SettingsError(f"{out}: is the data; choose another place with -o")
    check_result(out, subject.file.path)
    for path in companions(out):
        if path.is_dir():
            raise RunFolderError(f"{path}: is a folder and in the way of the patch file or report")


def check_model_place(out: Path, subject: Subject, data: Path | None) -> None:
    """Before anything is computed: a model may replace neither model, data nor other kinds of file.

    Raises:
        SettingsError: `out` is the model or the data.
        RunFolderError: something that is no ONNX file is there, or nothing can be written.
    """
    if out.exists() and out.samefile(subject.file.path):
        raise SettingsError(f"{out}: is the model itself; choose another place with -o")
    if data is not None and out.exists() and data.exists() and out.samefile(data):
        raise SettingsError(f"{out}: is the data; choose another place with -o")
    if out.exists() and not (out.is_file() and out.suffix.lower() == ".onnx"):
        raise RunFolderError(f"{out}: exists and is no ONNX file; choose another place with -o")
    probe(out)


def check_result(out: Path, source: Path) -> None:
    """Before anything is computed: a model made from `source` may replace patched ones alone.

    Raises:
        SettingsError: `out` is `source`.
        RunFolderError: something else is there, or nothing can be written.
    """
    if out.exists() and out.samefile(source):
        raise SettingsError(f"{out}: is the model itself; choose another place with -o")
    if out.is_dir():
        raise RunFolderError(f"{out}: is a folder; give the name of a file with -o")
    if out.exists() and not _is_ours(out):
        raise RunFolderError(
            f"{out}: exists and is no model that repairkit patched; choose another place with -o"
        )
    probe(out)


def check_replaced(path: Path, mark: bytes, what: str) -> None:
    """A file may replace, or be added to, one that repairkit wrote, and nothing else.

    Args:
        path: where the file is to go.
        mark: what stands near the start of such a file.
        what: what such a file is, for the user.

    Raises:
        RunFolderError: something else is there.
    """
    if path.is_dir():
        raise RunFolderError(f"{path}: is a folder; give the name of a file")
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror or error})") from error
    if start and mark not in start:
        raise RunFolderError(f"{path}: exists and is no {what}; choose another place")


def probe(out: Path) -> None:
    """Find out whether a file can be written there; its folder is made where it is missing.

    Raises:
        RunFolderError: it cannot.
    """
    trial = out.with_name(f".{out.name}.probe")
    write_text(trial, "")
    trial.unlink()


def _is_ours(path: Path) -> bool:
    try:
        return bool(read_claims(read_model(path).model))
    except RepairkitError:
        return False


def companions(out: Path) -> tuple[Path, Path]:
    """The patch file and the report of a patched model."""
    return out.with_name(f"{out.stem}.patch.json"), out.with_name(f"{out.stem}.report.json")
