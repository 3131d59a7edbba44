"""What the images that choose say of a coalition: a smooth figure, and which limits it breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.metric import Metric
from repairkit.core.suite import Annotations, Indices
from repairkit.metrics import OutputForm, figure_of, smooth_figure
from repairkit.workflows.objective import Limit, Objective, Target, metric_names

MetricsOf = Callable[[Sequence[str]], Sequence[Metric]]


@dataclass(frozen=True)
class ChoosingCriterion:
    """A `repairs.Criterion`: the objective made smooth, and the user's limits and targets.

    A coalition is objected to where it breaks a limit, breaks a target that the model meets as it
    is or leads away from one that it does not, or lowers the objective itself.

    Attributes:
        annotations: of the images that choose.
        plain: the model's outputs for them as it is.
    """

    objective: Objective
    limits: tuple[Limit, ...]
    targets: tuple[Target, ...]
    metrics: MetricsOf
    form: OutputForm | None
    annotations: Annotations
    plain: NDArray[Any]

    @cached_property
    def _known(self) -> dict[str, Metric]:
        unique = metric_names(self.objective, self.limits, self.targets)
        return dict(zip(unique, self.metrics(unique), strict=True))

    @cached_property
    def _smooth(self) -> Any:
        return smooth_figure(self._known[self.objective.metric], self.annotations, self.form)

    @cached_property
    def _before(self) -> dict[str, float]:
        return {name: self.value(name, self.plain) for name in self._known}

    def columns(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """See `repairs.Criterion`."""
        columns: NDArray[Any] = self._smooth.columns(outputs)
        return columns

    def figure(self, columns: NDArray[Any], positions: Indices) -> float:
        """See `repairs.Criterion`."""
        return float(self.objective.sign * self._smooth.figure(columns, positions))

    def objection(self, outputs: NDArray[Any]) -> str:
        """See `repairs.Criterion`."""
        name, sign = self.objective.metric, self.objective.sign
        if sign * self.value(name, outputs) < sign * self._before[name]:
            return f"{name} itself gets worse"
        for limit in self.limits:
            if not limit.kept(*self._change(limit.metric, outputs)):
                return f"{limit.metric} may lose more than {limit.most:g}"
        for target in self.targets:
            after, before = self.value(target.metric, outputs), self._before[target.metric]
            closer = after >= before if target.relation == ">=" else after <= before
            if not (target.met(after) or (closer and not target.met(before))):
                return f"leads away from {target}"
        return ""

    def value(self, name: str, outputs: NDArray[Any]) -> float:
        """A metric of the images that choose."""
        found = figure_of(self._known[name], self.annotations)
        return found.figure(found.columns(outputs), np.arange(len(outputs)))

    def _change(self, name: str, outputs: NDArray[Any]) -> tuple[float, float]:
        """What a metric changes by, and the standard error; 0 where it is no mean over images."""
        metric = self._known[name]
        if not metric.per_image:
            return self.value(name, outputs) - self._before[name], 0.0
        weights = metric.weights(self.annotations)
        changes = metric.score(outputs, self.annotations) - metric.score(
            self.plain, self.annotations
        )
        mean = float(weights @ changes)
        return mean, float(np.sqrt((weights**2) @ (changes - mean) ** 2))
