"""Metrics that compare groups: figures of a set of images, computed from counts alone.

Each figure is a function of a tally: for every group, how many images are of a class, how many are
predicted to be, and how many are both. Many resamples of a set are therefore judged at once: their
tallies are stacked, and no image is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError
from repairkit.core.metric import Measure, Metric, ScoreImages
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Indices
from repairkit.metrics import weights
from repairkit.metrics.definition import Case, Definition, LogLikelihoods, Need, Weigh

Counts = NDArray[np.int64]
"""Shape (n_draws, n_groups, n_classes)."""
_Any = TypeVar("_Any", np.float64, np.bool_)
Figures = NDArray[np.float64]
"""Shape (n_draws,)."""


@dataclass(frozen=True)
class Tally:
    """Images by group and class: truly of it, predicted to be, and both.

    A prediction of -1 (the model gave NaN) adds to none but the first.
    """

    labelled: Counts
    predicted: Counts
    hits: Counts

    @property
    def group_sizes(self) -> NDArray[np.int64]:
        """Shape (n_draws, n_groups)."""
        sizes: NDArray[np.int64] = self.labelled.sum(axis=-1)
        return sizes


@dataclass(frozen=True, kw_only=True)
class GroupMetric:
    """A figure of the images together; `score` judges the groups that are present.

    `judge` makes figures of tallies. `n_behind` gives the images of which the figure is the plain
    share, for metrics that are such a share; an interval may rest on it. `know` tells which tallies
    define the figure: a rate needs images that it counts in two groups. For the others `judge` says
    that nothing sets groups apart, as a search takes it; a report says that it is not known.
    """

    name: str
    measure: Measure
    form: OutputForm
    n_classes: int
    judge: Callable[[Tally], Figures]
    weigh: Weigh
    n_behind: Callable[[Tally], int] | None = None
    know: Callable[[Tally], NDArray[np.bool_]] | None = None
    smooth: ScoreImages | None = None
    score_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    per_image: ClassVar[bool] = False

    @property
    def scorer(self) -> object:
        return self

    def weights(self, annotations: Annotations) -> weights.Weights:
        """Shape (n_images,); DataError where a group has no image."""
        return self.weigh(annotations)

    def score(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        """Shape ()."""
        return np.asarray(self.judge(self.tally(outputs, annotations))[0])

    def known(self, tally: Tally) -> NDArray[np.bool_]:
        """Which tallies define the figure: (n_draws,)."""
        return np.ones(len(tally.labelled), bool) if self.know is None else self.know(tally)

    def tally(
        self, outputs: Array, annotations: Annotations, draws: Indices | None = None
    ) -> Tally:
        """Counts of the images at each row of `draws` (n_draws, n); one draw of all by default."""
        predictions = self.form.predictions(outputs)
        return tally_predictions(predictions, annotations, self.n_classes, draws)


def tally_predictions(
    predictions: NDArray[np.int64],
    annotations: Annotations,
    n_classes: int,
    draws: Indices | None = None,
) -> Tally:
    """Counts of the images at each row of `draws` (n_draws, n); one draw of all by default."""
    groups = weights.groups_of(annotations)
    rows = np.arange(len(groups))[np.newaxis] if draws is None else draws
    n_groups = len(annotations.group_names)
    # One bin more than there are cells takes what belongs to none of them.
    spare = n_groups * n_classes
    true_cells = groups * n_classes + annotations.labels
    said_cells = np.where(predictions < 0, spare, groups * n_classes + predictions)
    hit_cells = np.where(predictions == annotations.labels, true_cells, spare)

    def count(cells: NDArray[np.int64]) -> Counts:
        counts = count_draws(cells[rows], spare + 1)[:, :spare]
        return counts.reshape(len(rows), n_groups, n_classes)

    return Tally(count(true_cells), count(said_cells), count(hit_cells))


def check_defined(metric: Metric, annotations: Annotations, part: str) -> None:
    """Refuse images that do not define a metric, before anything is spent on them.

    Args:
        metric: any.
        annotations: of the images.
        part: of which these are the images.

    Raises:
        DataError: no image is of the class or the group that is judged, or no two groups have
            images that a rate counts.
    """
    try:
        metric.weights(annotations)
    except DataError as error:
        raise DataError(f"{metric.name} on the {part} part: {error}") from error
    if isinstance(metric, GroupMetric) and not metric.known(_labels_alone(metric, annotations))[0]:
        raise DataError(
            f"{metric.name} is not defined on the {len(annotations)} images of the {part} part: no "
            "class that it judges has images in two groups; give this part other images, or choose "
            "another metric"
        )


def _labels_alone(metric: GroupMetric, annotations: Annotations) -> Tally:
    """The tally of a model that says nothing; what defines a figure hangs on labels alone."""
    shape = (1, len(annotations.group_names), metric.n_classes)
    cells = weights.groups_of(annotations) * metric.n_classes + annotations.labels
    labelled = np.bincount(cells, minlength=shape[1] * shape[2]).reshape(shape)
    nothing = np.zeros(shape, np.int64)
    return Tally(labelled, nothing, nothing)


def count_draws(drawn: NDArray[np.int64], n_bins: int) -> NDArray[np.int64]:
    """How often each number below `n_bins` stands in each row of `drawn`: (n_rows, n_bins)."""
    offsets = np.arange(len(drawn))[:, np.newaxis] * n_bins
    counts = np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * n_bins)
    return counts.reshape(len(drawn), n_bins)


def _least_accuracy(tally: Tally) -> Figures:
    rates, known = _rates(tally.hits.sum(axis=-1), tally.group_sizes)
    least: Figures = np.where(known, rates, np.inf).min(axis=-1)
    return least


def _worst_group_size(tally: Tally) -> int:
    """The size of the worst group of the first draw; of the smallest where several are as bad."""
    sizes = tally.group_sizes[0]
    rates, known = _rates(tally.hits[0].sum(axis=-1), sizes)
    worst = known & (rates == rates[known].min())
    return int(sizes[worst].min())


def _parity_gap(tally: Tally) -> Figures:
    return _gap(tally.predicted, tally.group_sizes[..., np.newaxis])


def _opportunity_gap(tally: Tally) -> Figures:
    return _gap(tally.hits, tally.labelled)


def _odds_gap(tally: Tally) -> Figures:
    others = tally.group_sizes[..., np.newaxis] - tally.labelled
    false_positives = _gap(tally.predicted - tally.hits, others)
    return np.maximum(_opportunity_gap(tally), false_positives)


def _parity_ratio(tally: Tally) -> Figures:
    return _ratio(tally.predicted, tally.group_sizes[..., np.newaxis])


def _opportunity_ratio(tally: Tally) -> Figures:
    return _ratio(tally.hits, tally.labelled)


def _odds_ratio(tally: Tally) -> Figures:
    others = tally.group_sizes[..., np.newaxis] - tally.labelled
    return np.minimum(_opportunity_ratio(tally), _ratio(tally.predicted - tally.hits, others))


def _ratio(part: Counts, whole: Counts) -> Figures:
    """The least part / whole of any group over the greatest; 1 where fewer than two count."""
    greatest, least = extremes(part, whole)
    ratios = np.ones_like(greatest)
    np.divide(least, greatest, out=ratios, where=(greatest > 0) & (least < greatest))
    worst: Figures = _judged(ratios).min(axis=-1)
    return worst


def _gap(part: Counts, whole: Counts) -> Figures:
    """The greatest difference of part / whole between groups; 0 where fewer than two."""
    greatest, least = extremes(part, whole)
    differences = np.maximum(greatest - least, 0.0)  # -inf where no group counts
    widest: Figures = _judged(differences).max(axis=-1)
    return widest


def _parity_known(tally: Tally) -> NDArray[np.bool_]:
    return _any_class(_comparable(tally.group_sizes[..., np.newaxis]))


def _opportunity_known(tally: Tally) -> NDArray[np.bool_]:
    return _any_class(_judged(_comparable(tally.labelled)))


def _odds_known(tally: Tally) -> NDArray[np.bool_]:
    others = tally.group_sizes[..., np.newaxis] - tally.labelled
    return _opportunity_known(tally) | _any_class(_judged(_comparable(others)))


def _any_class(by_class: NDArray[np.bool_]) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = np.asarray(by_class.any(axis=-1))
    return known


def _comparable(whole: Counts) -> NDArray[np.bool_]:
    """Whether two groups have images that a rate counts, by draw and class."""
    several: NDArray[np.bool_] = (whole > 0).sum(axis=-2) >= 2
    return several


def extremes(part: Counts, whole: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The greatest and the least rate of any group per draw and class; -inf and inf of none."""
    rates, known = _rates(part, whole)
    return (
        np.where(known, rates, -np.inf).max(axis=-2),
        np.where(known, rates, np.inf).min(axis=-2),
    )


def _judged(by_class: NDArray[_Any]) -> NDArray[_Any]:
    """Of two classes only the second is judged; of more, each against the rest."""
    return by_class[..., 1:] if by_class.shape[-1] == 2 else by_class


def _rates(part: Counts, whole: Counts) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Part / whole, and where the whole is not empty (elsewhere the rate says nothing)."""
    known = np.broadcast_to(whole > 0, part.shape)
    return part / np.maximum(whole, 1), known


# Definitions; the functions that they are made of stand above.


def _compared(
    judge: Callable[[Tally], Figures], know: Callable[[Tally], NDArray[np.bool_]], weigh: Weigh
) -> Callable[[Case], GroupMetric]:
    """How a metric that compares groups is made."""
    return lambda case: _compare(case, judge, know, weigh)


def _compare(
    case: Case,
    judge: Callable[[Tally], Figures],
    know: Callable[[Tally], NDArray[np.bool_]],
    weigh: Weigh,
) -> GroupMetric:
    return GroupMetric(
        name=case.name,
        measure=case.measure,
        form=case.form,
        n_classes=case.n_classes,
        judge=judge,
        weigh=weigh,
        know=know,
    )


def _compared_odds(judge: Callable[[Tally], Figures]) -> Callable[[Case], GroupMetric]:
    """Images are best drawn evenly over labels too, but with two classes only.

    With more, the rest counts as one class, and must keep its mixture.
    """

    def make(case: Case) -> GroupMetric:
        by_label = case.n_classes == 2
        weigh = weights.over_groups_and_labels if by_label else weights.over_groups
        return _compare(case, judge, _odds_known, weigh)

    return make


def _worst_group(case: Case) -> GroupMetric:
    return GroupMetric(
        name=case.name,
        measure=case.measure,
        form=case.form,
        n_classes=case.n_classes,
        judge=_least_accuracy,
        weigh=weights.over_groups,
        n_behind=_worst_group_size,
        smooth=LogLikelihoods(case.form),
    )


_OF_GROUPS: tuple[str, ...] = ("group_loss", "group_loss:*")
_TWO_GROUPS: frozenset[Need] = frozenset({"classes", "two groups"})


def _difference(words: str) -> Measure:
    return Measure(words=words, greater_is_better=False, unit="share", ends=(0.0, 1.0), even_at=0.0)


def _ratio_measure(words: str) -> Measure:
    return Measure(words=words, ends=(0.0, 1.0), even_at=1.0)


WORST_GROUP_ACCURACY = Definition(
    name="worst_group_accuracy",
    measure=Measure(words="accuracy of the worst group", unit="share", ends=(0.0, 1.0)),
    make=_worst_group,
    needs=frozenset({"classes", "groups"}),
    searched_by=_OF_GROUPS,
)
"""The accuracy of the group that fares worst (Sagawa et al., 2020)."""

EQUALIZED_ODDS_DIFFERENCE = Definition(
    name="equalized_odds_difference",
    measure=_difference("equalized odds difference"),
    make=_compared_odds(_odds_gap),
    needs=_TWO_GROUPS,
    searched_by=_OF_GROUPS,
)
"""The greater of the differences in true and in false positive rates between groups.

Fairlearn's definition, worst case. With two classes, class 1 is meant; with more, one against the
rest and the class with the greatest difference. A group without images of a class (or of any
other) is left out of that rate.
"""

DEMOGRAPHIC_PARITY_DIFFERENCE = Definition(
    name="demographic_parity_difference",
    measure=_difference("demographic parity difference"),
    make=_compared(_parity_gap, _parity_known, weights.over_groups),
    needs=_TWO_GROUPS,
    searched_by=_OF_GROUPS,
)
"""The greatest difference between groups in the share predicted to be of a class.

Fairlearn's definition. With two classes, class 1 is meant; with more, the class with the greatest
difference. Images are best drawn evenly over groups but not over labels: that would change the
shares.
"""

EQUAL_OPPORTUNITY_DIFFERENCE = Definition(
    name="equal_opportunity_difference",
    measure=_difference("equal opportunity difference"),
    make=_compared(_opportunity_gap, _opportunity_known, weights.over_groups_and_labels),
    needs=_TWO_GROUPS,
    searched_by=_OF_GROUPS,
)
"""The greatest difference between groups in the share of a class that is found.

Fairlearn's definition (true positive rates). With two classes, class 1 is meant; with more, the
class with the greatest difference. A group without images of a class is left out of its rates.
"""

EQUALIZED_ODDS_RATIO = Definition(
    name="equalized_odds_ratio",
    measure=_ratio_measure("equalized odds ratio"),
    make=_compared_odds(_odds_ratio),
    needs=_TWO_GROUPS,
)
"""The lesser of the ratios of true and of false positive rates.

Fairlearn's definition, worst case, with classes as in `equalized_odds_difference`; a ratio of rates
that are all 0 is 1.
"""

DEMOGRAPHIC_PARITY_RATIO = Definition(
    name="demographic_parity_ratio",
    measure=_ratio_measure("demographic parity ratio"),
    make=_compared(_parity_ratio, _parity_known, weights.over_groups),
    needs=_TWO_GROUPS,
)
"""The least share predicted to be of a class in any group, over the greatest.

Fairlearn's definition, with classes as in `demographic_parity_difference`. Where no group has any,
shares are even: the ratio is 1.
"""

EQUAL_OPPORTUNITY_RATIO = Definition(
    name="equal_opportunity_ratio",
    measure=_ratio_measure("equal opportunity ratio"),
    make=_compared(_opportunity_ratio, _opportunity_known, weights.over_groups_and_labels),
    needs=_TWO_GROUPS,
)
"""The least true positive rate of any group over the greatest.

Fairlearn's definition, with classes as in `equal_opportunity_difference`; 1 where all are 0.
"""
