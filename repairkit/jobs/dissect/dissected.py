"""The result of a dissection, and what it says of one filter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repairkit.core.process.text import counted
from repairkit.formats.dissection_file import (
    DissectedFilter,
    DissectionDocument,
    dissection_rows,
)
from repairkit.notebook import cells, frames

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class Detected:
    """A concept that a filter detects.

    Attributes:
        concept: its name; of a column of the data, `COLUMN = VALUE`.
        category: its category, or `image` for a concept of whole images.
        measure: `iou` for concepts with masks, `auc` for concepts of whole images.
        score: on images that did not choose the concept.
        low: the lower end of its 95 % interval.
        high: the upper end.
        chance: what images drawn anew would give.
        named: whether the filter also stands out among random filters of its layer.
    """

    concept: str
    category: str
    measure: Literal["iou", "auc"]
    score: float
    low: float
    high: float
    chance: float
    named: bool


def concepts_of(document: DissectionDocument, filter_id: str) -> tuple[Detected, ...]:
    """The concepts that a filter detects, none to two; masks come before whole images.

    A concept is listed where the interval of its score lies above chance; `named` says whether the
    filter stands out among random ones, too. A filter that the dissection does not hold has none.

    Args:
        document: of a dissection.
        filter_id: such as `conv1:3`.
    """
    for each in document["filters"]:
        if each["filter"] == filter_id:
            return tuple(_detected(each))
    return ()


def _detected(each: DissectedFilter) -> list[Detected]:
    known = []
    mask, image = each["mask"], each["image"]
    if mask is not None and mask["detects"]:
        known.append(
            Detected(
                concept=mask["concept"],
                category=mask["category"],
                measure="iou",
                score=mask["iou"],
                low=mask["low"],
                high=mask["high"],
                chance=mask["chance"],
                named=mask["named"],
            )
        )
    if image is not None and image["detects"]:
        known.append(
            Detected(
                concept=f"{image['column']} = {image['concept']}",
                category="image",
                measure="auc",
                score=image["auc"],
                low=image["low"],
                high=image["high"],
                chance=0.5,
                named=image["named"],
            )
        )
    return known


@dataclass(frozen=True, repr=False)
class Dissected:
    """What `dissect` found; `document` is what `dissection.json` holds.

    `folder` is where it was written; None where it was not.
    """

    document: DissectionDocument
    folder: Path | None = None

    def __repr__(self) -> str:
        filters = self.document["filters"]
        named = sum(is_named(each) for each in filters)
        return f"Dissected: {named} of {counted(len(filters), 'filter')} stand out for a concept"

    def concepts_of(self, filter_id: str) -> tuple[Detected, ...]:
        """The concepts that a filter detects; see the function of that name."""
        return concepts_of(self.document, filter_id)

    def to_json(self) -> dict[str, Any]:
        folder = {} if self.folder is None else {"folder": str(self.folder)}
        return {**self.document, **folder}

    def to_pandas(self) -> DataFrame:
        """A row for every filter, with the columns of `dissection.csv`.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.frame(dissection_rows(self.document))

    def _repr_html_(self) -> str:
        """For a notebook: the layers, and the filters that stand out."""
        named = [each for each in self.document["filters"] if is_named(each)]
        rows = [
            [each["filter"], one.concept, one.category, one.measure, one.score, one.low, one.high]
            for each in named
            for one in _detected(each)
            if one.named
        ]
        parts = [cells.sentence(repr(self).partition(": ")[2], "Dissected")]
        if rows:
            titles = ["filter", "concept", "category", "measure", "score", "from", "to"]
            parts.append(cells.table("Filters that stand out for a concept", titles, rows))
        return cells.cell(*parts)


def is_named(each: DissectedFilter) -> bool:
    """Whether a filter stands out for a concept of either kind."""
    return any(one is not None and one["named"] for one in (each["mask"], each["image"]))
