"""Where outputs go, what must not be lost there, and how they name the paths of a job.

Only files that repairkit wrote are replaced. It knows them by their content, not by their name: a
JSON document by its `kind`, a page by its generator, a patched model by its claims, an exported one
by its map of layers, a model card by a digest of its text (one that was edited is the user's). All
of this is checked before anything is computed, and once more before writing.
"""

from __future__ import annotations

import json
import os
import re
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from onnx import ModelProto

from repairkit.core.errors import RepairkitError, RunFolderError, SettingsError
from repairkit.formats.documents import read_json
from repairkit.formats.provenance import statement_file
from repairkit.graph import metadata
from repairkit.graph.stored.model_files import ModelFile, read_model
from repairkit.report.model_card import is_own_card
from repairkit.report.records import bill

INSTRUMENTED = "repairkit.instrumented"
"""The metadata entry of a model that `instrument` wrote."""

_START = 2000  # bytes
_MOST_TEXT = 1 << 20  # bytes
_PAGE = b'content="repairkit"'
_DEVICES = ("/dev", "/proc", "/sys")
# What a path may stand between; a longer path may hold the same names.
_BEFORE = r"(?<![^\s\"'`(\[{<=,:;])"
_BEHIND = r"(?![^\s\"'`)\]}>,:;])"


@dataclass(frozen=True, kw_only=True)
class Companions:
    """The files beside a patched model; all are written, or none."""

    patch_file: Path
    report: Path
    page: Path
    card: Path
    change: Path
    bill: Path
    statement: Path

    @classmethod
    def of(cls, out: Path) -> Companions:
        """The companions of a model at `out`."""

        def beside(ending: str) -> Path:
            return out.with_name(f"{out.stem}{ending}")

        return cls(
            patch_file=beside(".patch.json"),
            report=beside(".report.json"),
            page=beside(".report.html"),
            card=beside(".model-card.md"),
            change=beside(".change.html"),
            bill=beside(".cdx.json"),
            statement=beside(".intoto.json"),
        )

    def check(self, source_digest: str) -> None:
        """Find out whether all may be written.

        Args:
            source_digest: of the model that is repaired: its own patch file must stay.

        Raises:
            RunFolderError: a file that repairkit did not write is there, or one cannot be replaced.
        """
        check_replaced(self.patch_file, _kind("repairkit patch"), "patch file")
        check_replaced(self.report, _kind("repairkit report"), "report of repairkit's")
        check_replaced(self.page, _PAGE, "page of repairkit's")
        check_replaced(self.change, _PAGE, "page of repairkit's")
        check_replaced(self.bill, bill.MARK, "bill of materials of repairkit's")
        check_replaced(self.statement, statement_file.MARK, "statement of repairkit's")
        if is_file(self.card) and not is_card_as_written(self.card):
            raise _in_the_way(self.card, "model card as repairkit wrote it")
        if self.patch_file.exists() and _result_digest(self.patch_file) == source_digest:
            raise RunFolderError(
                f"{self.patch_file}: exists and is the patch file of the model that is repaired, "
                "which alone can undo that patch; choose another name with -o"
            )


def is_card_as_written(card: Path) -> bool:
    """Whether nobody edited a model card since repairkit wrote it."""
    return is_own_card(_text(card))


def check_place(source: ModelFile, data: Path | None, out: Path) -> None:
    """Before anything is computed: a patched model and its companions replace only their like.

    Raises:
        SettingsError: `out` is the model or the data.
        RunFolderError: something else is there, or nothing can be written.
    """
    _check_not_data(out, data)
    check_result(out, source.path)
    Companions.of(out).check(source.digest)


def check_model_place(out: Path, source: Path, data: Path | None) -> None:
    """Before anything is computed: an instrumented model replaces only an instrumented one.

    Raises:
        SettingsError: `out` is the model or the data.
        RunFolderError: something else is there, or nothing can be written.
    """
    _check_not_source(out, source)
    _check_not_data(out, data)
    _check_model(out, is_instrumented, "model that repairkit instrumented")


def check_export_place(out: Path, map_file: Path, data: Path | None, kind: str) -> None:
    """Before anything is computed: an exported model and its map replace only their like.

    Raises:
        SettingsError: `out` is the data, or no name of an ONNX file.
        RunFolderError: something else is there, or nothing can be written.
    """
    _check_not_data(out, data)
    if out.suffix.lower() != ".onnx":
        raise SettingsError(f"{out}: must end in .onnx; choose another name with -o")
    check_replaced(map_file, _kind(kind), "map of layers")
    _check_model(out, _is_exported, "model that repairkit exported")


def check_result(out: Path, source: Path) -> None:
    """Before anything is computed: a model made from `source` may replace patched ones alone.

    Raises:
        SettingsError: `out` is `source`.
        RunFolderError: something else is there, or nothing can be written.
    """
    _check_not_source(out, source)
    _check_model(out, _is_patched, "model that repairkit patched")


def check_attack_place(out: Path, data: Path | None) -> None:
    """Before anything is computed: an attack's file replaces only an attack's file.

    Raises:
        SettingsError: `out` is the data.
        RunFolderError: something else is there, or nothing can be written.
    """
    if out.suffix != ".npz":
        raise RunFolderError(f"{out}: an attack writes an .npz; end the name given to -o in .npz")
    _check_not_data(out, data)
    if is_file(out) and not _is_attack(out):
        raise _in_the_way(out, "file of repairkit attack")
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
    if not is_file(path):
        return
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror or error})") from error
    if start and mark not in start:
        raise _in_the_way(path, what)


def is_file(path: Path) -> bool:
    """Whether a file is at the place of an output; if so, it may be written.

    Raises:
        RunFolderError: something is there that no file should replace.
    """
    folder = path.absolute().parent
    in_memory = folder.is_relative_to("/dev/shm")
    if any(folder.is_relative_to(place) for place in _DEVICES) and not in_memory:
        raise RunFolderError(
            f"{path}: cannot be written: its folder holds devices; give another place"
        )
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise RunFolderError(
                f"{path}: exists and is a link that leads nowhere; remove it, or choose another "
                "place"
            ) from None
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunFolderError(f"{path}: cannot be used ({reason}); choose another place") from error
    if stat.S_ISDIR(status.st_mode):
        raise RunFolderError(f"{path}: is a folder; give the name of a file")
    if not stat.S_ISREG(status.st_mode):
        raise RunFolderError(f"{path}: is a pipe or a device; give the name of a file")
    if not status.st_mode & 0o222:
        raise RunFolderError(
            f"{path}: exists and is read-only; allow writing (chmod u+w), or choose another place"
        )
    return True


def probe(out: Path) -> None:
    """Check that a file can be written there; a missing folder is made.

    Raises:
        RunFolderError: it cannot.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent) as file:
            file.write(b"-")
            file.flush()
    except OSError as error:
        raise RunFolderError(
            f"{out}: cannot be written ({error.strerror or error}); free space or choose another "
            "place with -o"
        ) from error


def is_instrumented(model: ModelProto) -> bool:
    """Whether `instrument` wrote a model."""
    return any(entry.key == INSTRUMENTED for entry in model.metadata_props)


def _is_exported(model: ModelProto) -> bool:
    exported = any(entry.key == metadata.LAYERS_KEY for entry in model.metadata_props)
    return exported and not is_instrumented(model) and not metadata.read_claims(model)


def _is_patched(model: ModelProto) -> bool:
    return bool(metadata.read_claims(model)) and not is_instrumented(model)


def _is_attack(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("attack.npy").file_size > _MOST_TEXT:
                return False
            with archive.open("attack.npy") as member:
                text = str(np.lib.format.read_array(member, allow_pickle=False))
        record = json.loads(text)
    except (OSError, ValueError, LookupError, EOFError, MemoryError, RecursionError):
        return False
    except zipfile.BadZipFile:
        return False
    return isinstance(record, dict) and record.get("kind") == "repairkit attack"


def _check_model(out: Path, ours: Callable[[ModelProto], bool], what: str) -> None:
    if is_file(out):
        try:
            replaceable = ours(read_model(out).model)
        except RepairkitError:
            replaceable = False
        if not replaceable:
            raise _in_the_way(out, what)
    probe(out)


def _check_not_source(out: Path, source: Path) -> None:
    if out.exists() and out.samefile(source):
        raise SettingsError(f"{out}: exists and is the model itself; choose another place with -o")


def _check_not_data(out: Path, data: Path | None) -> None:
    if data is not None and out.exists() and data.exists() and out.samefile(data):
        raise SettingsError(f"{out}: exists and is the data; choose another place with -o")


def _in_the_way(path: Path, what: str) -> RunFolderError:
    return RunFolderError(
        f"{path}: exists and is no {what}; move it away, or choose another place with -o"
    )


def _kind(name: str) -> bytes:
    return f'"kind": {json.dumps(name)}'.encode()


def _text(path: Path) -> str:
    """The text of a card; a question mark if the file cannot be a card."""
    try:
        if path.stat().st_size > _MOST_TEXT or not os.access(path, os.R_OK):
            return "?"
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return "?"


def _result_digest(path: Path) -> object:
    try:
        document = read_json(path, "a patch file")
    except RunFolderError:
        return None
    result = document.get("result") if isinstance(document, dict) else None
    return result.get("digest") if isinstance(result, dict) else None


@dataclass(frozen=True)
class Places:
    """The folder in which a job runs, and the user's home; both absolute."""

    folder: Path
    home: Path

    @classmethod
    def here(cls) -> Places:
        """Those of this process. All paths are relative to these."""
        # Unlike Path.home(), this does not fail where the home is unknown.
        return cls(Path.cwd(), Path(os.path.expanduser("~")))  # noqa: PTH111 - see above

    def relative(self, path: Path) -> str:
        """A path from the folder of the job; from `~` if it is in the home and the folder is not.

        A relative path stays as it was given.
        """
        whole = Path(os.path.normpath(self.folder / path))
        if not self._inside(self.folder, self.home) and self._inside(whole, self.home):
            return f"~/{whole.relative_to(self.home).as_posix()}"
        if not path.is_absolute():
            return f"./{path}" if str(path).startswith(("~", "-")) else str(path)
        try:
            return os.path.relpath(whole, self.folder)
        except ValueError:  # on another drive
            return str(path)

    def cleaned(self, document: Any) -> Any:
        """A document of JSON without the folder of the job or the home in any of its texts."""
        if isinstance(document, str):
            return self._cleaned_text(document)
        if isinstance(document, dict):
            return {self.cleaned(name): self.cleaned(value) for name, value in document.items()}
        if isinstance(document, list | tuple):
            return [self.cleaned(value) for value in document]
        return document

    def _cleaned_text(self, text: str) -> str:
        for place, inside, itself in ((self.folder, "", "."), (self.home, "~/", "~")):
            # A root would stand in every text that holds a slash.
            if place != Path(place.anchor):
                start = f"{_BEFORE}{re.escape(str(place))}"
                text = re.sub(f"{start}{re.escape(os.sep)}", inside, text)
                text = re.sub(f"{start}{_BEHIND}", itself, text)
        return text

    @staticmethod
    def _inside(path: Path, folder: Path) -> bool:
        return folder != Path(folder.anchor) and path.is_relative_to(folder)
