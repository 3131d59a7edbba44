"""What an atlas says of each filter: why it is shown, its values, what it responds to."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import filters, results
from repairkit.formats import run_file
from repairkit.formats.looks import atlas_file as file
from repairkit.jobs.atlas import values_by
from repairkit.jobs.look import picking, single_effects
from repairkit.jobs.setup.workbench import Bench
from repairkit.report import charts, page

_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True, eq=False)
class Dreams:
    """Dreams by filter, as records and as pictures, and notes on those that are missing."""

    records: dict[str, file.AtlasDream] = field(default_factory=dict)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OtherJobs:
    """Jobs that tell something of filters, each on its own: what an atlas asks them.

    Attributes:
        dreams: of filters of a bench.
        concepts: of filters, in a folder that `dissect` wrote for the model of a digest.
    """

    dreams: Callable[[Bench, Sequence[filters.Filter]], Dreams]
    concepts: Callable[[Path, str, Sequence[filters.Filter]], dict[str, list[file.AtlasConcept]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What is known of the filters of an atlas, beside what they respond to.

    Attributes:
        metrics: of the run; the first ranks.
        less_is_better: of the first metric.
        rows: of `scores.csv`, by filter.
        known: values by class and group.
        effects: of freezing each filter alone, by filter.
        dreams: by filter, where there are any.
        concepts: by filter, where there are any.
    """

    metrics: tuple[str, ...]
    less_is_better: bool
    rows: dict[str, run_file.ScoreRow]
    known: values_by.ValuesBy
    effects: dict[str, single_effects.SingleEffect]
    dreams: dict[str, file.AtlasDream]
    concepts: dict[str, list[file.AtlasConcept]]


def cards_of(
    picks: Sequence[picking.Pick],
    entries: Sequence[dict[str, Any]],
    size: tuple[int, int] | None,
    findings: Findings,
) -> list[file.AtlasFilter]:
    """The filters of an atlas, in the order of `picks`.

    Args:
        picks: the filters.
        entries: where each lies and what it responds to, as `entries_of` tells.
        size: height and width of an image; None where they have none.
        findings: what else is known.
    """
    return [
        _card(pick, _with_boxes(entry, size), findings)
        for pick, entry in zip(picks, entries, strict=True)
    ]


def _card(pick: picking.Pick, entry: dict[str, Any], findings: Findings) -> file.AtlasFilter:
    name, row = pick.filter.id, findings.rows[pick.filter.id]
    value = file.AtlasFigure(value=row.value, ci_low=row.ci_low, ci_high=row.ci_high)
    effect = findings.effects.get(name)
    first, *others = findings.metrics
    card: Any = {
        **entry,
        "place": pick.place,
        "why": [{"of": reason.of, "place": reason.place} for reason in pick.why],
        "sign": sign_of(value, turned=findings.less_is_better),
        "values": {
            first: _finite(value),
            **{metric: _further(row, metric) for metric in others if metric in row.further},
        },
        "by": _by(pick.filter, findings),
        "effect": None if effect is None else effect.value.to_json(),
        "responds_most_to": _responds_most_to(entry),
        "dream": findings.dreams.get(name),
        "concepts": findings.concepts.get(name, []),
    }
    made: file.AtlasFilter = card
    return made


def sign_of(figure: file.AtlasFigure, *, turned: bool = False) -> file.Sign:
    """On which side of zero an interval lies; `turned` where a figure above zero is harm."""
    low, high = figure["ci_low"], figure["ci_high"]
    if low is None or high is None or not (low > 0 or high < 0):
        return "open"
    return "helps" if (low > 0) != turned else "harms"


def _further(row: run_file.ScoreRow, metric: str) -> file.AtlasFigure:
    value, reach = row.further[metric], _NORMAL_95 * row.errors.get(metric, math.inf)
    return _finite(file.AtlasFigure(value=value, ci_low=value - reach, ci_high=value + reach))


def _finite(figure: file.AtlasFigure) -> file.AtlasFigure:
    """Null for what is not finite, which JSON does not have."""
    ends = (figure["value"], figure["ci_low"], figure["ci_high"])
    value, low, high = (None if e is None or not math.isfinite(e) else e for e in ends)
    return file.AtlasFigure(value=value, ci_low=low, ci_high=high)


def _by(wanted: filters.Filter, findings: Findings) -> list[file.ForImages]:
    """What a filter is worth by class and group: sure ones first, then the largest."""
    columns = findings.known.columns
    if columns:
        number = findings.known.filters.index(wanted.id)
        told = [_for_images(c.images, c.figure(number), turned=False) for c in columns]
    else:
        told = _by_effect(findings.effects.get(wanted.id))
    return sorted(told, key=lambda one: (one["sign"] == "open", -abs(one["value"] or 0.0)))


def _by_effect(effect: single_effects.SingleEffect | None) -> list[file.ForImages]:
    if effect is None:
        return []
    told: list[file.ForImages] = []
    for kind, figures in (("class", effect.classes), ("group", effect.groups)):
        for name, figure in figures.items():
            images: Any = {"kind": kind, "name": name, "n_images": effect.n_of[kind, name]}
            # Where freezing a filter loses something, the filter helps.
            told.append(_for_images(images, _figure(figure), turned=True))
    return told


def _figure(figure: results.Figure) -> file.AtlasFigure:
    return _finite(
        file.AtlasFigure(value=figure.value, ci_low=figure.ci_low, ci_high=figure.ci_high)
    )


def _for_images(
    images: file.SetOfImages, figure: file.AtlasFigure, *, turned: bool
) -> file.ForImages:
    return {**images, **figure, "sign": sign_of(figure, turned=turned)}


def _responds_most_to(entry: dict[str, Any]) -> list[file.SetOfImages]:
    """The class and the group of the highest mean response, of several."""
    most: list[file.SetOfImages] = []
    for kind, key in (("class", "classes"), ("group", "groups")):
        rows = entry.get(key) or []
        if len(rows) > 1:
            top = max(rows, key=lambda row: row["mean"])
            most.append({"kind": kind, "name": top["name"], "n_images": top["n"]})  # type: ignore[typeddict-item]
    return most


def _with_boxes(entry: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """The entry with the patch that each peak sees, in pixels."""
    if "most" not in entry:
        return entry
    height, width = size or (1, 1)
    whole = charts.Picture("", width, height)

    def boxed(image: dict[str, Any]) -> dict[str, Any]:
        at = page.spot(image, entry, whole)
        return {**image, "box": [at["y"], at["x"], at["height"], at["width"]]}

    return {**entry, **{end: [boxed(image) for image in entry[end]] for end in ("most", "least")}}
