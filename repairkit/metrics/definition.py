"""What metrics are made of: a definition by name, and numbers per image that are weighed.

A definition holds all that is known of a metric before model and data are: how its figures are to
be understood, what it needs, and how it is made once model and data are known. To add a metric is
to write one definition and to put it into the list of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.metric import Measure, Metric, ScoreImages
from repairkit.core.outputs import LOG_FLOOR, OutputForm
from repairkit.core.suite import Annotations
from repairkit.metrics.weights import Weights

Need = Literal["classes", "numbers", "groups", "two groups", "attack"]
"""Class labels, numbers as labels, groups, at least two of them, or the columns of an attack."""
Weigh = Callable[[Annotations], Weights]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Model and data that a metric is made for.

    Attributes:
        name: of the metric, as it was asked for.
        measure: of the metric.
        form: how outputs are read.
        n_classes: of the model.
        annotations: of the whole dataset, whatever part is judged later.
        number: of the class or group that the name asks for; -1 where it asks for none.
    """

    name: str
    measure: Measure
    form: OutputForm
    n_classes: int
    annotations: Annotations
    number: int = -1


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A metric by its name.

    Attributes:
        name: as options have it, without the class or group that it takes.
        measure: words, direction, unit and range; `{}` in the words is the class or group.
        make: the metric for a model and data that meet its needs.
        needs: what model and data must have.
        takes: whether the name is followed by `:` and a class or a group.
        searched_by: the metrics whose values tell best which filters harm it; itself if empty.
        shows_skill: whether a working model is surely better by it than one without filters.
    """

    name: str
    measure: Measure
    make: Callable[[Case], Metric]
    needs: frozenset[Need] = frozenset({"classes"})
    takes: Literal["", "CLASS", "GROUP"] = ""
    searched_by: tuple[str, ...] = ()
    shows_skill: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageMetric:
    """V = sum_i w_i s_i, put together from a way to score images and a way to weigh them."""

    name: str
    measure: Measure
    score_range: tuple[float, float]
    score_images: ScoreImages
    weigh: Weigh
    smooth: ScoreImages | None = None
    per_image: ClassVar[bool] = True

    @property
    def scorer(self) -> object:
        return self.score_images

    def weights(self, annotations: Annotations) -> Weights:
        """Shape (n_images,); DataError where a group or class that it needs has no image."""
        return self.weigh(annotations)

    def score(self, outputs: Array, annotations: Annotations) -> NDArray[np.float64]:
        """Shape (n_images,)."""
        return self.score_images(outputs, annotations)


def share_of_hits(case: Case, weigh: Weigh) -> ImageMetric:
    """The share of images whose likeliest class is the true one; range [0, 1]."""
    return ImageMetric(
        name=case.name,
        measure=case.measure,
        score_range=(0.0, 1.0),
        score_images=Hits(case.form),
        weigh=weigh,
        smooth=LogLikelihoods(case.form),
    )


def mean_surprise(case: Case, weigh: Weigh) -> ImageMetric:
    """The mean negative log-likelihood of the true class; range [0, -LOG_FLOOR]."""
    return ImageMetric(
        name=case.name,
        measure=case.measure,
        score_range=(0.0, -LOG_FLOOR),
        score_images=Surprises(case.form),
        weigh=weigh,
    )


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
