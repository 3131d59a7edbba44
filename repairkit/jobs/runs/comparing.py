"""How far finished runs agree on the values of the same filters."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors
from repairkit.core.process.text import counted
from repairkit.estimators.samples import rank_correlation
from repairkit.formats import effects, run_file
from repairkit.formats.dissection_file import is_dissection
from repairkit.jobs.runs.run_document import differing, settings_in
from repairkit.notebook import cells, frames

if TYPE_CHECKING:
    from pandas import DataFrame

_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the values of two runs agree, for filters that both scored.

    Attributes:
        first: the run that `r2` takes as the truth.
        second: the other.
        n_filters: scored by both.
        rank_correlation: Spearman's; None if all values of a run are equal.
        correlation: Pearson's; None in the same case.
        r2: coefficient of determination, when the second's values predict the first's; None if the
            first's are all equal. Meaningless if the runs have different units, as norms have.
        top_k: number of filters at each end of the ranking.
        highest: share of the `top_k` highest that both runs have in common.
        lowest: the same for the lowest.
        notes: other differences of the runs than the method.
    """

    first: str
    second: str
    n_filters: int
    rank_correlation: float | None
    correlation: float | None
    r2: float | None
    top_k: int
    highest: float
    lowest: float
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}


class Agreements(tuple[Agreement, ...]):
    """The agreement of every pair of runs."""

    __slots__ = ()

    def __repr__(self) -> str:
        correlations = [a.rank_correlation for a in self if a.rank_correlation is not None]
        ends = f", rank correlation {min(correlations):.3f}" if correlations else ""
        more = f" to {max(correlations):.3f}" if len(correlations) > 1 else ""
        return f"Agreements: {counted(len(self), 'pair')} of runs{ends}{more}"

    def _repr_html_(self) -> str:
        """For a notebook: a row for every pair."""
        names = [each.name for each in fields(Agreement) if each.name != "notes"]
        rows = [[getattr(each, name) for name in names] for each in self]
        titles = [name.replace("_", " ") for name in names]
        return cells.cell(cells.table("How far runs agree", titles, rows))

    def to_pandas(self) -> "DataFrame":
        """A row for every pair of runs.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.frame(each.to_json() for each in self)


def compare(runs: Sequence[Path], *, metric: str | None = None, top_k: int = 20) -> Agreements:
    """The agreement of every pair of runs, the first of each pair being named earlier.

    Args:
        runs: two or more run folders of one model.
        metric: whose values are compared; each run's first if None.
        top_k: how many filters at each end of the ranking are held against each other.

    Raises:
        SettingsError: fewer than two runs, or a dissection among several.
        RunFolderError: a run is broken, of another model, lacks the metric, or shares no two
            filters with another.
    """
    if len(runs) < _FEWEST:
        raise errors.SettingsError(
            f"{len(runs)} run was given and two or more are compared; name them"
        )
    dissection = next(filter(is_dissection, runs), None)
    if dissection is not None:
        raise errors.SettingsError(
            f"{dissection}: is a dissection; compare one run with it, by compare_concepts(run, "
            "dissection) or `repairkit compare RUN DISSECTION`"
        )
    if top_k < 1:
        raise errors.SettingsError(f"--top-k is {top_k}; expected 1 or more")
    opened = [_open(path, metric) for path in runs]
    first = opened[0]
    for other in opened[1:]:
        if other.document["model"]["digest"] != first.document["model"]["digest"]:
            raise errors.RunFolderError(
                f"{other.path}: holds scores of {other.document['model']['path']} and {first.path} "
                f"of {first.document['model']['path']}, which is another model; values are "
                "comparable for one model alone"
            )
    return Agreements(_agreement(one, two, top_k) for one, two in combinations(opened, 2))


@dataclass(frozen=True)
class _Run:
    path: Path
    document: run_file.RunDocument
    metric: str
    values: Mapping[str, float]


def _open(path: Path, metric: str | None) -> _Run:
    folder = run_file.RunFolder(path)
    document, columns = folder.read_finished(), folder.read_metric_values()
    wanted = metric or document["settings"]["metrics"][0]
    names = list(columns)
    # A pattern such as recall:* stands for what was scored first.
    chosen = wanted if wanted in columns else names[0]
    if metric is not None and metric not in columns:
        raise errors.RunFolderError(
            f"{path}: has no values for {metric}; it has them for {', '.join(names)}"
        )
    return _Run(path, document, chosen, columns[chosen])


def _agreement(one: _Run, two: _Run, top_k: int) -> Agreement:
    shared = [name for name in one.values if name in two.values]
    if len(shared) < _FEWEST:
        raise errors.RunFolderError(
            f"{one.path} and {two.path} share {len(shared)} filters; compare runs over the same "
            "--sites"
        )
    first = np.array([one.values[name] for name in shared])
    second = np.array([two.values[name] for name in shared])
    k = min(top_k, len(shared))
    spread = float(((first - first.mean()) ** 2).sum())
    missed = float(((second - first) ** 2).sum())
    flat = np.ptp(first) == 0 or np.ptp(second) == 0
    return Agreement(
        first=str(one.path),
        second=str(two.path),
        n_filters=len(shared),
        rank_correlation=_finite(rank_correlation(first, second)),
        correlation=None if flat else float(np.corrcoef(first, second)[0, 1]),
        r2=None if spread == 0 else 1 - missed / spread,
        top_k=k,
        highest=_overlap(first, second, k),
        lowest=_overlap(-first, -second, k),
        notes=_notes(one, two, len(shared)),
    )


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64], k: int) -> float:
    """The share of the `k` greatest of one that are among those of the other."""
    tops = [set(np.argsort(-values, kind="stable")[:k].tolist()) for values in (first, second)]
    return len(tops[0] & tops[1]) / k


def _notes(one: _Run, two: _Run, n_shared: int) -> tuple[str, ...]:
    notes = []
    if one.metric != two.metric:
        notes.append(f"values are of {one.metric} and of {two.metric}")
    if one.document["data"]["digest"] != two.document["data"]["digest"]:
        notes.append("the runs saw different data")
    notes += [
        f"{setting.name} differs: {setting.first!r} and {setting.second!r}"
        for setting in differing(
            settings_in(one.document),
            settings_in(two.document),
            *(effects.Affects.FILTERS, effects.Affects.FIGURE, effects.Affects.IMAGES),
        )
    ]
    n_all = len(set(one.values) | set(two.values))
    if n_all > n_shared:
        notes.append(f"{n_all - n_shared} filters were scored by one run alone and are left out")
    return tuple(notes)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
