"""What a metric is, and how its figures are read and shown.

A metric turns model outputs and annotations into a figure in its natural direction: an error of 0.2
is 0.2, and not -0.2. So the value of a filter says by how much the filter raises the figure. Where
less is better, a filter of positive value does harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from repairkit.core.suite import Annotations, Array

Unit = Literal["share", "number"]
"""A share of images, or a difference of such shares, is shown in per cent; all else as a number."""
ScoreImages = Callable[[Array, Annotations], NDArray[np.float64]]
"""Outputs and annotations to one number per image: (n_images,)."""

UNKNOWN = "-"
"""Shown instead of a figure that is not defined."""
_NEARLY_ZERO = 1e-12


class MeasureFacts(TypedDict):
    """What documents say of a metric."""

    words: str
    unit: Unit
    greater_is_better: bool
    even_at: NotRequired[float]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What the figure of a metric is: its name in words, its direction, its unit and its range.

    Attributes:
        words: the metric's name for people.
        greater_is_better: False where less of it is better.
        unit: `share` or `number`.
        ends: the least and the greatest figure that there can be; None where the data decides.
        even_at: of a metric that compares groups, its figure where groups are equal; else None.
    """

    words: str = ""
    greater_is_better: bool = True
    unit: Unit = "number"
    ends: tuple[float, float] | None = None
    even_at: float | None = None

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.greater_is_better else -1

    @property
    def is_share(self) -> bool:
        """Whether a figure is shown in per cent, and a difference in points."""
        return self.unit == "share"

    def number(self, value: float | None, *, signed: bool = False) -> str:
        """A figure without its unit: a share in per cent with one decimal, else four digits."""
        if value is None or not math.isfinite(value):
            return UNKNOWN
        value = 0.0 if abs(value) < _NEARLY_ZERO else value
        sign = "+" if signed else ""
        text = f"{100 * value:{sign}.1f}" if self.is_share else f"{value:{sign}.4g}"
        if float(text) == 0:
            text = text.lstrip("+-")
        return text

    def figure(self, value: float | None) -> str:
        """A figure with its unit."""
        text = self.number(value)
        return f"{text} %" if self.is_share and text != UNKNOWN else text

    def change(self, value: float | None) -> str:
        """A difference with its sign and unit: of shares, points."""
        text = self.number(value, signed=True)
        return f"{text} points" if self.is_share and text != UNKNOWN else text

    def to_json(self) -> MeasureFacts:
        """What documents say of the metric."""
        facts: MeasureFacts = {
            "words": self.words,
            "unit": self.unit,
            "greater_is_better": self.greater_is_better,
        }
        if self.even_at is not None:
            facts["even_at"] = self.even_at
        return facts

    @classmethod
    def from_json(cls, facts: MeasureFacts) -> Measure:
        """The measure that `to_json` wrote."""
        return cls(
            words=facts["words"],
            greater_is_better=facts["greater_is_better"],
            unit=facts["unit"],
            even_at=facts.get("even_at"),
        )


NUMBER = Measure()
SHARE = Measure(unit="share", ends=(0.0, 1.0))
"""Of a share of images that is no named metric, such as the accuracy of a group."""


class Metric(Protocol):
    """A performance figure V.

    Where `per_image` is true, V = sum_i w_i s_i: s are `score`'s numbers, one per image, and w are
    `weights` (non-negative, adding up to one). Else `score` gives one number for the images
    together, and `weights` only say how often each image is best drawn into a batch.
    """

    @property
    def name(self) -> str:
        """As options have it."""
        ...

    @property
    def measure(self) -> Measure:
        """Words, direction, unit and range of its figures."""
        ...

    @property
    def per_image(self) -> bool: ...

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest number that `score` can give; infinite where not known."""
        ...

    @property
    def scorer(self) -> object:
        """Metrics whose scorers are equal give the same scores, so only one of them is asked."""
        ...

    @property
    def smooth(self) -> ScoreImages | None:
        """Scores of the smooth twin, which changes a little with every image; None without one.

        The twin has the metric's direction. It weighs images as the metric does where that is a
        mean over images, and else is a softened minimum over groups.
        """
        ...

    def weights(self, annotations: Annotations) -> NDArray[np.float64]:
        """Shape (n_images,)."""
        ...

    def score(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        """Shape (n_images,) where `per_image` is true, else ()."""
        ...
