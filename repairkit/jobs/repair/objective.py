"""What a repair is to improve, to reach and may cost, and how far a changed model gets on it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, errors, results, suite
from repairkit.core.metric import NUMBER, Measure, Metric
from repairkit.core.outputs import OutputForm
from repairkit.metrics import catalogue, group_metrics, image_metrics, part_metrics, robustness
from repairkit.metrics.resampling import FigureOfImages, FigureOfOutputs, figure_of, smooth_figure
from repairkit.repairs.cure import Story
from repairkit.repairs.search import SearchSettings

FAIRNESS_OBJECTIVE = group_metrics.WORST_GROUP_ACCURACY.name
ROBUSTNESS_OBJECTIVE = robustness.ROBUSTNESS.name
FIXING_OBJECTIVE = part_metrics.ACCURACY_TO_FIX.name
FORGETTING_OBJECTIVE = part_metrics.RECALL_LEFT.name
PLAIN_VALUE = image_metrics.GROUP_ACCURACY.name
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
    """The metric that a repair is to improve, and what else is looked at for its sake.

    Attributes:
        metric: its name.
        values: the metrics whose values show which filters harm it.
        measure: how its figures are read.
        beside: the accuracy of the images that it leaves out; empty where it leaves out none.
        gives_up: whether a class is given up, so that no group is judged by its images.
    """

    metric: str
    values: tuple[str, ...]
    measure: Measure = NUMBER
    beside: str = ""
    gives_up: bool = False

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return self.measure.sign

    @property
    def is_worst_group(self) -> bool:
        """Whether it is the accuracy of the worst group."""
        return self.metric == FAIRNESS_OBJECTIVE

    @property
    def is_of_attacks(self) -> bool:
        """Whether it compares images with those that an attack or a trigger made of them."""
        definition = catalogue.definition_of(self.metric)
        return definition is not None and "attack" in definition.needs

    @property
    def plain_values(self) -> tuple[str, ...]:
        """What the plain recipe ranks by: shares of right answers."""
        return (PLAIN_VALUE if self.is_worst_group else self.metric,)

    @classmethod
    def of(cls, metric: str) -> Objective:
        """The objective called `metric`, with the values that it is best searched by.

        More of a `module:function` is better until `fitted` has looked at the function.
        """
        definition, argument = catalogue.definition_of(metric), metric.partition(":")[2]
        if definition is None:
            return cls(metric, (metric,), catalogue.measure_of(metric))
        values = tuple(name.replace("{}", argument) for name in definition.searched_by)
        return cls(
            metric=metric,
            values=values or (metric,),
            measure=catalogue.measure_of(metric),
            beside=definition.beside.replace("{}", argument),
            gives_up=definition.gives_up,
        )

    def judges_groups_by(self, metrics: MetricsOf, about: suite.Annotations) -> suite.Indices:
        """Positions of the images by which groups are judged: all, but those of a class given up.

        Args:
            metrics: from names to metrics.
            about: annotations of the images.
        """
        if not self.gives_up:
            return np.arange(len(about))
        return np.flatnonzero(metrics((self.beside,))[0].weights(about))

    def fitted(self, metric: Metric) -> Objective:
        """The same objective with the unit and the direction that its metric has."""
        return replace(self, measure=metric.measure)


@dataclass(frozen=True)
class Target:
    """A figure that the repaired model must reach, as `metric>=bound` or `metric<=bound`.

    `caution` counts the standard errors that it must have to spare.
    """

    metric: str
    relation: str
    bound: float
    caution: float = _CAUTION

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
        elif catalogue.definition_of(self.metric) is not None:
            measure = catalogue.measure_of(self.metric)
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
        """Whether a figure reaches it with as many standard errors to spare as it asks for."""
        away = -1 if self.relation == ">=" else 1
        return self.met(figure.value + away * self.caution * standard_error(figure))


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
            f"target {target}: the metric always lies between {low:g} and {high:g}; give a "
            f"number in that range{hint}{sign}"
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


@dataclass(frozen=True, kw_only=True)
class ChoosingCriterion:
    """A `crossfit.Criterion`: the objective made smooth, and the user's limits and targets.

    A changed model is objected to where it breaks a limit, breaks a target that the model meets as
    it is or leads away from one that it does not, or lowers the objective itself.

    Attributes:
        wishes: what is to be improved, and at which cost.
        metrics: from names to metrics.
        form: of the outputs.
        annotations: of all images that may choose.
        plain: the model's outputs for them as it is.
    """

    wishes: Wishes
    metrics: MetricsOf
    form: OutputForm | None
    annotations: suite.Annotations
    plain: suite.Array

    @cached_property
    def _known(self) -> dict[str, Metric]:
        names = self.wishes.metric_names
        return dict(zip(names, self.metrics(names), strict=True))

    @property
    def objective(self) -> Objective:
        """What is to be improved."""
        return self.wishes.objective

    @cached_property
    def _figures(self) -> dict[str, FigureOfImages | FigureOfOutputs]:
        return {n: figure_of(metric, self.annotations) for n, metric in self._known.items()}

    @cached_property
    def _plain_columns(self) -> dict[str, suite.Array]:
        return {name: figure.columns(self.plain) for name, figure in self._figures.items()}

    @cached_property
    def smooth(self) -> FigureOfImages | FigureOfOutputs:
        """The figure that is searched by, in its natural direction."""
        return smooth_figure(self._known[self.objective.metric], self.annotations)

    @property
    def additive(self) -> bool:
        """See `crossfit.Criterion`; a user's function may refuse outputs that no model gave."""
        of_outputs = isinstance(self.smooth, FigureOfOutputs)
        return not (of_outputs and catalogue.is_user_metric(self.objective.metric))

    def columns(self, outputs: suite.Array) -> suite.Array:
        """See `crossfit.Criterion`."""
        columns: suite.Array = self.smooth.columns(outputs)
        return columns

    def figure(self, columns: suite.Array, positions: suite.Indices) -> float:
        """See `crossfit.Criterion`."""
        return float(self.objective.sign * self.smooth.figure(columns, positions))

    def objection(self, outputs: suite.Array, positions: suite.Indices) -> str:
        """See `crossfit.Criterion`."""
        name, sign = self.objective.metric, self.objective.sign
        if sign * self.value(name, outputs, positions) < sign * self.before(name, positions):
            return f"{name} itself gets worse"
        for limit in self.wishes.limits:
            if not limit.kept(*self._change(limit.metric, outputs, positions)):
                return f"{limit.metric} may lose more than {limit.most:g}"
        group = self._group_beyond(outputs, positions)
        if group:
            return (
                f"the accuracy of group {group!r} may fall by more than the "
                f"{100 * self.wishes.max_group_drop:g} points that --max-group-drop allows"
            )
        for target in self.wishes.targets:
            after = self.value(target.metric, outputs, positions)
            before = self.before(target.metric, positions)
            closer = after >= before if target.relation == ">=" else after <= before
            if not (target.met(after) or (closer and not target.met(before))):
                return f"leads away from {target}"
        return ""

    def _group_beyond(self, outputs: suite.Array, positions: suite.Indices) -> str:
        """The group that loses most, where it loses more than it may; empty where none does.

        A single image never counts as a loss: in a group of 8 images it is 12 %.
        """
        about = self.annotations
        if about.groups is None or self._right is None or self.form is None:
            return ""
        after = self.form.predictions(outputs) == about.labels
        lost = (self._right & ~after).astype(np.int64) - (after & ~self._right)
        if attacked.is_attacked(about):
            positions = positions[~attacked.adversarial(about)[positions]]
        positions = positions[np.isin(positions, self._judging_groups)]
        groups, n_groups = about.groups[positions], len(about.group_names)
        net = np.bincount(groups, lost[positions], n_groups)
        sizes = np.bincount(groups, minlength=n_groups)
        beyond = net - np.maximum(self.wishes.max_group_drop * sizes, 1)
        return about.group_names[int(beyond.argmax())] if beyond.max() > 0 else ""

    @property
    def given_up(self) -> int:
        """The class that is to be named no longer; -1 where none is."""
        if not self.objective.gives_up:
            return -1
        weights = self._known[self.objective.metric].weights(self.annotations)
        return int(self.annotations.labels[weights > 0][0])

    @cached_property
    def _judging_groups(self) -> suite.Indices:
        return self.objective.judges_groups_by(self.metrics, self.annotations)

    @cached_property
    def _right(self) -> NDArray[np.bool_] | None:
        """Whether the model as it is answers each image rightly; None without classes."""
        if self.form is None or self.form.kind == "values":
            return None
        return np.asarray(self.form.predictions(self.plain) == self.annotations.labels)

    def value(self, name: str, outputs: suite.Array, positions: suite.Indices) -> float:
        """A metric of the images at `positions`."""
        figure = self._figures[name]
        return figure.figure(figure.columns(outputs), positions)

    def before(self, name: str, positions: suite.Indices) -> float:
        """The same of the model as it is."""
        return self._figures[name].figure(self._plain_columns[name], positions)

    def _change(
        self, name: str, outputs: suite.Array, positions: suite.Indices
    ) -> tuple[float, float]:
        """What a metric changes by, and the standard error; 0 where it is no mean over images."""
        figure = self._figures[name]
        if not isinstance(figure, FigureOfImages):
            return self.value(name, outputs, positions) - self.before(name, positions), 0.0
        weights = figure.weights[positions]
        whole = weights.sum()
        if whole <= 0:
            return 0.0, 0.0
        shares = weights / whole
        changes = figure.columns(outputs)[positions] - self._plain_columns[name][positions]
        mean = float(shares @ changes)
        return mean, float(np.sqrt((shares**2) @ (changes - mean) ** 2))


def figures_of(
    metrics: Sequence[Metric], outputs: suite.Array, about: suite.Annotations
) -> dict[str, float]:
    """Every metric of a model's outputs."""
    figures = {}
    for metric in metrics:
        scores = metric.score(outputs, about)
        value = scores @ metric.weights(about) if metric.per_image else scores
        figures[metric.name] = float(value)
    return figures
