"""What an owner's run shares, so that it can be merged with others: figures, and no images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import RunFolderError, SettingsError
from repairkit.formats.documents import outputs, to_json
from repairkit.formats.run_file import RunDocument, RunFolder, RunSettings
from repairkit.formats.score_table import ScoreRow
from repairkit.jobs.runs.run_lock import locked

FEWEST = 10
HOLDS = (
    "digests of model, data and means; settings; how many images and groups there are; V(all) and "
    "V(none); a value with its interval for every filter. No image, no name of one, no place of a "
    "file, and no figure of fewer than 10 images."
)
_SETTINGS = frozenset(RunSettings.__annotations__)


@dataclass(frozen=True)
class OwnedRun:
    """A finished run: `run.json`, and the rows of `scores.csv` by filter id."""

    path: Path
    document: RunDocument
    rows: Mapping[str, ScoreRow]

    @property
    def data(self) -> tuple[str, ...]:
        """The digests of all images that the values are about."""
        merged = self.document.get("merged")
        if merged:
            return tuple(digest for part in merged for digest in part["data"])
        return (self.document["data"]["digest"],)

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.document["metrics"])

    def column(self, name: str, filters: tuple[str, ...]) -> NDArray[np.float64]:
        """A column of `scores.csv`, (n_filters,).

        Raises:
            RunFolderError: it is missing or holds something else than numbers.
        """
        try:
            return np.array([self.rows[f].number(name) for f in filters])
        except KeyError as error:
            raise RunFolderError(
                f"{self.path / 'scores.csv'}: has no numbers in the column {name!r}; score anew"
            ) from error


def read_owned(path: Path) -> OwnedRun:
    """Read a run folder, shared or not.

    Raises:
        RunFolderError: it is unfinished, broken, or of a version that told too little.
    """
    folder = RunFolder(path)
    document = folder.read()
    if not document["finished"]:
        raise RunFolderError(f"{path}: holds an unfinished run; go on with it first (--resume)")
    if "counts" not in document or not document["metrics"]:
        raise RunFolderError(
            f"{path}: does not say how many images its values are about; score the model again "
            "with this version"
        )
    return OwnedRun(path, document, {row.filter: row for row in folder.read_rows()})


def share(run: Path, out: Path) -> None:
    """Write a run folder that may leave its owner; see `HOLDS`.

    Raises:
        SettingsError: a metric counts so few images that its value would tell of single ones.
        RunFolderError: the run is unfinished, or `out` cannot be written.
    """
    owned = read_owned(run)
    check_shareable(owned.document)
    # What the record does not declare may tell more than `HOLDS` does.
    settings = {n: v for n, v in owned.document["settings"].items() if n in _SETTINGS}
    document = {
        **owned.document,
        "model": {**owned.document["model"], "path": ""},
        "data": {**owned.document["data"], "path": ""},
        "settings": settings,
        "parts": {**owned.document["parts"], "how": ""},
        "notes": [],
        "shared": HOLDS,
    }
    for name in ("statistics", "again"):
        document.pop(name, None)
    check_share_place(out)
    with locked(out), outputs(out) as drafts:
        drafts.write(out / "scores.csv", RunFolder(run).scores_file.read_bytes())
        drafts.write(out / "run.json", to_json(document).encode())


def check_share_place(out: Path) -> None:
    """Before anything is computed: what is shared may replace what was shared before alone.

    Raises:
        RunFolderError: something else is there.
    """
    if out.exists() and not (out.is_dir() and _is_ours(out)):
        raise RunFolderError(f"{out}: exists and was not written by --share; choose another place")


def check_shareable(document: RunDocument) -> None:
    """Refuse values that would tell of single images.

    Raises:
        SettingsError: a metric counts fewer than `FEWEST`.
    """
    counts = {**document["counts"]["groups"], **document["counts"]["metrics"]}
    counts["selection"] = document["parts"]["selection"]
    for name, count in counts.items():
        if count is not None and count < FEWEST:
            raise SettingsError(
                f"{name} counts {count} images, and values of fewer than {FEWEST} would tell of "
                "single ones; give more images, or leave out --share"
            )


def _is_ours(out: Path) -> bool:
    folder = RunFolder(out)
    if folder.is_free():
        return True
    return folder.run_file.is_file() and "shared" in folder.read()
