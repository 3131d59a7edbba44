"""Do filters of high value carry concepts more often than others of their layers?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.concepts import carrying
from repairkit.core import errors
from repairkit.core.process.text import counted
from repairkit.formats import dissection_file, run_file
from repairkit.notebook import cells, frames

if TYPE_CHECKING:
    from pandas import DataFrame

Values = NDArray[np.float64]
Kind = Literal["mask", "image"]
KINDS: tuple[Kind, ...] = ("mask", "image")
_FEWEST = 8
_FEW_MEMBERS = 10
_NOISY = 0.5


@dataclass(frozen=True, kw_only=True)
class GroupShare:
    """How often some filters carry concepts, beside the others of their layers.

    Attributes:
        group: `highest` or `lowest` values.
        measure: `named`, `detects` (shares) or `score` (IoU or AUC on held-out images).
        n: how many filters the group has.
        mean: of the measure in the group, over layers that have both.
        others: the same of the other filters of these layers, with the same weights.
        difference: `mean` less `others`.
        p: two-sided, by permutation within layers.
        chance_low: the lower end of the middle 95 % of differences by chance.
        chance_high: the upper end.
    """

    group: Literal["highest", "lowest"]
    measure: Literal["named", "detects", "score"]
    n: int
    mean: float | None
    others: float | None
    difference: float | None
    p: float | None
    chance_low: float | None
    chance_high: float | None


@dataclass(frozen=True, kw_only=True)
class RankLink:
    """The rank correlation of values, or of their sizes, with scores, within layers."""

    of: Literal["value", "size of value"]
    correlation: float | None
    p: float | None
    chance_low: float | None
    chance_high: float | None


@dataclass(frozen=True, kw_only=True)
class LayerConcepts:
    """A layer: how many filters detect and are named, and what they detect.

    `categories` counts the concepts of the filters that detect, and `top_categories` those of the
    filters of highest value among them. For concepts of whole images these are columns.
    """

    site: str
    n: int
    detects: int
    named: int
    n_highest: int
    n_lowest: int
    correlation: float | None
    categories: Mapping[str, int]
    top_categories: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ConceptLinks:
    """Values beside concepts of one kind.

    Attributes:
        kind: `mask`, whose scores are IoU, or `image`, whose scores are AUC.
        n_filters: that have a value and a concept of this kind.
        groups: filters of extreme value beside others of their layers.
        links: rank correlations.
        layers: in the order of the model.
        notes: what the reader should know.
    """

    kind: Kind
    n_filters: int
    groups: tuple[GroupShare, ...]
    links: tuple[RankLink, ...]
    layers: tuple[LayerConcepts, ...]
    notes: tuple[str, ...]

    def group(self, group: str, measure: str) -> GroupShare:
        """The entry of a group and a measure."""
        return next(g for g in self.groups if (g.group, g.measure) == (group, measure))


@dataclass(frozen=True, kw_only=True, repr=False)
class ValuedConcepts:
    """What `compare RUN DISSECTION` finds.

    Attributes:
        run: the run folder.
        dissection: the dissection.
        metric: whose values are compared.
        noise: share of the spread of values within layers that is their estimates' error; None
            where the run states no errors.
        kinds: what each kind of concepts shows, masks first.
        notes: what the reader should know of the run.
    """

    run: str
    dissection: str
    metric: str
    noise: float | None
    kinds: tuple[ConceptLinks, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        words = []
        for each in self.kinds:
            link = each.links[0]
            if link.correlation is not None:
                words.append(f"{each.kind} rank correlation {link.correlation:+.2f}")
        n = max(each.n_filters for each in self.kinds)
        return f"ValuedConcepts: {', '.join([counted(n, 'filter'), *words])}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def to_pandas(self) -> DataFrame:
        """A row for each kind of concepts, group and measure.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.frame(
            {"kind": each.kind, **asdict(group)} for each in self.kinds for group in each.groups
        )

    def _repr_html_(self) -> str:
        """For a notebook: the groups of each kind."""
        parts = [cells.sentence(repr(self).partition(": ")[2], "Values and concepts")]
        for each in self.kinds:
            title = f"Filters of extreme value, and others of their layers ({each.kind})"
            parts.append(cells.table_of(title, [asdict(group) for group in each.groups]))
        return cells.cell(*parts)


@dataclass(frozen=True, eq=False)
class _ValuesAndScores:
    """The filters that run and dissection know, as columns; arrays are (n_filters,)."""

    sites: tuple[str, ...]  # of layers, in order
    layer: NDArray[np.intp]
    value: Values
    error: Values
    score: Values
    detects: NDArray[np.bool_]
    named: NDArray[np.bool_]
    category: NDArray[np.str_]

    def correlation_in(self, layer: int) -> carrying.Tested:
        inside = self.layer == layer
        if inside.sum() < _FEWEST:
            return carrying.UNDEFINED
        flat = np.zeros(int(inside.sum()), np.intp)
        return carrying.rank_correlation_within(
            self.value[inside], self.score[inside], flat, seed=layer
        )


def compare_concepts(
    run: Path, dissection: Path, *, metric: str | None = None, top_k: int = 20
) -> ValuedConcepts:
    """Hold the values of a run against the concepts that filters detect.

    Args:
        run: a finished run folder.
        dissection: of the same model.
        metric: whose values; the run's first if None.
        top_k: filters at each end; at most a quarter of all, and at the low end those below 0.

    Raises:
        RunFolderError: one of the two cannot be read, they are of different models, the run lacks
            the metric, or they share too few filters.
    """
    folder, document = run_file.RunFolder(run), dissection_file.read_dissection(dissection)
    scored = folder.read_finished()
    if scored["model"]["digest"] != document["model"]["digest"]:
        raise errors.RunFolderError(
            f"{dissection}: is of {document['model']['path']} and {run} of "
            f"{scored['model']['path']}, which is another model; dissect the model of the run"
        )
    values = folder.read_metric_values()
    wanted = next(iter(values)) if metric is None else metric
    if wanted not in values:
        raise errors.RunFolderError(
            f"{run}: has no values for {wanted}; it has them for {', '.join(values)}"
        )
    rows = folder.read_rows()
    first = wanted == next(iter(values))
    standard = {r.filter: r.std_error if first else r.errors.get(wanted, np.nan) for r in rows}
    tables = {kind: _table(document, kind, values[wanted], standard) for kind in KINDS}
    known = {kind: table for kind, table in tables.items() if len(table.value) >= _FEWEST}
    if not known:
        raise errors.RunFolderError(
            f"{run} and {dissection} share fewer than {_FEWEST} filters with concepts; score and "
            "dissect the same --sites"
        )
    noise = _noise(max(known.values(), key=lambda table: len(table.value)))
    return ValuedConcepts(
        run=str(run),
        dissection=str(dissection),
        metric=wanted,
        noise=noise,
        kinds=tuple(
            _links_of(kind, table, top_k, document["settings"]["seed"])
            for kind, table in known.items()
        ),
        notes=tuple(_notes(noise, wanted in scored.get("less_is_better", []))),
    )


def _links_of(kind: Kind, table: _ValuesAndScores, top_k: int, seed: int) -> ConceptLinks:
    ends = _ends(table, top_k)
    return ConceptLinks(
        kind=kind,
        n_filters=len(table.value),
        groups=tuple(_groups(table, ends, seed)),
        links=tuple(_links(table, seed)),
        layers=tuple(_layers(table, ends)),
        notes=tuple(_notes_of(table, ends)),
    )


def _table(
    document: dissection_file.DissectionDocument,
    kind: Kind,
    values: Mapping[str, float],
    standard: Mapping[str, float],
) -> _ValuesAndScores:
    sites = tuple(layer["site"] for layer in document["layers"])
    rows = []
    for each in document["filters"]:
        mask, image, name = each["mask"], each["image"], each["filter"]
        if name not in values or not np.isfinite(values[name]):
            continue
        if kind == "mask" and mask is not None:
            facts = (mask["iou"], mask["detects"], mask["named"], mask["category"])
        elif kind == "image" and image is not None:
            facts = (image["auc"], image["detects"], image["named"], image["column"])
        else:
            continue
        rows.append((sites.index(each["site"]), values[name], standard[name], *facts))
    columns = list(zip(*rows, strict=True)) or [()] * 7
    return _ValuesAndScores(
        sites=sites,
        layer=np.array(columns[0], np.intp),
        value=np.array(columns[1], float),
        error=np.array(columns[2], float),
        score=np.array(columns[3], float),
        detects=np.array(columns[4], bool),
        named=np.array(columns[5], bool),
        category=np.array(columns[6], str),
    )


def _ends(
    table: _ValuesAndScores, top_k: int
) -> dict[Literal["highest", "lowest"], NDArray[np.bool_]]:
    n = len(table.value)
    k = max(1, min(top_k, n // 4))
    order = np.argsort(-table.value, kind="stable")
    highest, lowest = np.zeros(n, bool), np.zeros(n, bool)
    highest[order[:k]] = True
    lowest[order[-k:]] = True
    return {"highest": highest, "lowest": lowest & (table.value < 0)}


def _groups(
    table: _ValuesAndScores,
    ends: Mapping[Literal["highest", "lowest"], NDArray[np.bool_]],
    seed: int,
) -> list[GroupShare]:
    measures: dict[Literal["named", "detects", "score"], Values] = {
        "named": table.named.astype(float),
        "detects": table.detects.astype(float),
        "score": table.score,
    }
    shares = []
    for group, members in ends.items():
        for measure, numbers in measures.items():
            tested, mean, others = carrying.difference_within(
                members, numbers, table.layer, seed=seed
            )
            shares.append(
                GroupShare(
                    group=group,
                    measure=measure,
                    n=int(members.sum()),
                    mean=_known(mean),
                    others=_known(others),
                    difference=_known(tested.value),
                    p=_known(tested.p),
                    chance_low=_known(tested.chance_low),
                    chance_high=_known(tested.chance_high),
                )
            )
    return shares


def _links(table: _ValuesAndScores, seed: int) -> list[RankLink]:
    links = []
    ofs: dict[Literal["value", "size of value"], Values] = {
        "value": table.value,
        "size of value": np.abs(table.value),
    }
    for of, numbers in ofs.items():
        tested = carrying.rank_correlation_within(numbers, table.score, table.layer, seed=seed)
        links.append(
            RankLink(
                of=of,
                correlation=_known(tested.value),
                p=_known(tested.p),
                chance_low=_known(tested.chance_low),
                chance_high=_known(tested.chance_high),
            )
        )
    return links


def _layers(
    table: _ValuesAndScores, ends: Mapping[Literal["highest", "lowest"], NDArray[np.bool_]]
) -> list[LayerConcepts]:
    layers = []
    for number, site in enumerate(table.sites):
        inside = table.layer == number
        if not inside.any():
            continue
        found = inside & table.detects
        layers.append(
            LayerConcepts(
                site=site,
                n=int(inside.sum()),
                detects=int(found.sum()),
                named=int((inside & table.named).sum()),
                n_highest=int((inside & ends["highest"]).sum()),
                n_lowest=int((inside & ends["lowest"]).sum()),
                correlation=_known(table.correlation_in(number).value),
                categories=_counts(table.category[found]),
                top_categories=_counts(table.category[found & ends["highest"]]),
            )
        )
    return layers


def _counts(categories: NDArray[np.str_]) -> dict[str, int]:
    return dict(Counter(categories.tolist()).most_common())


def _noise(table: _ValuesAndScores) -> float | None:
    """The share of the spread of values within layers that their standard errors explain."""
    if not np.isfinite(table.error).all() or not table.error.any():
        return None
    spread = [
        table.value[table.layer == n] - table.value[table.layer == n].mean()
        for n in np.unique(table.layer)
    ]
    variance = float((np.concatenate(spread) ** 2).mean())
    return min(1.0, float((table.error**2).mean()) / variance) if variance > 0 else 1.0


def _notes(noise: float | None, less_is_better: bool) -> list[str]:
    notes = []
    if noise is None:
        notes.append("the run states no standard errors, so that nobody knows how much is noise")
    elif noise > _NOISY:
        notes.append(
            f"{100 * noise:.0f} % of the spread of values within layers is the error of their "
            "estimates: a link would show weaker than it is; score with more evaluations"
        )
    if less_is_better:
        notes.append("less of this metric is better: filters of highest value harm")
    return notes


def _notes_of(
    table: _ValuesAndScores, ends: Mapping[Literal["highest", "lowest"], NDArray[np.bool_]]
) -> list[str]:
    notes = [
        f"only {counted(int(members.sum()), 'filter')} of {group} value: only a large difference "
        "could show"
        for group, members in ends.items()
        if members.sum() < _FEW_MEMBERS
    ]
    if not table.named.any():
        notes.append("no filter is named, so that shares of named filters say nothing")
    return notes


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
