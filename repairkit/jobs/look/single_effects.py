"""What freezing one filter alone does to the metric, and to the accuracy of groups and classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from repairkit.core.filters import Filter
from repairkit.core.metric import Metric
from repairkit.core.process.stages import stage
from repairkit.core.results import Figure
from repairkit.core.suite import Annotations, Array, Suite
from repairkit.engine.cones.cone_costs import arithmetic_of, cone_shares
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics import catalogue, evaluation

_RESAMPLES = 500
_MULTIPLICATIONS = 4e11
_FEWEST_IMAGES = 64
_UNKNOWN_COST = 128  # images, where the arithmetic is not known
_MOST_CLASSES = 40
_OF_GROUP = "accuracy:"


@dataclass(frozen=True, kw_only=True)
class SingleEffect:
    """What freezing a filter changes: after less before, on the same images.

    Attributes:
        value: of the metric.
        groups: of the accuracy of each group, by name.
        classes: of the accuracy of each class, by name.
        n_of: how many images there are, by `group` or `class` and the name.
    """

    value: Figure
    groups: dict[str, Figure] = field(default_factory=dict)
    classes: dict[str, Figure] = field(default_factory=dict)
    n_of: dict[tuple[str, str], int] = field(default_factory=dict)

    def brief(self) -> dict[str, Any]:
        """The differences alone, as reports have them."""
        groups = {f"{_OF_GROUP}{name}": figure.value for name, figure in self.groups.items()}
        return {"value": self.value.to_json()["value"], "groups": groups}


def affordable(bench: Bench, filters: Sequence[Filter], suite: Suite) -> Suite:
    """As many images as the effects of these filters are worth, evenly over the suite.

    The arithmetic decides, and not the clock: every machine looks at the same images.
    """
    shares, whole = cone_shares(bench.working, suite), arithmetic_of(bench.working, suite)
    if shares is None or whole is None:
        return suite.thinned(_UNKNOWN_COST)
    each = sum(shares[filter.site] for filter in filters) * whole
    return suite.thinned(max(int(_MULTIPLICATIONS / max(each, 1.0)), _FEWEST_IMAGES))


@stage("freezing filters one by one")
def single_effects(
    bench: Bench, filters: Sequence[Filter], suite: Suite, metric: str, *, full: bool = False
) -> list[SingleEffect]:
    """The effect of each filter alone on the images of a suite.

    Args:
        bench: with the model.
        filters: of its roster.
        suite: the images.
        metric: by name.
        full: with 95 % intervals of a paired bootstrap, and the accuracy of classes; each interval
            holds for itself, not for all filters together.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    made = bench.metrics((metric,))
    game = bench.working.game(suite, made)
    everyone = np.ones(len(bench.roster), bool)
    plain = game.outputs(everyone)
    effects = []
    for wanted in filters:
        coalition = everyone.copy()
        coalition[bench.roster.column(wanted)] = False
        alone = game.outputs(coalition)
        effects.append(_effect(bench, (plain, alone), suite.annotations, made[0], full=full))
    return effects


def _effect(
    bench: Bench, outputs: tuple[Array, Array], about: Annotations, metric: Metric, *, full: bool
) -> SingleEffect:
    n_resamples = _RESAMPLES if full else 1
    # To call a user's function once for each resample may take hours.
    slow = catalogue.is_user_metric(metric.name) and not metric.per_image
    metrics = () if slow else (metric,)
    moved = evaluation.difference(
        *outputs,
        about,
        metrics,
        form=bench.form,
        n_resamples=n_resamples,
        seed=bench.settings.seed,
    )
    value = moved.pop(metric.name) if metrics else _without_interval(metric, outputs, about)
    groups = {name.removeprefix(_OF_GROUP): figure for name, figure in moved.items()}
    classes = _by_class(bench, outputs, about, n_resamples) if full else {}
    return SingleEffect(
        value=value,
        groups=groups,
        classes={name: figure for name, (figure, _) in classes.items()},
        n_of={("class", name): n for name, (_, n) in classes.items()} | _sizes(about),
    )


def _without_interval(metric: Metric, outputs: tuple[Array, Array], about: Annotations) -> Figure:
    before, after = (float(metric.score(each, about)) for each in outputs)
    return Figure(after - before, math.nan, math.nan)


def _sizes(about: Annotations) -> dict[tuple[str, str], int]:
    if about.groups is None:
        return {}
    counts = np.bincount(about.groups, minlength=len(about.group_names)).tolist()
    return {("group", name): n for name, n in zip(about.group_names, counts, strict=True)}


def _by_class(
    bench: Bench, outputs: tuple[Array, Array], about: Annotations, n_resamples: int
) -> dict[str, tuple[Figure, int]]:
    """The change of the accuracy of each class, and its images; of the largest classes alone."""
    if not bench.n_classes or bench.form is None or not bench.dataset.labelled:
        return {}
    counts = np.bincount(about.labels, minlength=bench.n_classes)
    largest = np.sort(np.argsort(-counts, kind="stable")[:_MOST_CLASSES])
    kept = [label for label in largest.tolist() if counts[label]]
    number = np.full(len(counts), len(kept))
    number[kept] = np.arange(len(kept))
    names = tuple(f"class {place}" for place in range(len(kept) + 1))
    shown = replace(about, groups=number[about.labels], group_names=names)
    moved = evaluation.difference(
        *outputs, shown, (), form=bench.form, n_resamples=n_resamples, seed=bench.settings.seed
    )
    return {
        about.class_name(label): (moved[f"{_OF_GROUP}{names[place]}"], int(counts[label]))
        for place, label in enumerate(kept)
        if f"{_OF_GROUP}{names[place]}" in moved
    }
