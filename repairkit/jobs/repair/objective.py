"""What a repair is to improve, what it must reach and what it may cost."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

from repairkit.core import errors, results
from repairkit.core.metric import NUMBER, Measure, Metric
from repairkit.metrics.catalogue import definition_of, measure_of
from repairkit.metrics.group_metrics import WORST_GROUP_ACCURACY
from repairkit.metrics.image_metrics import GROUP_ACCURACY
from repairkit.metrics.robustness import ROBUSTNESS
from repairkit.repairs.cure import Story
from repairkit.repairs.search import SearchSettings

FAIRNESS_OBJECTIVE = WORST_GROUP_ACCURACY.name
ROBUSTNESS_OBJECTIVE = ROBUSTNESS.name
PLAIN_VALUE = GROUP_ACCURACY.name
PROMISES = ("objective", "smooth", "likelihood")
"""What may be promised, the strongest first; see `ladder`."""
N_FOLDS = 5
"""Of the cross-confirmation."""

MetricsOf = Callable[[Sequence[str]], Sequence[Metric]]
"""From names to metrics."""

_TARGET = re.compile(r"\s*(?P<metric>\S.*?)\s*(?P<sign>>=|<=)\s*(?P<bound>[-+.\deE]+)\s*\Z")
_CAUTION = 1.0
_WIDTH_95 = 2 * 1.959963984540054


@dataclass(frozen=True)
class Objective:
    """The metric that a repair is to improve, and those whose values show which filters harm it."""

    metric: str
    values: tuple[str, ...]
    measure: Measure = NUMBER

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return self.measure.sign

    @classmethod
    def of(cls, metric: str) -> Objective:
        """The objective called `metric`, with the values that it is best searched by.

        More of a `module:function` is better until `fitted` has looked at the function.
        """
        definition = definition_of(metric)
        values = () if definition is None else definition.searched_by
        return cls(metric, values or (metric,), measure_of(metric))

    def fitted(self, metric: Metric) -> Objective:
        """The same objective with the unit and the direction that its metric has."""
        return replace(self, measure=metric.measure)


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
        parts = _TARGET.match(text)
        try:
            assert parts is not None
            bound = float(parts["bound"])
            assert math.isfinite(bound)  # 1e999 reads as infinity
            return cls(parts["metric"], parts["sign"], bound)
        except (AssertionError, ValueError):
            raise errors.SettingsError(
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
        if metric is not None:
            _check_bound(self, metric.measure, metric.score_range)
        elif definition_of(self.metric) is not None:
            measure = measure_of(self.metric)
            _check_bound(self, measure, measure.ends)

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.bound:g}"

    @property
    def _compare(self) -> Callable[[float, float], bool]:
        return operator.ge if self.relation == ">=" else operator.le

    def met(self, value: float) -> bool:
        """Whether a figure reaches it."""
        return self._compare(value, self.bound)

    def met_with_caution(self, figure: results.Figure) -> bool:
        """Whether a figure reaches it with a standard error to spare."""
        away = -1 if self.relation == ">=" else 1
        return self.met(figure.value + away * _CAUTION * standard_error(figure))


def _check_bound(target: Target, measure: Measure, ends: tuple[float, float] | None) -> None:
    """Refuse a target that no model could meet, that every model meets, or that broken ones do.

    Args:
        target: what was wished.
        measure: of the metric that it is about.
        ends: the least and the greatest figure that there can be, where that is known.

    Raises:
        SettingsError: it is one of these.
    """
    relation, bound = target.relation, target.bound
    wanted = ">=" if measure.greater_is_better else "<="
    if relation != wanted:
        better = "more" if measure.greater_is_better else "less"
        raise errors.SettingsError(
            f"target {target}: {better} is better for this metric, so that a broken model would "
            f"meet {relation}{bound:g}; write {wanted} and the figure to be reached"
        )
    if ends is None:
        if not measure.greater_is_better and bound < 0:
            raise errors.SettingsError(
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
        raise errors.SettingsError(
            f"target {target}: the metric lies between {low:g} and {high:g} by nature; give a "
            f"number in there{hint}{sign}"
        )
    if bound == (low if measure.greater_is_better else high):
        raise errors.SettingsError(
            f"target {target}: every model meets it, for the metric lies between {low:g} and "
            f"{high:g}; give the figure to be reached"
        )


@dataclass(frozen=True)
class Limit:
    """What a metric of which more is better may lose."""

    metric: str
    most: float

    def kept(self, change: float, error: float) -> bool:
        """Whether a change stays within the limit, with a standard error to spare."""
        # Shares are ratios of counts: allow for their rounding.
        return change - _CAUTION * error >= -self.most - 1e-12

    def kept_by(self, change: results.Figure) -> bool:
        """See `kept`."""
        return self.kept(change.value, standard_error(change))


def metric_names(
    objective: Objective, limits: tuple[Limit, ...], targets: tuple[Target, ...]
) -> tuple[str, ...]:
    """The metrics of the objective, the limits and the targets, each once."""
    others = [*(limit.metric for limit in limits), *(target.metric for target in targets)]
    return tuple(dict.fromkeys([objective.metric, *others]))


def standard_error(figure: results.Figure) -> float:
    """That which a 95 % interval stands for."""
    return (figure.ci_high - figure.ci_low) / _WIDTH_95


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is to be improved, how far and at which cost.

    Attributes:
        objective: what to improve.
        limits: what metrics may lose.
        targets: figures to be reached.
        search: how to search.
        share: of the selection images, those that confirm and choose nothing; None where every
            image does both, by cross-fitting.
        max_group_drop: what the accuracy of a group may lose, in [0, 1].
        promise: the lowest promise that will do.
        n_folds: of the cross-fitting.
    """

    objective: Objective
    limits: tuple[Limit, ...] = ()
    targets: tuple[Target, ...] = ()
    search: SearchSettings = field(default_factory=SearchSettings)
    share: float | None = None
    max_group_drop: float = 1.0
    promise: str = PROMISES[-1]
    n_folds: int = N_FOLDS

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The objective and all that limits and targets are about, each once."""
        return metric_names(self.objective, self.limits, self.targets)

    def told_names(self, accuracy: str | None) -> tuple[str, ...]:
        """The metrics that a report tells of a choice: all that is asked for, and accuracy.

        Args:
            accuracy: the name of the accuracy; None where there are no classes.
        """
        names = self.metric_names
        return names if accuracy is None or accuracy in names else (*names, accuracy)

    def opening(self, n_choosing: int, n_confirming: int, seed: int) -> Story:
        """The report's `selection` before anything was chosen.

        Args:
            n_choosing: images that choose.
            n_confirming: images that confirm.
            seed: of the job.
        """
        crossed = self.share is None
        return {
            "how": "joint",
            "objective": self.objective.metric,
            "parts": {
                "choosing": n_choosing,
                "confirmation": n_confirming,
                "share": self.share,
                "folds": self.n_folds if crossed else None,
                "seed": seed,
            },
            "settings": asdict(self.search),
            "limits": {limit.metric: limit.most for limit in self.limits},
            "max_group_drop": self.max_group_drop,
            "targets": [str(target) for target in self.targets],
            "confirmation": None,
            "confirmation_looks": 0,
            "promised": None,
            "promise": None,
            "declined": None,
        }
