"""Metrics that are weighted means of one number per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError, SettingsError
from repairkit.core.measures import measure_of
from repairkit.core.suite import Annotations
from repairkit.metrics import weights
from repairkit.metrics.outputs import LOG_FLOOR, OutputForm

_LOSSES = (0.0, -LOG_FLOOR)


@dataclass(frozen=True)
class ImageMetric:
    """V = sum_i w_i s_i, put together from a way to score images and a way to weigh them."""

    name: str
    score_range: tuple[float, float]
    score_images: Callable[[Array, Annotations], NDArray[np.float64]]
    weigh: Callable[[Annotations], weights.Weights]
    per_image: ClassVar[bool] = True

    @property
    def greater_is_better(self) -> bool:
        return measure_of(self.name).greater_is_better

    @property
    def scorer(self) -> object:
        return self.score_images

    def weights(self, annotations: Annotations) -> weights.Weights:
        """Shape (n_images,); DataError where a group or class that it needs has no image."""
        return self.weigh(annotations)

    def score(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        """Shape (n_images,)."""
        return self.score_images(outputs, annotations)


def accuracy(form: OutputForm) -> ImageMetric:
    """The share of images whose likeliest class is the true one; range [0, 1]."""
    return ImageMetric("accuracy", (0.0, 1.0), Hits(form), weights.uniform)


def group_accuracy(form: OutputForm) -> ImageMetric:
    """The mean over groups of the accuracy in each; range [0, 1].

    What accuracy on a group-balanced benchmark measures (Buolamwini & Gebru, "Gender Shades",
    2018; Ghorbani & Zou, "Neuron Shapley", 2020).
    """
    return ImageMetric("group_accuracy", (0.0, 1.0), Hits(form), weights.over_groups)


def recall(name: str, class_number: int, form: OutputForm) -> ImageMetric:
    """The share of the images of one class that are found; range [0, 1]."""
    weigh = partial(weights.of_class, class_number)
    return ImageMetric(name, (0.0, 1.0), Hits(form), weigh)


def accuracy_of_group(name: str, group_number: int, form: OutputForm) -> ImageMetric:
    """The accuracy on the images of one group; range [0, 1]."""
    weigh = partial(weights.of_group, group_number)
    return ImageMetric(name, (0.0, 1.0), Hits(form), weigh)


def loss(form: OutputForm) -> ImageMetric:
    """The mean negative log-likelihood of the true class (log loss); range [0, -LOG_FLOOR]."""
    return ImageMetric("loss", _LOSSES, Surprises(form), weights.uniform)


def group_loss(form: OutputForm) -> ImageMetric:
    """The mean over groups of the loss in each; range [0, -LOG_FLOOR]."""
    return ImageMetric("group_loss", _LOSSES, Surprises(form), weights.over_groups)


def loss_of_group(name: str, group_number: int, form: OutputForm) -> ImageMetric:
    """The loss on the images of one group; range [0, -LOG_FLOOR]."""
    weigh = partial(weights.of_group, group_number)
    return ImageMetric(name, _LOSSES, Surprises(form), weigh)


def mean_absolute_error(annotations: Annotations, form: OutputForm) -> ImageMetric:
    """The mean distance to the target; range [0, width].

    `width` is the greatest label less the least one, over all of the data. An error beyond it
    counts as `width`, and so does an answer that is NaN: a bounded score is what the search's
    intervals rest on. A model that answers within the labels' range never meets the bound.

    Raises:
        DataError: A label is not finite, or all are the same.
    """
    labels = np.asarray(annotations.labels, np.float64)
    if not len(labels) or not np.isfinite(labels).all():
        raise DataError("a label is missing or not finite; a regressor needs a number per image")
    width = float(labels.max() - labels.min())
    if width == 0.0:
        raise DataError(
            f"every label is {labels[0]:g}, so errors have no scale; give images with different "
            f"targets, or a metric module:function"
        )
    return ImageMetric("mean_absolute_error", (0.0, width), Distances(width, form), weights.uniform)


@dataclass(frozen=True)
class Hits:
    """1 for an image whose likeliest class is the true one, else 0."""

    form: OutputForm

    def __call__(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        hits = self.form.predictions(outputs) == annotations.labels
        return np.asarray(hits, np.float64)


@dataclass(frozen=True)
class LogLikelihoods:
    """The log-likelihood of an image's true class."""

    form: OutputForm

    def __call__(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        logs = self.form.log_probabilities(outputs)
        likelihoods: NDArray[np.float64] = logs[np.arange(len(logs)), annotations.labels]
        return likelihoods


@dataclass(frozen=True)
class Surprises:
    """The negative log-likelihood of an image's true class."""

    form: OutputForm

    def __call__(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        # 0 - x rather than -x: nobody wants to read "-0.0".
        return 0.0 - LogLikelihoods(self.form)(outputs, annotations)


@dataclass(frozen=True)
class Distances:
    """An image's absolute error, `width` at the most."""

    width: float
    form: OutputForm

    def __call__(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        answers = self.form.class_scores(outputs)
        if answers.shape[1] != 1:
            raise SettingsError(
                f"the model gives {answers.shape[1]} numbers per image and mean_absolute_error "
                f"needs one; choose another --output"
            )
        errors = np.abs(answers[:, 0] - annotations.labels)
        return np.where(np.isnan(errors), self.width, np.minimum(errors, self.width))
