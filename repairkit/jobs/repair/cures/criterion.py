"""What the images that choose say of a coalition: a smooth figure, and which limits it breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.metric import Metric
from repairkit.core.suite import Annotations, Indices
from repairkit.jobs.repair.objective import Limit, Objective, Target, metric_names
from repairkit.metrics import (
    FigureOfImages,
    FigureOfOutputs,
    OutputForm,
    adversarial,
    figure_of,
    is_attacked,
    is_user_metric,
    smooth_figure,
)

MetricsOf = Callable[[Sequence[str]], Sequence[Metric]]


@dataclass(frozen=True)
class ChoosingCriterion:
    """A `repairs.Criterion`: the objective made smooth, and the user's limits and targets.

    A coalition is objected to where it breaks a limit, breaks a target that the model meets as it
    is or leads away from one that it does not, or lowers the objective itself.

    Attributes:
        objective: what is to be improved.
        limits: what metrics may lose.
        targets: figures to be reached.
        max_group_drop: what the accuracy of a group may lose, in [0, 1].
        metrics: from names to metrics.
        form: of the outputs.
        annotations: of all images that may choose.
        plain: the model's outputs for them as it is.
    """

    objective: Objective
    limits: tuple[Limit, ...]
    targets: tuple[Target, ...]
    max_group_drop: float
    metrics: MetricsOf
    form: OutputForm | None
    annotations: Annotations
    plain: Array

    @cached_property
    def _known(self) -> dict[str, Metric]:
        unique = metric_names(self.objective, self.limits, self.targets)
        return dict(zip(unique, self.metrics(unique), strict=True))

    @cached_property
    def _figures(self) -> dict[str, FigureOfImages | FigureOfOutputs]:
        return {n: figure_of(metric, self.annotations) for n, metric in self._known.items()}

    @cached_property
    def _plain_columns(self) -> dict[str, Array]:
        return {name: found.columns(self.plain) for name, found in self._figures.items()}

    @cached_property
    def smooth(self) -> FigureOfImages | FigureOfOutputs:
        """The figure that is searched by, in its natural direction."""
        return smooth_figure(self._known[self.objective.metric], self.annotations)

    @property
    def additive(self) -> bool:
        """See `repairs.Criterion`; a user's function may refuse outputs that no model gave."""
        of_outputs = isinstance(self.smooth, FigureOfOutputs)
        return not (of_outputs and is_user_metric(self.objective.metric))

    def columns(self, outputs: Array) -> Array:
        """See `repairs.Criterion`."""
        columns: Array = self.smooth.columns(outputs)
        return columns

    def figure(self, columns: Array, positions: Indices) -> float:
        """See `repairs.Criterion`."""
        return float(self.objective.sign * self.smooth.figure(columns, positions))

    def objection(self, outputs: Array, positions: Indices) -> str:
        """See `repairs.Criterion`."""
        name, sign = self.objective.metric, self.objective.sign
        if sign * self.value(name, outputs, positions) < sign * self.before(name, positions):
            return f"{name} itself gets worse"
        for limit in self.limits:
            if not limit.kept(*self._change(limit.metric, outputs, positions)):
                return f"{limit.metric} may lose more than {limit.most:g}"
        group = self._group_beyond(outputs, positions)
        if group:
            return (
                f"the accuracy of group {group!r} may fall by more than the "
                f"{100 * self.max_group_drop:g} points that --max-group-drop allows"
            )
        for target in self.targets:
            after = self.value(target.metric, outputs, positions)
            before = self.before(target.metric, positions)
            closer = after >= before if target.relation == ">=" else after <= before
            if not (target.met(after) or (closer and not target.met(before))):
                return f"leads away from {target}"
        return ""

    def _group_beyond(self, outputs: Array, positions: Indices) -> str:
        """The group that loses most, where it loses more than it may; empty where none does.

        A single image never counts as a loss: in a group of 8 images it is 12 %.
        """
        about = self.annotations
        if about.groups is None or self._right is None or self.form is None:
            return ""
        after = self.form.predictions(outputs) == about.labels
        lost = (self._right & ~after).astype(np.int64) - (after & ~self._right)
        if is_attacked(about):
            positions = positions[~adversarial(about)[positions]]
        groups, n_groups = about.groups[positions], len(about.group_names)
        net = np.bincount(groups, lost[positions], n_groups)
        sizes = np.bincount(groups, minlength=n_groups)
        beyond = net - np.maximum(self.max_group_drop * sizes, 1)
        return about.group_names[int(beyond.argmax())] if beyond.max() > 0 else ""

    @cached_property
    def _right(self) -> NDArray[np.bool_] | None:
        """Whether the model as it is answers each image rightly; None without classes."""
        if self.form is None or self.form.kind == "values":
            return None
        return np.asarray(self.form.predictions(self.plain) == self.annotations.labels)

    def value(self, name: str, outputs: Array, positions: Indices) -> float:
        """A metric of the images at `positions`."""
        found = self._figures[name]
        return found.figure(found.columns(outputs), positions)

    def before(self, name: str, positions: Indices) -> float:
        """The same of the model as it is."""
        return self._figures[name].figure(self._plain_columns[name], positions)

    def _change(self, name: str, outputs: Array, positions: Indices) -> tuple[float, float]:
        """What a metric changes by, and the standard error; 0 where it is no mean over images."""
        found = self._figures[name]
        if not isinstance(found, FigureOfImages):
            return self.value(name, outputs, positions) - self.before(name, positions), 0.0
        weights = found.weights[positions]
        whole = weights.sum()
        if whole <= 0:
            return 0.0, 0.0
        shares = weights / whole
        changes = found.columns(outputs)[positions] - self._plain_columns[name][positions]
        mean = float(shares @ changes)
        return mean, float(np.sqrt((shares**2) @ (changes - mean) ** 2))
