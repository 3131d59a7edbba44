"""A run folder: `run.json`, `scores.csv`, `checkpoint` and maybe `statistics.json` of a scoring."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import RunFolderError
from repairkit.core.filters import Filter, Roster
from repairkit.core.layer_map import LayerMap
from repairkit.core.process.text import from_cell
from repairkit.core.process.writing import is_draft
from repairkit.core.scores import Scores
from repairkit.formats.documents import outputs, read_json, to_json, write_json
from repairkit.formats.score_table import scores_csv
from repairkit.jobs.runs.part_records import are_other_parts, options_in_words, parts_in_words
from repairkit.jobs.runs.run_lock import LOCK

SCHEMA = 1
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "key": str,
    "finished": bool,
    "metrics": dict,
    "model.path": str,
    "model.digest": str,
    "data.path": str,
    "data.digest": str,
    "n_filters": int,
    "parts": dict,
    "settings.metrics": list,
    "settings.method": str,
    "settings.estimator": dict,
}
_NEEDED_IN_THE_END: dict[str, type | tuple[type, ...]] = {
    "interval": str,
    "confidence": (int, float),
    "adds_up": bool,
    "decided": bool,
    "n_undecided": int,
    "reason": str,
    **{f"parts.{name}": int for name in ("calibration", "selection", "test")},
    **dict.fromkeys(("evaluations", "image_passes", "seconds"), (int, float)),
}
_SETTINGS = (
    "groups",
    "preprocessing",
    "parts",
    "seed",
    "output",
    "sites_at",
    "include",
    "absent",
)


@dataclass(frozen=True)
class RunFolder:
    """Where one scoring keeps its files."""

    path: Path

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.csv"

    @property
    def statistics_file(self) -> Path:
        return self.path / "statistics.json"

    @property
    def heartbeat_file(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    def claim(self, run: Mapping[str, Any], *, resume: bool) -> None:
        """Make sure that the folder is free for a run, or holds it already.

        Args:
            run: its `run.json` as it stands before anything is estimated.
            resume: whether an unfinished run may be there.

        Raises:
            RunFolderError: it holds another model's run, an unfinished run that was not asked
                to be resumed, something else altogether, or nothing to resume.
        """
        self.check_free(resume=resume)
        if not self.run_file.is_file():
            return
        known = self.read()
        if known["model"]["digest"] != run["model"]["digest"]:
            raise RunFolderError(
                f"{self.path}: holds a run of another model ({known['model']['path']}); choose "
                "another place with -o"
            )
        if known["key"] != run["key"] and are_other_parts(known, run):
            raise RunFolderError(
                f"{self.path}: holds a run with other parts ({parts_in_words(known)}); repeat them"
                f"{options_in_words(known)}; or choose another place with -o"
            )
        if known["key"] != run["key"]:
            raise RunFolderError(
                f"{self.path}: holds a run with other settings or data; repeat its settings (see "
                "run.json), or choose another place with -o"
            )
        if not resume and not known["finished"]:
            raise RunFolderError(
                f"{self.path}: holds an unfinished run; go on with --resume, or choose another "
                "place with -o"
            )

    def check_free(self, *, resume: bool) -> None:
        """Make sure that nothing but a run is in the folder.

        Raises:
            RunFolderError: something else is there, or there is nothing to resume.
        """
        if self.run_file.is_file():
            return
        if os.path.lexists(self.path) and not self.is_free():
            raise RunFolderError(
                f"{self.path}: exists and is no run folder; choose another place with -o"
            )
        if resume:
            raise RunFolderError(
                f"{self.path}: holds no run to resume; leave --resume out to start one"
            )

    def is_free(self) -> bool:
        """Whether nothing is there but a lock and what a killed process left of its first file."""
        return self.path.is_dir() and all(
            is_draft(path) or path.name == LOCK for path in self.path.iterdir()
        )

    def check_writable(self) -> None:
        """Before anything is computed: what comes of it can be written.

        Raises:
            RunFolderError: the folder, or the one that it is to be made in, takes no file.
        """
        place = self.path
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            with TemporaryFile(dir=place) as file:
                file.write(b"-")
                file.flush()
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: cannot be written ({error.strerror or error}); free space or choose "
                "another place with -o"
            ) from error

    def sweep(self) -> None:
        """Remove drafts that a killed process left."""
        for path in filter(is_draft, self.path.iterdir()):
            with suppress(OSError):
                path.unlink()

    def check_values(self, ends: Mapping[str, Any]) -> None:
        """Make sure that a run that is there was about the same V(all) and V(none).

        Raises:
            RunFolderError: the metric, the runtime or the device gives other figures by now.
        """
        if not self.run_file.is_file():
            return
        known = self.read()["metrics"]
        if known != ends:
            raise RunFolderError(
                f"{self.path}: holds a run in which V(all) and V(none) were {known} and not "
                f"{dict(ends)}: the metric, the runtime or the device has changed; choose another "
                "place with -o"
            )

    def read(self) -> dict[str, Any]:
        """The contents of `run.json`.

        Raises:
            RunFolderError: it is missing or not what this version writes.
        """
        document = read_json(self.run_file, "a run")
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise RunFolderError(
                f"{self.run_file}: is not a run of this version (schema {SCHEMA} was expected)"
            )
        fault = _fault(document)
        if fault:
            raise RunFolderError(
                f"{self.run_file}: cannot be read as a run ({fault}); score the model again"
            )
        return document

    def before(self) -> dict[str, Any]:
        """What `run.json` says of an unfinished run, or of a finished one that may go on."""
        return self.read() if self.run_file.is_file() else {}

    def starts_anew(self, document: Mapping[str, Any]) -> bool:
        """Whether the run that is there was finished by another method, or on fewer images.

        Other limits made it so. Nothing of it can be gone on from: its checkpoint is removed.
        """
        known = self.before()
        if not known.get("finished") or "taken" not in known:
            return False
        if all(known.get(name) == document[name] for name in ("taken", "scored_on")):
            return False
        self.checkpoint.unlink(missing_ok=True)
        return True

    def read_metrics(self) -> list[str]:
        """The metrics that were scored, the one that steered first."""
        return list(self.read()["settings"]["metrics"])

    def write(self, document: Mapping[str, Any]) -> None:
        write_json(self.run_file, dict(document))

    def write_result(
        self,
        document: Mapping[str, Any],
        scores: Scores,
        roster: Roster,
        layers: LayerMap | None = None,
        *,
        without: Collection[int] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what a finished run leaves, together; `run.json` comes last."""
        table = scores_csv(scores, roster.filters, layers, without=without)
        with outputs(self.path) as drafts:
            drafts.write(self.scores_file, table.encode())
            if details:
                drafts.write(self.statistics_file, to_json(dict(details)).encode())
            drafts.write(self.run_file, to_json(dict(document)).encode())

    def read_rows(self) -> list[dict[str, str]]:
        """The rows of `scores.csv` in rank order, with filters by their ids.

        Raises:
            RunFolderError: the file is missing or broken, or lacks filters that were ranked.
        """
        run = self.read()
        try:
            with self.scores_file.open(encoding="utf-8", newline="") as file:
                rows = [{**row, "filter": from_cell(row["filter"])} for row in csv.DictReader(file)]
        except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
            raise unreadable(self.scores_file, error) from error
        left_out = run.get("excluded", {}).get("filters", [])
        expected, found = run["n_filters"] - len(left_out), {row["filter"] for row in rows}
        if not len(rows) == len(found) == expected:
            raise RunFolderError(
                f"{self.scores_file}: has {len(rows)} rows about {len(found)} filters, and "
                f"{expected} were ranked; score the model again"
            )
        return rows

    def read_values(self, roster: Roster, column: str = "value") -> NDArray[np.float64]:
        """A column (the first metric's value) for every filter; NaN where it was not scored.

        Raises:
            RunFolderError: the file is missing or broken.
            SettingsError: it names a filter that the model does not have.
        """
        values = np.full(len(roster), np.nan)
        for row in self.read_rows():
            player = roster.column(Filter.parse(row["filter"]))
            try:
                values[player] = float(row[column])
            except (KeyError, ValueError, TypeError) as error:
                raise unreadable(self.scores_file, error) from error
        return values


def unreadable(path: Path, error: Exception) -> RunFolderError:
    """What is said where scores cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else error
    return RunFolderError(f"{path}: cannot be read as scores ({reason}); score the model again")


def _fault(document: Mapping[str, Any]) -> str:
    """What a run lacks of that which others read in it; empty where nothing."""
    needed = _NEEDED | (_NEEDED_IN_THE_END if document.get("finished") is True else {})
    for path, kind in needed.items():
        value: Any = document
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            return f"{path} is missing or no {' or '.join(k.__name__ for k in kinds)}"
    settings = document["settings"]
    if not settings["metrics"] or not all(isinstance(m, str) for m in settings["metrics"]):
        return "settings.metrics names no metric"
    excluded = document.get("excluded", {})
    if not isinstance(excluded, dict) or not isinstance(excluded.get("filters", []), list):
        return "excluded holds no list of filters"
    missing = [name for name in _SETTINGS if name not in settings]
    return f"settings.{missing[0]} is missing" if missing else ""


def key_of(parts: Mapping[str, Any]) -> str:
    """A digest of everything that the result of a run depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
