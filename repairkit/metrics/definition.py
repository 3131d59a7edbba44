"""What metrics are made of: a definition by name, ways to weigh images, numbers per image, tallies.

A definition holds all that is known of a metric before model and data are: how its figures are to
be understood, what it needs, and how it is made once model and data are known. To add a metric,
write one definition and put it into the list of the catalogue.

Weights say how much each image counts: non-negative numbers that add up to one. A metric that
compares groups is computed from a tally: for every group, how many images are of a class, how many
are predicted to be, and how many are both. So many resamples are judged at once: their tallies are
stacked, and outputs are not read again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.metric import Measure, Metric, ScoreImages
from repairkit.core.outputs import LOG_FLOOR, OutputForm

Weights = NDArray[np.float64]
"""Shape (n_images,)."""


def weigh_evenly(annotations: suite.Annotations) -> Weights:
    """Every image counts the same."""
    n_images = _n_images(annotations)
    return np.full(n_images, 1.0 / n_images)


def weigh_class(class_number: int, annotations: suite.Annotations) -> Weights:
    """Images of one class share everything; DataError where there is none of them."""
    return weigh_members(
        annotations.labels == class_number,
        f"of class {class_name(annotations, class_number)}; give this part of the data some, or "
        "ask for the recall of another class",
    )


def weigh_group(group_number: int, annotations: suite.Annotations) -> Weights:
    """Images of one group share everything; DataError where there is none of them."""
    return weigh_members(
        groups_of(annotations) == group_number,
        f"of group {annotations.group_names[group_number]!r}; give this part of the data some, or "
        "ask for another group",
    )


def weigh_members(members: NDArray[np.bool_], missing: str) -> Weights:
    """Some images share everything; DataError where there is none, `missing` says of what."""
    if not len(members):
        raise _no_images()
    if not members.any():
        raise errors.DataError(f"none of the {len(members)} images is {missing}")
    weights: Weights = members / members.sum()
    return weights


def weigh_groups(annotations: suite.Annotations) -> Weights:
    """Groups share alike, and so do the images in each; DataError where a group is empty."""
    return _balanced(_groups_all_there(annotations))


def weigh_groups_and_labels(annotations: suite.Annotations) -> Weights:
    """Every pair of group and label that occurs shares alike; DataError where a group is empty."""
    groups = _groups_all_there(annotations)
    _, labels = np.unique(annotations.labels, return_inverse=True)
    return _balanced(groups * (labels.max() + 1) + labels)


def groups_of(annotations: suite.Annotations) -> NDArray[np.int64]:
    """Shape (n_images,): the group of each image; SettingsError where no groups are known."""
    if annotations.groups is None:
        raise errors.SettingsError(
            "this metric compares groups and the data has none; name the column with --group"
        )
    return annotations.groups


def class_name(annotations: suite.Annotations, class_number: int) -> str:
    """The name of a class as a message shows it, in quotes."""
    known = class_number < len(annotations.class_names)
    name = bare_class_name(annotations, class_number)
    return repr(name) if known else name


def bare_class_name(annotations: suite.Annotations, class_number: int) -> str:
    """The name of a class, or its number where it has none."""
    names = annotations.class_names
    return names[class_number] if class_number < len(names) else str(class_number)


def _groups_all_there(annotations: suite.Annotations) -> NDArray[np.int64]:
    n_images = _n_images(annotations)
    groups = groups_of(annotations)
    sizes = np.bincount(groups, minlength=len(annotations.group_names))
    empty = [name for name, size in zip(annotations.group_names, sizes, strict=True) if not size]
    if empty:
        raise errors.DataError(
            f"none of the {n_images} images is of group {', '.join(map(repr, empty))}; give this "
            f"part of the data some, or leave the group out"
        )
    return groups


def _balanced(cells: suite.Array) -> Weights:
    _, cell, sizes = np.unique(cells, return_inverse=True, return_counts=True)
    weights: Weights = 1.0 / (len(sizes) * sizes[cell])
    return weights


def _n_images(annotations: suite.Annotations) -> int:
    if not len(annotations):
        raise _no_images()
    return len(annotations)


def _no_images() -> errors.DataError:
    return errors.DataError("this part of the data holds no images; give it at least one")


Need = Literal["classes", "numbers", "groups", "two groups", "attack", "marks"]
"""Class labels, numbers as labels, groups, two of them, columns of an attack, or images to fix."""
Weigh = Callable[[suite.Annotations], Weights]


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
    annotations: suite.Annotations
    number: int = -1


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A metric by its name.

    Attributes:
        name: as options have it, without the class or group that it takes.
        measure: words, direction, unit and range; `{}` in the words is the class or group.
        make: the metric for a model and data that meet its needs.
        needs: what model and data must have.
        takes: whether the name is followed by `:` and a class, a group or a floor.
        searched_by: the metrics whose values tell best which filters harm it; itself if empty. Like
            `beside`, with `{}` for the class.
        beside: the accuracy of the images that it leaves out, which a repair of it has to keep; the
            overall accuracy if empty.
        gives_up: whether a repair of it gives up the class: no group is judged by its images.
        shows_skill: whether a working model is surely better by it than one without filters.
    """

    name: str
    measure: Measure
    make: Callable[[Case], Metric]
    needs: frozenset[Need] = frozenset({"classes"})
    takes: Literal["", "CLASS", "GROUP", "FLOOR"] = ""
    searched_by: tuple[str, ...] = ()
    beside: str = ""
    gives_up: bool = False
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

    @classmethod
    def of(
        cls,
        case: Case,
        score_images: ScoreImages,
        weigh: Weigh,
        score_range: tuple[float, float],
        *,
        smooth: ScoreImages | None = None,
    ) -> Self:
        """The metric that was asked for."""
        return cls(
            name=case.name,
            measure=case.measure,
            score_range=score_range,
            score_images=score_images,
            weigh=weigh,
            smooth=smooth,
        )

    @property
    def scorer(self) -> object:
        return self.score_images

    def weights(self, annotations: suite.Annotations) -> Weights:
        """Shape (n_images,); DataError where a group or class that it needs has no image."""
        return self.weigh(annotations)

    def score(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        """Shape (n_images,)."""
        return self.score_images(outputs, annotations)


def share_of_hits(case: Case, weigh: Weigh) -> ImageMetric:
    """The share of images whose likeliest class is the true one; range [0, 1]."""
    return ImageMetric.of(
        case, Hits(case.form), weigh, (0.0, 1.0), smooth=LogLikelihoods(case.form)
    )


def mean_surprise(case: Case, weigh: Weigh) -> ImageMetric:
    """The mean negative log-likelihood of the true class; range [0, -LOG_FLOOR]."""
    return ImageMetric.of(case, Surprises(case.form), weigh, (0.0, -LOG_FLOOR))


@dataclass(frozen=True)
class Hits:
    """1 for an image whose likeliest class is the true one, else 0."""

    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        hits = self.form.predictions(outputs) == annotations.labels
        return np.asarray(hits, np.float64)


@dataclass(frozen=True)
class SoftHits:
    """How clearly the true class wins: its probability over that and the likeliest other's.

    Above a half where the true class is the likeliest, below where another is, and smooth between.
    A threshold plays no part. 0 for an image whose outputs hold a NaN.
    """

    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        scores = np.array(self.form.class_scores(outputs), np.float64)
        rows, labels = np.arange(len(scores)), annotations.labels
        own = scores[rows, labels]
        scores[rows, labels] = -np.inf
        other = scores.max(axis=1)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.form.in_probabilities:
                soft = own / (own + other)
            else:
                soft = 1 / (1 + np.exp(other - own))
        known: NDArray[np.float64] = np.nan_to_num(soft)
        return known


def auxiliary_of(metric: Metric) -> ImageMetric | None:
    """The same share with soft hits in place of hits; None for a metric that counts no hits.

    A filter that changes how clearly classes win changes how often they do. A soft hit says more
    than a hit, so that a filter's value for the one helps to know its value for the other.
    """
    if not isinstance(metric, ImageMetric) or not isinstance(metric.score_images, Hits):
        return None
    return replace(
        metric,
        name=f"{metric.name} (soft)",
        score_images=SoftHits(metric.score_images.form),
        smooth=None,
    )


@dataclass(frozen=True)
class LogLikelihoods:
    """The log-likelihood of an image's true class."""

    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        logs = self.form.log_probabilities(outputs)
        likelihoods: NDArray[np.float64] = logs[np.arange(len(logs)), annotations.labels]
        return likelihoods


# The least positive number of 32 bits: the logarithm of an output that is 0 must be finite.
_LEAST = 1e-45


def log_likelihoods_of_others(
    form: OutputForm, outputs: suite.Array, classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The log-likelihood that each image is not of the class given for it, (n_images,).

    Taken from the scores themselves: by probabilities, a sure class would leave nothing.
    """
    scores = form.class_scores(outputs)
    if "probabilit" in form.kind:
        scores = np.log(np.maximum(scores, _LEAST))
    with np.errstate(invalid="ignore", over="ignore"):
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        whole = likely.sum(axis=1)
        likely[np.arange(len(scores)), classes] = 0.0
        logs = np.log(np.maximum(likely.sum(axis=1), _LEAST) / whole)
    return np.where(np.isnan(logs), LOG_FLOOR, np.clip(logs, LOG_FLOOR, 0.0))


@dataclass(frozen=True)
class Surprises:
    """The negative log-likelihood of an image's true class."""

    form: OutputForm

    def __call__(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        # 0 - x rather than -x: a page should not show "-0.0".
        return 0.0 - LogLikelihoods(self.form)(outputs, annotations)


Counts = NDArray[np.int64]
"""Shape (n_draws, n_groups, n_classes)."""
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

    def weights(self, annotations: suite.Annotations) -> Weights:
        """Shape (n_images,); DataError where a group has no image."""
        return self.weigh(annotations)

    def score(self, outputs: suite.Array, annotations: suite.Annotations) -> NDArray[np.float64]:
        """Shape ()."""
        return np.asarray(self.judge(self.tally(outputs, annotations))[0])

    def known(self, tally: Tally) -> NDArray[np.bool_]:
        """Which tallies define the figure: (n_draws,)."""
        return np.ones(len(tally.labelled), bool) if self.know is None else self.know(tally)

    def tally(
        self,
        outputs: suite.Array,
        annotations: suite.Annotations,
        draws: suite.Indices | None = None,
    ) -> Tally:
        """Counts of the images at each row of `draws` (n_draws, n); one draw of all by default."""
        predictions = self.form.predictions(outputs)
        return tally_predictions(predictions, annotations, self.n_classes, draws)


def tally_predictions(
    predictions: NDArray[np.int64],
    annotations: suite.Annotations,
    n_classes: int,
    draws: suite.Indices | None = None,
) -> Tally:
    """Counts of the images at each row of `draws` (n_draws, n); one draw of all by default."""
    groups = groups_of(annotations)
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


def check_defined(metric: Metric, annotations: suite.Annotations, part: str) -> None:
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
    except errors.DataError as error:
        raise errors.DataError(f"{metric.name} on the {part} part: {error}") from error
    if isinstance(metric, GroupMetric) and not metric.known(_labels_alone(metric, annotations))[0]:
        raise errors.DataError(
            f"{metric.name} is not defined on the {len(annotations)} images of the {part} part: no "
            "class that it judges has images in two groups; give this part other images, or choose "
            "another metric"
        )


def _labels_alone(metric: GroupMetric, annotations: suite.Annotations) -> Tally:
    """The tally of a model that predicts nothing: labels alone decide what is defined."""
    shape = (1, len(annotations.group_names), metric.n_classes)
    cells = groups_of(annotations) * metric.n_classes + annotations.labels
    labelled = np.bincount(cells, minlength=shape[1] * shape[2]).reshape(shape)
    nothing = np.zeros(shape, np.int64)
    return Tally(labelled, nothing, nothing)


def count_draws(drawn: NDArray[np.int64], n_bins: int) -> NDArray[np.int64]:
    """How often each number below `n_bins` stands in each row of `drawn`: (n_rows, n_bins)."""
    offsets = np.arange(len(drawn))[:, np.newaxis] * n_bins
    counts = np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * n_bins)
    return counts.reshape(len(drawn), n_bins)
