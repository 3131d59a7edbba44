"""How each group fares with one class: selection, true positive and false positive rates.

Fairlearn's names: the share of a group that is predicted to be of the class, of those that are of
it, and of those that are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.metric import Measure
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations
from repairkit.metrics import weights
from repairkit.metrics.definition import ImageMetric
from repairkit.metrics.group_metrics import extremes, tally_predictions

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

    def __call__(self, outputs: Array, _: Annotations) -> NDArray[np.float64]:
        return np.asarray(self.form.predictions(outputs) == self.class_number, np.float64)


def group_rates(
    form: OutputForm, class_number: int, annotations: Annotations
) -> dict[tuple[str, str], ImageMetric]:
    """The rates of a class as metrics, by rate and group; range [0, 1].

    A rate that no image of the group counts for is left out.
    """
    metrics = {}
    for rate in RATES:
        for number, group in enumerate(annotations.group_names):
            if _counted(rate, number, class_number, annotations).any():
                metrics[rate, group] = ImageMetric(
                    name=f"{rate}:{class_number}:{group}",
                    measure=Measure(words=rate.replace("_", " "), unit="share", ends=(0.0, 1.0)),
                    score_range=(0.0, 1.0),
                    score_images=Predicted(form, class_number),
                    weigh=partial(_weigh, rate, number, class_number),
                )
    return metrics


def left_out(annotations: Annotations, n_classes: int) -> list[str]:
    """Sentences on the groups that have no rate of a class, for they hold no image that it counts.

    Of two classes only the second is judged; of more, each against the rest.
    """
    groups, names = weights.groups_of(annotations), annotations.group_names
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
            shown = [
                f"{names[group]} has {has} of class {_class_name(annotations, first + number)}"
                for group, number in pairs[:_SHOWN]
            ]
            more = f", and {len(pairs) - _SHOWN} more such pairs" if len(pairs) > _SHOWN else ""
            sentences.append(
                f"the {rate} is not defined, and comparisons leave it out: {'; '.join(shown)}{more}"
            )
    return sentences


def _class_name(annotations: Annotations, class_number: int) -> str:
    names = annotations.class_names
    return names[class_number] if class_number < len(names) else str(class_number)


def class_furthest_apart(
    outputs: Array, annotations: Annotations, form: OutputForm, n_classes: int
) -> int:
    """The class that differs most between groups in true or in false positive rates.

    Of two classes it is always the second, as for the metrics.
    """
    if n_classes <= 2:
        return n_classes - 1
    tally = tally_predictions(form.predictions(outputs), annotations, n_classes)
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
    rate: str, group_number: int, class_number: int, annotations: Annotations
) -> NDArray[np.bool_]:
    members = weights.groups_of(annotations) == group_number
    counted: NDArray[np.bool_] = members & _COUNTED[rate](annotations.labels == class_number)
    return counted


def _weigh(
    rate: str, group_number: int, class_number: int, annotations: Annotations
) -> weights.Weights:
    counted = _counted(rate, group_number, class_number, annotations)
    shares: weights.Weights = counted / counted.sum()
    return shares
