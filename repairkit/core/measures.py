"""What the figure of a metric is: its direction, its unit, its range and its name in words.

This is the one place that knows. A figure, a target, a table and a filter's value are all in the
metric's natural direction: an error of 0.2 is 0.2, and not -0.2. So the value of a filter says by
how much the filter raises the figure. Where less is better, a filter of positive value does harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from repairkit.core.errors import SettingsError

Unit = Literal["share", "number"]
"""A share of images, or a difference of such shares, is told in per cent; all else as a number."""


@dataclass(frozen=True)
class Measure:
    """How a figure is to be understood.

    Attributes:
        words: its name as people say it; empty where the metric's own name will do.
        greater_is_better: False where less of it is better.
        unit: `share` or `number`.
        ends: the least and the greatest figure that there can be; None where the data decides.
    """

    words: str = ""
    greater_is_better: bool = True
    unit: Unit = "number"
    ends: tuple[float, float] | None = None

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.greater_is_better else -1


def _share(words: str = "", *, less: bool = False, low: float = 0.0) -> Measure:
    return Measure(words, greater_is_better=not less, unit="share", ends=(low, 1.0))


def _error(words: str) -> Measure:
    return Measure(words, greater_is_better=False)


_UNKNOWN = Measure()
_MEASURES: Mapping[str, Measure] = {
    "accuracy": _share("accuracy"),
    "clean_accuracy": _share(),
    "recall": _share(),
    "group_accuracy": _share("mean accuracy over groups"),
    "worst_group_accuracy": _share("accuracy of the worst group"),
    "demographic_parity_difference": _share(less=True),
    "equalized_odds_difference": _share(less=True),
    "equal_opportunity_difference": _share(less=True),
    "demographic_parity_ratio": Measure(ends=(0.0, 1.0)),
    "equalized_odds_ratio": Measure(ends=(0.0, 1.0)),
    "equal_opportunity_ratio": Measure(ends=(0.0, 1.0)),
    "attack_success": _share(less=True),
    "fooled": _share(less=True),
    "robustness": _share("adversary's success less clean accuracy", less=True, low=-1.0),
    "robustness_loss": _error("loss of robustness"),
    "loss": _error("loss (mean negative log-likelihood)"),
    "group_loss": _error("mean loss over groups"),
    "mean_absolute_error": _error("mean absolute error"),
}


def measure_of(metric: str) -> Measure:
    """The measure of a metric by its name; of a `module:function` nothing is known by the name."""
    kind, colon, _ = metric.partition(":")
    if colon and kind not in ("accuracy", "recall", "group_accuracy", "group_loss"):
        return _UNKNOWN
    return _MEASURES.get(kind, _UNKNOWN)


def sign_of(metric: Any) -> int:
    """1 where more of a metric is better, else -1; an object that does not say means more."""
    return 1 if getattr(metric, "greater_is_better", True) else -1


def check_bound(
    target: str, relation: str, bound: float, measure: Measure, ends: tuple[float, float] | None
) -> None:
    """Refuse a target that no model could meet, that every model meets, or that broken ones do.

    Args:
        target: as it was written.
        relation: `>=` or `<=`.
        bound: the number behind it.
        measure: of the metric that it is about.
        ends: the least and the greatest figure that there can be, where that is known.

    Raises:
        SettingsError: it is one of these.
    """
    wanted = ">=" if measure.greater_is_better else "<="
    if relation != wanted:
        better = "more" if measure.greater_is_better else "less"
        raise SettingsError(
            f"target {target}: {better} is better for this metric, so that a broken model would "
            f"meet {relation}{bound:g}; write {wanted} and the figure to be reached"
        )
    if ends is None:
        if not measure.greater_is_better and bound < 0:
            raise SettingsError(
                f"target {target}: this metric is never below 0; write the figure itself, without "
                "a turned sign"
            )
        return
    low, high = ends
    if not low <= bound <= high:
        hint = (
            f", such as {bound / 100:g} for {bound:g} %" if 1 < bound <= 100 and high == 1 else ""
        )
        sign = ", without a turned sign" if bound < 0 <= low else ""
        raise SettingsError(
            f"target {target}: the metric lies between {low:g} and {high:g} by nature; give a "
            f"number in there{hint}{sign}"
        )
    if bound == (low if measure.greater_is_better else high):
        raise SettingsError(
            f"target {target}: every model meets it, for the metric lies between {low:g} and "
            f"{high:g}; give the figure to be reached"
        )
