"""What a repair is for, what it must reach and what it may cost."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from repairkit.core.errors import SettingsError
from repairkit.core.measures import Measure, check_bound, measure_of, sign_of
from repairkit.core.metric import Metric
from repairkit.core.patch import Figure
from repairkit.metrics import ROBUSTNESS, ROBUSTNESS_LOSS, is_user_metric

FAIRNESS_OBJECTIVE = "worst_group_accuracy"
PLAIN_VALUE = "group_accuracy"

# Metrics that compare groups are harmed where the likelihood of some group's classes is.
_VALUES = {
    "accuracy": ("loss",),
    "group_accuracy": ("group_loss",),
    FAIRNESS_OBJECTIVE: ("group_loss", "group_loss:*"),
    "demographic_parity_difference": ("group_loss", "group_loss:*"),
    "equalized_odds_difference": ("group_loss", "group_loss:*"),
    "equal_opportunity_difference": ("group_loss", "group_loss:*"),
    ROBUSTNESS: (ROBUSTNESS_LOSS, ROBUSTNESS),
}
_TARGET = re.compile(r"\s*(?P<metric>\S.*?)\s*(?P<sign>>=|<=)\s*(?P<bound>[-+.\deE]+)\s*\Z")
_CAUTION = 1.0
_WIDTH_95 = 2 * 1.959963984540054


@dataclass(frozen=True)
class Objective:
    """The metric that a repair is to improve, and those whose values tell who harms it.

    `sign` is 1 where more is better, else -1.
    """

    metric: str
    values: tuple[str, ...]
    sign: int = 1

    @classmethod
    def of(cls, metric: str) -> Objective:
        """The objective called `metric`, with the values that it is best searched by.

        The sign of a `module:function` is 1 until `fitted` has looked at the function.
        """
        return cls(metric, _VALUES.get(metric, (metric,)), measure_of(metric).sign)

    def fitted(self, metric: Metric) -> Objective:
        """The same objective with the direction that its metric has."""
        return replace(self, sign=sign_of(metric))


def plain_values(objective: Objective) -> tuple[str, ...]:
    """What the plain recipe ranks by: shares of right answers."""
    return (PLAIN_VALUE if objective.metric == FAIRNESS_OBJECTIVE else objective.metric,)


@dataclass(frozen=True)
class Target:
    """A figure that the repaired model must reach, as `metric>=bound` or `metric<=bound`."""

    metric: str
    relation: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `METRIC>=NUMBER` or `METRIC<=NUMBER`.

        Raises:
            SettingsError: it is neither.
        """
        found = _TARGET.match(text)
        try:
            assert found is not None
            bound = float(found["bound"])
            assert math.isfinite(bound)  # 1e999 reads as infinity
            return cls(found["metric"], found["sign"], bound)
        except (AssertionError, ValueError):
            raise SettingsError(
                f"{text!r} is no target; write METRIC>=NUMBER or METRIC<=NUMBER, such as "
                "worst_group_accuracy>=0.8"
            ) from None

    def check(self, metric: Metric | None = None) -> None:
        """Refuse a target that says nothing, as far as the name or the metric itself tells.

        Args:
            metric: the one that it is about, once it is known; what a `module:function` measures
                and how large an error can be are known only then.

        Raises:
            SettingsError: no model could meet it, every model meets it, or only bad ones do.
        """
        measure = measure_of(self.metric)
        if metric is not None:
            better = sign_of(metric) > 0
            measure = replace(measure, greater_is_better=better)
            check_bound(str(self), self.relation, self.bound, measure, metric.score_range)
        elif measure != Measure() and not is_user_metric(self.metric):
            check_bound(str(self), self.relation, self.bound, measure, measure.ends)

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.bound:g}"

    @property
    def _compare(self) -> Callable[[float, float], bool]:
        return operator.ge if self.relation == ">=" else operator.le

    def met(self, value: float) -> bool:
        """Whether a figure reaches it."""
        return self._compare(value, self.bound)

    def met_with_caution(self, found: Figure) -> bool:
        """Whether a figure reaches it with a standard error to spare."""
        away = -1 if self.relation == ">=" else 1
        return self.met(found.value + away * _CAUTION * standard_error(found))


@dataclass(frozen=True)
class Limit:
    """What a metric of which more is better may lose."""

    metric: str
    most: float

    def kept(self, change: float, error: float) -> bool:
        """Whether a change stays within the limit, with a standard error to spare."""
        # Shares are ratios of counts: allow for their rounding.
        return change - _CAUTION * error >= -self.most - 1e-12

    def kept_by(self, change: Figure) -> bool:
        """See `kept`."""
        return self.kept(change.value, standard_error(change))


def metric_names(
    objective: Objective, limits: tuple[Limit, ...], targets: tuple[Target, ...]
) -> tuple[str, ...]:
    """The objective and all that limits and targets are about, each once."""
    wished = [*(limit.metric for limit in limits), *(target.metric for target in targets)]
    return tuple(dict.fromkeys([objective.metric, *wished]))


def standard_error(found: Figure) -> float:
    """That which a 95 % interval stands for."""
    return (found.ci_high - found.ci_low) / _WIDTH_95
