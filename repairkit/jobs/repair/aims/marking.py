"""Before a choice: which images are to be fixed, and how far fixing or forgetting must get.

Images to fix are named by a column of the data, or by a list of paths or numbers. Their marks
become the column `to_fix`, so that parts and folds hold their share of them. What must be reached
is a target like that of a user: it has to hold on images that did not choose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, marked, suite
from repairkit.core.process.text import clean, counted, did_you_mean, listing
from repairkit.data import tables
from repairkit.data.dataset import Dataset
from repairkit.data.sources import manifest
from repairkit.jobs.repair import objective as goals
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.setup.preparing import prepare, read_dataset
from repairkit.jobs.setup.workbench import Bench, Settings, Subject

FEWEST = 5
"""Images that must change to the better before an exact test at 5 % calls it no chance."""

_YES, _NO = ("1", "true", "yes"), ("0", "false", "no", "")
_LISTS = (*manifest.CSV_SUFFIXES, *manifest.PARQUET_SUFFIXES)
_PATHS, _NUMBERS = ("path", "file_name"), "image"


def images_to_fix(given: str | Path) -> str | Path:
    """A path where a list of images is given, else the column as it was written."""
    return Path(given) if Path(given).suffix.lower() in _LISTS else str(given)


def prepare_marked(subject: Subject, settings: Settings, asked: PatchSettings) -> Bench:
    """A bench for a repair; images to fix are marked, where there are some.

    Raises:
        RepairkitError: see `prepare`; or the images to fix cannot be told.
    """
    if asked.fix is None:
        return prepare(subject, settings)
    dataset = read_dataset(subject, settings, regression=False)
    return prepare(subject, settings, dataset=mark(dataset, asked.fix, settings.data_file))


def mark(dataset: Dataset, fix: str | Path, source: Path | None) -> Dataset:
    """The data with the column `to_fix`.

    Args:
        dataset: as it was read.
        fix: a column, `COLUMN=VALUE`, or the path of a list of images.
        source: where the data lies; None where it lies in memory.

    Raises:
        DataError: an image is none of the data's, or none or every image is marked.
        SettingsError: the column is unknown, or does not say which images are meant.
    """
    columns = dataset.annotations.attributes
    marks = _listed(fix, dataset, source) if isinstance(fix, Path) else _by_column(fix, columns)
    if marks.all() or not marks.any():
        raise errors.DataError(
            f"--fix {fix} marks {'all' if marks.any() else 'none'} of the {len(marks):,} images; "
            "mark those that the model gets wrong, and keep others beside them"
        )
    if marked.TO_FIX in columns and fix != marked.TO_FIX:
        raise errors.SettingsError(
            f"the data has a column {marked.TO_FIX!r}, whose name is kept for the images of --fix; "
            f"use --fix {marked.TO_FIX}, or rename it"
        )
    digest = hashlib.sha256(dataset.digest.encode() + marks.tobytes()).hexdigest()
    known = replace(
        dataset.annotations, attributes={**columns, marked.TO_FIX: marks.astype(np.int64)}
    )
    return replace(dataset, annotations=known, digest=digest)


def _by_column(fix: str, columns: Mapping[str, suite.Array]) -> NDArray[np.bool_]:
    name, sign, value = (clean(part) for part in fix.partition("="))
    if name not in columns:
        known = list(columns)
        there = f"the data has {listing(known)}" if known else "the data has no further columns"
        raise errors.SettingsError(
            f"--fix {fix}: there is no column {name!r}: {there}{did_you_mean(name, known)}; name a "
            "column, COLUMN=VALUE, or a list of images (.csv)"
        )
    texts = np.array(tables.as_texts(columns[name]))
    if sign:
        if value not in texts:
            values = sorted(set(texts.tolist()))
            raise errors.SettingsError(
                f"--fix {fix}: no image has that value; {name} holds {listing(values)}"
            )
        return np.asarray(texts == value)
    lowered = np.char.lower(texts)
    odd = sorted(set(texts[~np.isin(lowered, (*_YES, *_NO))].tolist()))
    if odd:
        raise errors.SettingsError(
            f"--fix {fix}: the column holds {listing(odd)}, which is neither yes (1, true) nor no "
            f"(0, false); name the value of the images to fix, as --fix {name}={odd[0]}"
        )
    return np.isin(lowered, _YES)


def _listed(path: Path, dataset: Dataset, source: Path | None) -> NDArray[np.bool_]:
    """The images that a list names, by their paths or by their numbers."""
    table = manifest.read_table(path)
    column = next((name for name in (*_PATHS, _NUMBERS) if name in table.columns), None)
    if column is None:
        raise errors.DataError(
            f"{path}: has no column path (or {_NUMBERS}); found {listing(list(table.columns))}; "
            "list the images to fix by their paths, or by their numbers in the data"
        )
    wanted = tables.as_texts(table.columns[column])
    n_images = len(dataset.annotations)
    numbered = column == _NUMBERS
    if numbered:
        numbers = dataset.annotations.attributes.get(_NUMBERS, np.arange(n_images))
        places = _places(tables.as_texts(numbers))
    else:
        places = _places_of_paths(dataset, source)
    marks = np.zeros(n_images, bool)
    for row, text in zip(table.row_numbers, wanted, strict=True):
        found = places.get(text)
        if found is None and not numbered:
            found = places.get(str((path.parent / text).resolve()))
        if found is None:
            as_data = f"numbers from 0 to {n_images - 1}" if numbered else "paths as the data has"
            raise errors.DataError(
                f"{path}, row {row}: {text!r} is none of the {n_images:,} images of the data; give "
                f"{as_data}"
            )
        marks[found] = True
    return marks


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places


def _places_of_paths(dataset: Dataset, source: Path | None) -> dict[str, list[int]]:
    """Positions of images by their paths, as the data has them and from the root on."""
    if not dataset.paths or source is None:
        raise errors.DataError(
            "the images to fix are listed by their paths and the images of the data have none; "
            f"list them by their numbers, in a column {_NUMBERS}"
        )
    folder = source if source.is_dir() else source.parent
    whole = _places([str((folder / name).resolve()) for name in dataset.paths])
    return whole | _places(dataset.paths)


@dataclass(frozen=True)
class _Wrong:
    """How many of the images that an objective is about are there, and are answered wrongly."""

    n_images: int
    n_wrong: int

    @classmethod
    def of(cls, bench: Bench, objective: goals.Objective) -> _Wrong:
        selection = bench.parts.selection
        (metric,) = bench.metrics((objective.metric,))
        about, plain = selection.annotations, bench.working.run_plain(selection)
        counted_images = metric.weights(about) > 0
        right = metric.score(plain, about)[counted_images] > 0
        return cls(len(right), int((~right).sum()))


def with_bounds(bench: Bench, asked: PatchSettings, objective: goals.Objective) -> PatchSettings:
    """The settings with the figure that images which did not choose must reach.

    To fix: of the wrong images that are marked, the share `mend` must turn right, less those that
    turn wrong. To forget: the recall of the class may not exceed chance, 1 / number of classes.

    Raises:
        TargetNotMetError: too few images could confirm it, or there is nothing to fix or forget.
    """
    if asked.fix is None and asked.forget is None:
        return asked
    found = _Wrong.of(bench, objective)
    if asked.fix is not None:
        bound = _fixing_bound(found, asked.mend)
        target = goals.Target(objective.metric, ">=", bound)
        return replace(asked, targets=(*asked.targets, target)) if asked.mend > 0 else asked
    chance, n_right = 1.0 / bench.n_classes, found.n_images - found.n_wrong
    if n_right < FEWEST or n_right <= chance * found.n_images:
        raise errors.TargetNotMetError(
            f"no repair: the model finds {n_right} of the {found.n_images} selection images of "
            f"class {asked.forget!r}, and forgetting is confirmed from {FEWEST} on, above chance "
            f"({100 * chance:.3g} %); give more images of the class; nothing was written"
        )
    target = goals.Target(objective.metric, "<=", chance, caution=0.0)
    return replace(asked, targets=(*asked.targets, target))


def _fixing_bound(found: _Wrong, mend: float) -> float:
    """The accuracy that the images to fix must reach."""
    n_images, n_wrong = found.n_images, found.n_wrong
    if n_wrong < FEWEST:
        raise errors.TargetNotMetError(
            f"no repair: of the {counted(n_images, 'selection image')} to fix the model gets "
            f"{n_wrong} wrong, and a gain can be confirmed on images that did not choose from "
            f"{FEWEST} on; mark more of their kind, better 30; nothing was written"
        )
    return 1 - (1 - mend) * n_wrong / n_images
