"""What filters are worth for each class and each group: from a run's metrics, or its kept rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors
from repairkit.core.process.stages import stage
from repairkit.core.suite import Annotations
from repairkit.formats import rows_file, run_file
from repairkit.formats.looks import atlas_file as file
from repairkit.jobs.ask.replay import Replay
from repairkit.metrics import catalogue, image_metrics

_MOST = 40
_NORMAL_95 = 1.959963984540054
_KINDS: dict[str, file.PartOf] = {
    image_metrics.RECALL.name: "class",
    image_metrics.ACCURACY_OF_GROUP.name: "group",
}
HOW_TO_KNOW = (
    "score with --metric 'recall:*' or --metric 'group_accuracy:*' beside the other metrics, or "
    "with --keep-rows"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueColumn:
    """Values of all filters for the images of one class or group.

    Attributes:
        kind: `class` or `group`.
        name: of the class or group.
        n_images: None where the run does not say.
        values: what each filter adds to the accuracy on these images, (n_filters,).
        errors: standard errors, (n_filters,); infinite where not known.
    """

    kind: file.PartOf
    name: str
    n_images: int | None
    values: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def images(self) -> file.SetOfImages:
        """What the values are about."""
        return {"kind": self.kind, "name": self.name, "n_images": self.n_images}

    def figure(self, number: int) -> file.AtlasFigure:
        """The value of a filter with its 95 % interval, which holds for itself alone."""
        value, reach = float(self.values[number]), _NORMAL_95 * float(self.errors[number])
        known = math.isfinite(reach)
        return {
            "value": value if math.isfinite(value) else None,
            "ci_low": value - reach if known else None,
            "ci_high": value + reach if known else None,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class ValuesBy:
    """Values by class and group, in the order of `filters`, and where they come from, in words."""

    filters: tuple[str, ...]
    columns: tuple[ValueColumn, ...]
    words: str


@stage("values by class and group")
def values_by(
    folder: Path, run: run_file.RunDocument, rows: Sequence[run_file.ScoreRow]
) -> ValuesBy:
    """Values by class and group of a finished run; without columns where they are not known.

    The run's own metrics come first: `recall:CLASS` and `group_accuracy:GROUP`. Where it has none
    of these, kept rows are asked. Of more than 40 classes or groups, those with the most images
    are told.

    Args:
        folder: of the run.
        run: its `run.json`.
        rows: its `scores.csv`.
    """
    filters = tuple(row.filter for row in rows)
    scored = _scored(run, rows)
    if scored:
        words = "values of the run's own metrics"
        return ValuesBy(filters=filters, columns=scored, words=words)
    if not (folder / rows_file.FOLDER).is_dir():
        return ValuesBy(filters=filters, columns=(), words="")
    try:
        columns = _asked(folder, run, filters)
    except errors.RepairkitError as error:
        words = f"the rows that the run kept do not tell of classes and groups: {error}"
        return ValuesBy(filters=filters, columns=(), words=words)
    words = "values from the rows that the run kept"
    return ValuesBy(filters=filters, columns=columns, words=words)


def _scored(
    run: run_file.RunDocument, rows: Sequence[run_file.ScoreRow]
) -> tuple[ValueColumn, ...]:
    counts = run["counts"]["metrics"] if "counts" in run else {}
    columns = []
    for number, metric in enumerate(run["metrics"]):
        kind, colon, name = metric.partition(":")
        if kind not in _KINDS or not colon:
            continue
        if number:
            values = [row.further[metric] for row in rows]
            errors_ = [row.errors.get(metric, np.inf) for row in rows]
        else:
            values, errors_ = [row.value for row in rows], [row.std_error for row in rows]
        columns.append(
            ValueColumn(
                kind=_KINDS[kind],
                name=name,
                n_images=counts.get(metric),
                values=np.array(values),
                errors=np.array(errors_),
            )
        )
    return _largest(columns)


def _asked(
    folder: Path, run: run_file.RunDocument, filters: tuple[str, ...]
) -> tuple[ValueColumn, ...]:
    rows = rows_file.read_rows(folder)
    if rows.document["key"] != run["key"]:
        raise errors.RunFolderError("they are of another run")
    replay = Replay(folder=folder, document=run, rows=rows)
    about, n_classes = rows.scored.annotations, rows.document["n_classes"]
    names = [f"{image_metrics.RECALL.name}:*"] if n_classes else []
    names += (
        [f"{image_metrics.ACCURACY_OF_GROUP.name}:*"]
        if n_classes and about.groups is not None
        else []
    )
    spelt = [
        name for name in catalogue.spell_out(names, about, n_classes) if not name.endswith(":*")
    ]
    if not spelt:
        raise errors.SettingsError("the answers are no classes")
    sizes = {name: _n_images(name, about, n_classes) for name in spelt}
    kept = _most_images(spelt, sizes)
    scores = replay.answer(kept, None, same=False).scores
    order = [
        replay.roster.filters.index(f) for f in map(type(replay.roster.filters[0]).parse, filters)
    ]
    return tuple(
        ValueColumn(
            kind=_KINDS[name.partition(":")[0]],
            name=name.partition(":")[2],
            n_images=sizes[name],
            values=scores.values[order, column],
            errors=scores.std_errors[order, column],
        )
        for column, name in enumerate(kept)
    )


def _n_images(name: str, about: Annotations, n_classes: int) -> int:
    kind, _, part = name.partition(":")
    if _KINDS[kind] == "group":
        assert about.groups is not None
        return int((about.groups == about.group_names.index(part)).sum())
    numbers = [c for c in range(n_classes) if about.class_name(c) == part]
    return int(np.isin(about.labels, numbers).sum())


def _most_images(names: Sequence[str], sizes: dict[str, int]) -> list[str]:
    """Of each kind the names of the most images, in their order."""
    kept: set[str] = set()
    for kind in _KINDS:
        of_kind = [name for name in names if name.partition(":")[0] == kind]
        kept.update(sorted(of_kind, key=lambda name: -sizes[name])[:_MOST])
    return [name for name in names if name in kept]


def _largest(columns: Sequence[ValueColumn]) -> tuple[ValueColumn, ...]:
    kept: list[ValueColumn] = []
    for kind in _KINDS.values():
        of_kind = [column for column in columns if column.kind == kind]
        kept += sorted(of_kind, key=lambda column: -(column.n_images or 0))[:_MOST]
    return tuple(column for column in columns if column in kept)
