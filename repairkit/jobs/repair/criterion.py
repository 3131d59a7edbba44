"""How far a changed model gets on the objective, and which limit or target it breaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, suite
from repairkit.core.metric import Metric
from repairkit.core.outputs import OutputForm
from repairkit.jobs.repair.objective import MetricsOf, Objective, Wishes
from repairkit.metrics.catalogue import is_user_metric
from repairkit.metrics.resampling import FigureOfImages, FigureOfOutputs, figure_of, smooth_figure


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
        return not (of_outputs and is_user_metric(self.objective.metric))

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
        groups, n_groups = about.groups[positions], len(about.group_names)
        net = np.bincount(groups, lost[positions], n_groups)
        sizes = np.bincount(groups, minlength=n_groups)
        beyond = net - np.maximum(self.wishes.max_group_drop * sizes, 1)
        return about.group_names[int(beyond.argmax())] if beyond.max() > 0 else ""

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
