"""Runs on disk: written to a temporary name and renamed, so that a killed run can go on.

The file is a zip, uncompressed: `checkpoint.json`, a tree of the run's attributes, and a member per
array. What the run was given and did not learn (the game's facts, the estimator's settings) is not
stored: a freshly started run has it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from repairkit.core.errors import RunFolderError
from repairkit.core.game import GameFacts
from repairkit.core.process.text import first_line
from repairkit.core.process.writing import together
from repairkit.core.scores import Estimator, Run, Spent
from repairkit.estimators.driving.encoding import Decoder, Encoder, Tree, dataclass_types, name_of

_FORMAT = "repairkit checkpoint 1"
_TREE = "checkpoint.json"
_EARLIER_MODULES = {
    "GameFacts": "repairkit.core.game",
    "ImagePool": "repairkit.core.game",
    "Auto": "repairkit.estimators.auto",
    "Exact": "repairkit.estimators.exact",
    "LeaveOneOut": "repairkit.estimators.leave_one_out",
    "Marginals": "repairkit.estimators.marginals",
    "Permutation": "repairkit.estimators.permutation",
    "RandomScores": "repairkit.estimators.random_scores",
    "Regression": "repairkit.estimators.regression",
    "RepairRegression": "repairkit.estimators.regression",
    "Tmab": "repairkit.estimators.tmab",
}


@dataclasses.dataclass(frozen=True)
class CheckpointStore:
    """One checkpoint at `path`, renewed every `every_seconds`.

    A user's own run names dataclasses that it does not hold from its start in a class attribute
    `stored_types`.
    """

    path: Path
    every_seconds: float = 5.0

    def save(self, run: Run, spent: Spent, key: str) -> None:
        """Replace the checkpoint, whole or not at all.

        Raises:
            RunFolderError: the file cannot be written.
            TypeError: the run holds what a checkpoint cannot, such as two classes of one name.
        """
        learnt, encoder = _learnt(run), Encoder()
        _types(run, learnt)  # refuses two of one name
        tree = {name: encoder.encode(value) for name, value in learnt.items()}
        document = {
            "format": _FORMAT,
            "key": key,
            "spent": dataclasses.asdict(spent),
            "generators": encoder.generators,
            "run": tree,
        }
        try:
            with together() as drafts, drafts.open(self.path) as file:
                _write(file, json.dumps(document), encoder.blobs)
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: cannot be written ({error.strerror or error}); free space or "
                "choose another place"
            ) from error

    def load(self, run: Run, key: str, earlier_key: str | None = None) -> Spent | None:
        """Bring a freshly started run to where the checkpoint left it; None without a checkpoint.

        Args:
            run: just started.
            key: of `settings_key`.
            earlier_key: of `earlier_settings_key`, under which older checkpoints were written.

        Raises:
            RunFolderError: the file is damaged, or was written with other settings.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                document, blobs = _read(archive)
            if document["format"] == _FORMAT and document["key"] not in (key, earlier_key):
                raise RunFolderError(
                    f"{self.path}: belongs to a run with other settings, another seed or another "
                    "game; repeat those, or delete it to start again"
                )
            learnt, spent = _restore(run, document, blobs)
        except FileNotFoundError:
            return None
        except RunFolderError:
            raise
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: cannot be read ({error.strerror or error}); choose another place"
            ) from error
        except Exception as error:
            # A damaged file can fail in any of a dozen ways.
            raise RunFolderError(
                f"{self.path}: cannot be read as a checkpoint ({first_line(error)}); delete it to "
                "start again"
            ) from error
        vars(run).update(learnt)
        return spent


def settings_key(
    estimator: Estimator,
    facts: GameFacts,
    seed: int,
    *,
    names: Callable[[type], str] = name_of,
) -> str:
    """A digest of all that the course of a run depends on.

    Settings of an unknown kind count by their type alone.

    Args:
        estimator: the settings.
        facts: of the game.
        seed: of the run.
        names: by which name types count.
    """
    encoder = Encoder(names)
    settings = {}
    for name, value in _attributes(estimator).items():
        try:
            settings[name] = encoder.encode(value)
        except TypeError:
            settings[name] = names(type(value))
    tree = [names(type(estimator)), settings, encoder.encode(facts), seed]
    digest = hashlib.sha256(json.dumps([tree, encoder.generators], sort_keys=True).encode())
    for blob in encoder.blobs:
        digest.update(blob)
    return digest.hexdigest()


def earlier_settings_key(estimator: Estimator, facts: GameFacts, seed: int) -> str:
    """The key that checkpoints had while types still counted by their modules too."""
    return settings_key(estimator, facts, seed, names=_earlier_name)


def _earlier_name(kind: type) -> str:
    """A type's name with the module in which it stood when keys named modules."""
    module = kind.__module__
    if module.startswith("repairkit."):
        module = _EARLIER_MODULES.get(kind.__name__, module)
    return f"{module}.{kind.__qualname__}"


def _attributes(estimator: Estimator) -> dict[str, object]:
    if dataclasses.is_dataclass(estimator) and not isinstance(estimator, type):
        return {f.name: getattr(estimator, f.name) for f in dataclasses.fields(estimator)}
    return dict(getattr(estimator, "__dict__", {}))


def _learnt(run: Run) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(run).items()
        if not isinstance(value, GameFacts) and not hasattr(value, "start")
    }


def _types(run: Run, learnt: Mapping[str, object]) -> dict[str, type]:
    """The dataclasses that a checkpoint of a run may hold, by name."""
    return dataclass_types(learnt.values(), getattr(type(run), "stored_types", ()))


def _write(file: BinaryIO, tree: str, blobs: list[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_TREE), tree)
        for index, blob in enumerate(blobs):
            archive.writestr(zipfile.ZipInfo(str(index)), blob)


def _read(archive: zipfile.ZipFile) -> tuple[Tree, list[bytes]]:
    # A compressed member could be a bomb; ours are as large as the file.
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise ValueError("it is compressed")
    if (
        sum(member.file_size for member in archive.infolist())
        > Path(archive.filename or "").stat().st_size
    ):
        raise ValueError("its parts overlap")
    document = json.loads(archive.read(_TREE))
    blobs = [archive.read(str(index)) for index in range(len(archive.namelist()) - 1)]
    return document, blobs


def _restore(run: Run, document: Tree, blobs: list[bytes]) -> tuple[dict[str, object], Spent]:
    """What the run had learnt and spent, checked against the fresh run."""
    if document["format"] != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT!r}")
    fresh = _learnt(run)
    decoder = Decoder(blobs, document["generators"], _types(run, fresh))
    learnt = {name: decoder.decode(tree) for name, tree in document["run"].items()}
    if learnt.keys() != fresh.keys():
        raise ValueError("it holds a run of another kind")
    for name, value in fresh.items():
        _check_alike(name, value, learnt[name])
    spent = document["spent"]
    rounds, evaluations, passes = (
        int(spent[name]) for name in ("rounds", "evaluations", "image_passes")
    )
    return learnt, Spent(rounds, evaluations, passes, float(spent["seconds"]))


def _check_alike(name: str, fresh: object, restored: object) -> None:
    if fresh is None or restored is None:
        return
    alike = type(fresh) is type(restored)
    if isinstance(fresh, np.ndarray) and isinstance(restored, np.ndarray):
        alike = fresh.dtype == restored.dtype and fresh.ndim == restored.ndim
    if not alike:
        raise ValueError(f"its {name} is of another kind than the run's")
