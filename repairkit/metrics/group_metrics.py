"""Metrics that compare groups, and the rates of each group with one class; computed from tallies.

The rates have Fairlearn's names: the share of a group that is predicted to be of the class, of
those that are of it, and of those that are not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core import metric, suite
from repairkit.core.outputs import OutputForm
from repairkit.metrics import definition

_Any = TypeVar("_Any", np.float64, np.bool_)


def _least_accuracy(tally: definition.Tally) -> definition.Figures:
    rates, known = _rates(tally.hits.sum(axis=-1), tally.group_sizes)
    least: definition.Figures = np.where(known, rates, np.inf).min(axis=-1)
    return least


def _worst_group_size(tally: definition.Tally) -> int:
    """The size of the worst group of the first draw; of the smallest where several are as bad."""
    sizes = tally.group_sizes[0]
    rates, known = _rates(tally.hits[0].sum(axis=-1), sizes)
    worst = known & (rates == rates[known].min())
    return int(sizes[worst].min())


def _parity_gap(tally: definition.Tally) -> definition.Figures:
    return _gap(tally.predicted, tally.group_sizes[..., np.newaxis])


def _opportunity_gap(tally: definition.Tally) -> definition.Figures:
    return _gap(tally.hits, tally.labelled)


def _odds_gap(tally: definition.Tally) -> definition.Figures:
    others = tally.group_sizes[..., np.newaxis] - tally.labelled
    false_positives = _gap(tally.predicted - tally.hits, others)
    return np.maximum(_opportunity_gap(tally), false_positives)


def _parity_ratio(tally: definition.Tally) -> definition.Figures:
    return _ratio(tally.predicted, tally.group_sizes[..., np.newaxis])


def _opportunity_ratio(tally: definition.Tally) -> definition.Figures:
    return _ratio(tally.hits, tally.labelled)


def _odds_ratio(tally: definition.Tally) -> definition.Figures:
    others = tally.group_sizes[..., np.newaxis] - tally.labelled
    return np.minimum(_opportunity_ratio(tally), _ratio(tally.predicted - tally.hits, others))


def _ratio(part: definition.Counts, whole: definition.Counts) -> definition.Figures:
    """The least part / whole of any group over the greatest; 1 where fewer than two count."""
    greatest, least = extremes(part, whole)
    ratios = np.ones_like(greatest)
    np.divide(least, greatest, out=ratios, where=(greatest > 0) & (least < greatest))
    worst: definition.Figures = _judged(ratios).min(axis=-1)
    return worst


def _gap(part: definition.Counts, whole: definition.Counts) -> definition.Figures:
    """The greatest difference of part / whole between groups; 0 where fewer than two."""
    greatest, least = extremes(part, whole)
    differences = np.maximum(greatest - least, 0.0)  # -inf where no group counts
    widest: definition.Figures = _judged(differences).max(axis=-1)
    return widest


def _parity_known(tally: definition.Tally) -> NDArray[np.bool_]:
    return _any_class(_comparable(tally.group_sizes[..., np.newaxis]))


def _opportunity_known(tally: definition.Tally) -> NDArray[np.bool_]:
    return _any_class(_judged(_comparable(tally.labelled)))


def _odds_known(tally: definition.Tally) -> NDArray[np.bool_]:
    others = tally.group_sizes[..., np.newaxis] - tally.labelled
    return _opportunity_known(tally) | _any_class(_judged(_comparable(others)))


def _any_class(by_class: NDArray[np.bool_]) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = np.asarray(by_class.any(axis=-1))
    return known


def _comparable(whole: definition.Counts) -> NDArray[np.bool_]:
    """Whether two groups have images that a rate counts, by draw and class."""
    several: NDArray[np.bool_] = (whole > 0).sum(axis=-2) >= 2
    return several


def extremes(
    part: definition.Counts, whole: definition.Counts
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The greatest and the least rate of any group per draw and class; -inf and inf of none."""
    rates, known = _rates(part, whole)
    return (
        np.where(known, rates, -np.inf).max(axis=-2),
        np.where(known, rates, np.inf).min(axis=-2),
    )


def _judged(by_class: NDArray[_Any]) -> NDArray[_Any]:
    """Of two classes only the second is judged; of more, each against the rest."""
    return by_class[..., 1:] if by_class.shape[-1] == 2 else by_class


def _rates(
    part: definition.Counts, whole: definition.Counts
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Part / whole, and where the whole is not empty (elsewhere the rate says nothing)."""
    known = np.broadcast_to(whole > 0, part.shape)
    return part / np.maximum(whole, 1), known


# Definitions; the functions that they are made of stand above.


def _compare(
    judge: Callable[[definition.Tally], definition.Figures],
    know: Callable[[definition.Tally], NDArray[np.bool_]] | None,
    weigh: definition.Weigh,
    case: definition.Case,
) -> definition.GroupMetric:
    """A metric that compares groups."""
    return definition.GroupMetric(
        name=case.name,
        measure=case.measure,
        form=case.form,
        n_classes=case.n_classes,
        judge=judge,
        weigh=weigh,
        know=know,
    )


def _compare_odds(
    judge: Callable[[definition.Tally], definition.Figures], case: definition.Case
) -> definition.GroupMetric:
    """Images are best drawn evenly over labels too, but with two classes only.

    With more, the rest counts as one class, and must keep its mixture.
    """
    by_label = case.n_classes == 2
    weigh = definition.weigh_groups_and_labels if by_label else definition.weigh_groups
    return _compare(judge, _odds_known, weigh, case)


def _worst_group(case: definition.Case) -> definition.GroupMetric:
    return replace(
        _compare(_least_accuracy, None, definition.weigh_groups, case),
        n_behind=_worst_group_size,
        smooth=definition.LogLikelihoods(case.form),
    )


_OF_GROUPS: tuple[str, ...] = ("group_loss", "group_loss:*")
_TWO_GROUPS: frozenset[definition.Need] = frozenset({"classes", "two groups"})


def _difference(words: str) -> metric.Measure:
    return metric.Measure(
        words=words, greater_is_better=False, unit="share", ends=(0.0, 1.0), even_at=0.0
    )


def _ratio_measure(words: str) -> metric.Measure:
    return metric.Measure(words=words, ends=(0.0, 1.0), even_at=1.0)


WORST_GROUP_ACCURACY = definition.Definition(
    name="worst_group_accuracy",
    measure=metric.Measure(words="accuracy of the worst group", unit="share", ends=(0.0, 1.0)),
    make=_worst_group,
    needs=frozenset({"classes", "groups"}),
    searched_by=_OF_GROUPS,
)
"""The accuracy of the group that fares worst (Sagawa et al., 2020)."""

EQUALIZED_ODDS_DIFFERENCE = definition.Definition(
    name="equalized_odds_difference",
    measure=_difference("equalized odds difference"),
    make=partial(_compare_odds, _odds_gap),
    needs=_TWO_GROUPS,
    searched_by=_OF_GROUPS,
)
"""The greater of the differences in true and in false positive rates between groups.

Fairlearn's definition, worst case. With two classes, class 1 is meant; with more, one against the
rest and the class with the greatest difference. A group without images of a class (or of any
other) is left out of that rate.
"""

DEMOGRAPHIC_PARITY_DIFFERENCE = definition.Definition(
    name="demographic_parity_difference",
    measure=_difference("demographic parity difference"),
    make=partial(_compare, _parity_gap, _parity_known, definition.weigh_groups),
    needs=_TWO_GROUPS,
    searched_by=_OF_GROUPS,
)
"""The greatest difference between groups in the share predicted to be of a class.

Fairlearn's definition. With two classes, class 1 is meant; with more, the class with the greatest
difference. Images are best drawn evenly over groups but not over labels: that would change the
shares.
"""

EQUAL_OPPORTUNITY_DIFFERENCE = definition.Definition(
    name="equal_opportunity_difference",
    measure=_difference("equal opportunity difference"),
    make=partial(
        _compare, _opportunity_gap, _opportunity_known, definition.weigh_groups_and_labels
    ),
    needs=_TWO_GROUPS,
    searched_by=_OF_GROUPS,
)
"""The greatest difference between groups in the share of a class that is found.

Fairlearn's definition (true positive rates). With two classes, class 1 is meant; with more, the
class with the greatest difference. A group without images of a class is left out of its rates.
"""

EQUALIZED_ODDS_RATIO = definition.Definition(
    name="equalized_odds_ratio",
    measure=_ratio_measure("equalized odds ratio"),
    make=partial(_compare_odds, _odds_ratio),
    needs=_TWO_GROUPS,
)
"""The lesser of the ratios of true and of false positive rates.

Fairlearn's definition, worst case, with classes as in `equalized_odds_difference`; a ratio of rates
that are all 0 is 1.
"""

DEMOGRAPHIC_PARITY_RATIO = definition.Definition(
    name="demographic_parity_ratio",
    measure=_ratio_measure("demographic parity ratio"),
    make=partial(_compare, _parity_ratio, _parity_known, definition.weigh_groups),
    needs=_TWO_GROUPS,
)
"""The least share predicted to be of a class in any group, over the greatest.

Fairlearn's definition, with classes as in `demographic_parity_difference`. Where no group has any,
shares are even: the ratio is 1.
"""

EQUAL_OPPORTUNITY_RATIO = definition.Definition(
    name="equal_opportunity_ratio",
    measure=_ratio_measure("equal opportunity ratio"),
    make=partial(
        _compare, _opportunity_ratio, _opportunity_known, definition.weigh_groups_and_labels
    ),
    needs=_TWO_GROUPS,
)
"""The least true positive rate of any group over the greatest.

Fairlearn's definition, with classes as in `equal_opportunity_difference`; 1 where all are 0.
"""


_COUNTED: dict[str, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
    "selection_rate": np.ones_like,
    "true_positive_rate": np.array,
    "false_positive_rate": np.logical_not,
}
RATES = tuple(_COUNTED)
_SHOWN = 6


@dataclass(frozen=True)
class Predicted:
    """1 for an image that is predicted to be of a class, else 0."""

    form: OutputForm
    class_number: int

    def __call__(self, outputs: suite.Array, _: suite.Annotations) -> NDArray[np.float64]:
        return np.asarray(self.form.predictions(outputs) == self.class_number, np.float64)


def group_rates(
    form: OutputForm, class_number: int, annotations: suite.Annotations
) -> dict[tuple[str, str], definition.ImageMetric]:
    """The rates of a class as metrics, by rate and group; range [0, 1].

    A rate that no image of the group counts for is left out.
    """
    metrics = {}
    for rate in RATES:
        for number, group in enumerate(annotations.group_names):
            if _counted(rate, number, class_number, annotations).any():
                metrics[rate, group] = definition.ImageMetric(
                    name=f"{rate}:{class_number}:{group}",
                    measure=metric.Measure(
                        words=rate.replace("_", " "), unit="share", ends=(0.0, 1.0)
                    ),
                    score_range=(0.0, 1.0),
                    score_images=Predicted(form, class_number),
                    weigh=partial(_weigh, rate, number, class_number),
                )
    return metrics


def left_out(annotations: suite.Annotations, n_classes: int) -> list[str]:
    """Sentences on the groups that have no rate of a class, for they hold no image that it counts.

    Of two classes only the second is judged; of more, each against the rest.
    """
    groups, names = definition.groups_of(annotations), annotations.group_names
    cells = np.bincount(
        groups * n_classes + annotations.labels, minlength=len(names) * n_classes
    ).reshape(len(names), n_classes)
    first = 1 if n_classes == 2 else 0  # the first class that is judged
    counted = {
        "true positive rate": ("no images", cells[:, first:]),
        "false positive rate": (
            "only images",
            cells.sum(axis=1, keepdims=True) - cells[:, first:],
        ),
    }
    sentences = []
    for rate, (has, n_counted) in counted.items():
        pairs = np.argwhere(n_counted == 0)
        if len(pairs):
            class_name = partial(definition.bare_class_name, annotations)
            shown = [
                f"{names[group]} has {has} of class {class_name(first + number)}"
                for group, number in pairs[:_SHOWN]
            ]
            more = f", and {len(pairs) - _SHOWN} more such pairs" if len(pairs) > _SHOWN else ""
            sentences.append(
                f"the {rate} is not defined, and comparisons leave it out: {'; '.join(shown)}{more}"
            )
    return sentences


def class_furthest_apart(
    outputs: suite.Array, annotations: suite.Annotations, form: OutputForm, n_classes: int
) -> int:
    """The class that differs most between groups in true or in false positive rates.

    Of two classes it is always the second, as for the metrics.
    """
    if n_classes <= 2:
        return n_classes - 1
    tally = definition.tally_predictions(form.predictions(outputs), annotations, n_classes)
    others = tally.group_sizes[..., np.newaxis] - tally.labelled
    spreads = [
        greatest - least
        for greatest, least in (
            extremes(tally.hits, tally.labelled),
            extremes(tally.predicted - tally.hits, others),
        )
    ]
    return int(np.maximum(*spreads)[0].argmax())


def _counted(
    rate: str, group_number: int, class_number: int, annotations: suite.Annotations
) -> NDArray[np.bool_]:
    members = definition.groups_of(annotations) == group_number
    counted: NDArray[np.bool_] = members & _COUNTED[rate](annotations.labels == class_number)
    return counted


def _weigh(
    rate: str, group_number: int, class_number: int, annotations: suite.Annotations
) -> definition.Weights:
    counted = _counted(rate, group_number, class_number, annotations)
    shares: definition.Weights = counted / counted.sum()
    return shares
