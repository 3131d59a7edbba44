"""Metrics that are weighted means of one number per image: accuracies, losses and errors."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from repairkit.core import metric, suite
from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import OutputForm
from repairkit.metrics import definition


def _share(words: str) -> metric.Measure:
    return metric.Measure(words=words, unit="share", ends=(0.0, 1.0))


def _loss(words: str) -> metric.Measure:
    return metric.Measure(words=words, greater_is_better=False)


ACCURACY = definition.Definition(
    name="accuracy",
    measure=_share("accuracy"),
    make=lambda case: definition.share_of_hits(case, definition.weigh_evenly),
    searched_by=("loss",),
    shows_skill=True,
)
"""The share of images whose likeliest class is the true one."""

LOSS = definition.Definition(
    name="loss",
    measure=_loss("loss (mean negative log-likelihood)"),
    make=lambda case: definition.mean_surprise(case, definition.weigh_evenly),
    shows_skill=True,
)
"""The mean negative log-likelihood of the true class (log loss)."""

RECALL = definition.Definition(
    name="recall",
    takes="CLASS",
    measure=_share("recall of {}"),
    make=lambda case: definition.share_of_hits(case, partial(definition.weigh_class, case.number)),
)
"""The share of the images of one class that are found."""

GROUP_ACCURACY = definition.Definition(
    name="group_accuracy",
    measure=_share("mean accuracy over groups"),
    make=lambda case: definition.share_of_hits(case, definition.weigh_groups),
    needs=frozenset({"classes", "groups"}),
    searched_by=("group_loss",),
    shows_skill=True,
)
"""The mean over groups of the accuracy in each.

What accuracy on a group-balanced benchmark measures (Buolamwini & Gebru, "Gender Shades", 2018;
Ghorbani & Zou, "Neuron Shapley", 2020).
"""

GROUP_LOSS = definition.Definition(
    name="group_loss",
    measure=_loss("mean loss over groups"),
    make=lambda case: definition.mean_surprise(case, definition.weigh_groups),
    needs=frozenset({"classes", "groups"}),
    shows_skill=True,
)
"""The mean over groups of the loss in each."""

ACCURACY_OF_GROUP = definition.Definition(
    name="group_accuracy",
    takes="GROUP",
    measure=_share("accuracy of {}"),
    make=lambda case: definition.share_of_hits(case, partial(definition.weigh_group, case.number)),
    needs=frozenset({"classes", "groups"}),
)
"""The accuracy on the images of one group."""

LOSS_OF_GROUP = definition.Definition(
    name="group_loss",
    takes="GROUP",
    measure=_loss("loss of {}"),
    make=lambda case: definition.mean_surprise(case, partial(definition.weigh_group, case.number)),
    needs=frozenset({"classes", "groups"}),
)
"""The loss on the images of one group."""


def _mean_absolute_error(case: definition.Case) -> definition.ImageMetric:
    """The mean distance to the target; range [0, width].

    `width` is the greatest label less the least one, over all of the data. An error beyond it
    counts as `width`, and so does an answer that is NaN: a bounded score is what the search's
    intervals rest on. A model that answers within the labels' range never meets the bound.

    Raises:
        DataError: A label is not finite, or all are the same.
    """
    labels = np.asarray(case.annotations.labels, np.float64)
    if not len(labels) or not np.isfinite(labels).all():
        raise DataError("a label is missing or not finite; a regressor needs a number per image")
    width = float(labels.max() - labels.min())
    if width == 0.0:
        raise DataError(
            f"every label is {labels[0]:g}, so errors have no scale; give images with different "
            f"targets, or a metric module:function"
        )
    distances = Distances(width, case.form)
    return definition.ImageMetric.of(case, distances, definition.weigh_evenly, (0.0, width))


MEAN_ABSOLUTE_ERROR = definition.Definition(
    name="mean_absolute_error",
    measure=_loss("mean absolute error"),
    make=_mean_absolute_error,
    needs=frozenset({"numbers"}),
    shows_skill=True,
)


@dataclass(frozen=True)
class Distances:
    """An image's absolute error, `width` at the most."""

    width: float
    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        answers = self.form.class_scores(outputs)
        if answers.shape[1] != 1:
            raise SettingsError(
                f"the model gives {answers.shape[1]} numbers per image and mean_absolute_error "
                f"needs one; choose another --output"
            )
        errors = np.abs(answers[:, 0] - annotations.labels)
        return np.where(np.isnan(errors), self.width, np.minimum(errors, self.width))
