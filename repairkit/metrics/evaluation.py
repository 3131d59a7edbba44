"""Honest figures of one model, or of the change between two, on the images of one suite.

Intervals come from a bootstrap over images, stratified by group: every resample draws, within each
group, as many images as there are, with replacement, and the limits are percentiles of the
resampled figures (Efron & Tibshirani 1993, chapter 13), widened to hold the figure itself. An image
is drawn with its spoiled copies, where there are such: they tell less than as many images. Where
that fails for a share of right answers (all are right, or wrong, or there are fewer than 30), the
interval is Wilson's. The groups' sizes are taken as fixed: they were chosen rather than found.

A bootstrap also cannot imagine changes that it never saw: where 4 images are lost and none is
gained, nearly every resample loses some. So the interval of a change of a share is drawn out to
hold 0 where an exact sign test of the images that changed calls the change chance.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, errors, results
from repairkit.core.metric import Metric
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Array, Indices
from repairkit.metrics.chance import binomial_tail
from repairkit.metrics.definition import GroupMetric
from repairkit.metrics.resampling import (
    FigureTable,
    Means,
    figures_with_intervals,
    resampled_sets,
    strata_by_group,
)

FEWEST_FOR_BOOTSTRAP = 30
"""With fewer images, percentiles of a resampled share are too narrow."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class _Resampling:
    """How intervals are to be found."""

    n_resamples: int
    confidence: float
    seed: int

    def __post_init__(self) -> None:
        if self.n_resamples < 1 or not 0.0 < self.confidence < 1.0:
            raise errors.SettingsError(
                f"{self.n_resamples} resamples at confidence {self.confidence:g} give no "
                f"interval; use at least 1 (better 1000) and a confidence between 0 and 1"
            )


def evaluate(
    outputs: Array,
    annotations: Annotations,
    metrics: Sequence[Metric],
    *,
    form: OutputForm | None,
    suite: str,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> results.Evaluation:
    """The model's metrics on these images, and its accuracy in each group that is present.

    Every figure has a percentile bootstrap interval, except that accuracies (overall, of a group,
    of a class, of the worst group) that are 0 or 1, or rest on fewer than 30 images, have Wilson's;
    for group_accuracy, images count as Kish's effective number of them. A penalty of exactly 0 may
    have an interval without width: the bootstrap cannot imagine mistakes that it never saw. A
    difference or ratio of rates that no two groups have is NaN, and has no interval. A
    metric of the user's that gives one number for all images is called once per resample. For a
    regressor, or a `form` of None, `groups` is empty.

    Raises:
        DataError: No images, not as many outputs, or a metric lacks a class or a group.
        SettingsError: `n_resamples` or `confidence` makes no sense, or a user's metric fails.
    """
    resampling = _Resampling(n_resamples, confidence, seed)
    _check_lengths(outputs, annotations, suite)
    means = _means(outputs, annotations, metrics, form)
    sets = [metric for metric in metrics if not metric.per_image]
    set_figures = partial(resampled_sets, outputs, annotations, sets)
    figures = _figures_by_name(means, set_figures, sets, annotations, resampling)
    copies = attacked.copies_of(annotations)
    most = math.inf if copies is None else float(len(np.unique(copies)))
    for name, n_effective in _shares(means, outputs, annotations, metrics).items():
        figures[name] = _wilson_if_needed(figures[name], min(n_effective, most), confidence)
    overall = {metric.name: figures[metric.name] for metric in metrics}
    sizes = _group_sizes(annotations)
    groups = {name: figures[_of_group(name)] for name in sizes if _of_group(name) in figures}
    return results.Evaluation(
        suite=suite, n_images=len(annotations), metrics=overall, groups=groups, group_sizes=sizes
    )


def difference(
    outputs_before: Array,
    outputs_after: Array,
    annotations: Annotations,
    metrics: Sequence[Metric],
    *,
    form: OutputForm | None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> dict[str, results.Figure]:
    """What a change to the model did: after less before, on the same images.

    Holds each metric by its name and the accuracy of each present group as `accuracy:GROUP`. All
    intervals are percentiles of a paired bootstrap: both models are judged on the same resamples.
    Models that answer alike differ by exactly 0, with no width. The interval of a share that counts
    its images alike (an accuracy overall, of a group or of a class) lies on one side of 0 only
    where an exact one-sided sign test agrees, at 5 % for a confidence of 95 %: 5 images must have
    changed at the least, all in one direction.

    Raises:
        DataError: As for `evaluate`.
        SettingsError: As for `evaluate`.
    """
    resampling = _Resampling(n_resamples, confidence, seed)
    _check_lengths(outputs_before, annotations, "test")
    _check_lengths(outputs_after, annotations, "test")
    before = _means(outputs_before, annotations, metrics, form)
    after = _means(outputs_after, annotations, metrics, form)
    change = Means(before.names, after.scores - before.scores, before.weights)
    sets = [metric for metric in metrics if not metric.per_image]

    def set_figures(draws: Indices) -> FigureTable:
        now = resampled_sets(outputs_after, annotations, sets, draws)
        return now - resampled_sets(outputs_before, annotations, sets, draws)

    figures = _figures_by_name(change, set_figures, sets, annotations, resampling)
    copies = attacked.copies_of(annotations)
    for name, scores, weights in zip(change.names, change.scores.T, change.weights.T, strict=True):
        counted = weights > 0
        twins = None if copies is None else copies[counted]
        if _may_be_chance(scores[counted], weights[counted], twins, 1 - confidence):
            figure = figures[name]
            ends = min(figure.ci_low, 0.0), max(figure.ci_high, 0.0)
            figures[name] = results.Figure(figure.value, *ends)
    # Metrics first, in the caller's order, then the groups.
    return {metric.name: figures[metric.name] for metric in metrics} | figures


def wilson(successes: float, n: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share (Wilson 1927); `n` may be an effective number."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the limit is the share itself; rounding would miss it.
    return (
        0.0 if share <= 0.0 else max(0.0, centre - reach),
        1.0 if share >= 1.0 else min(1.0, centre + reach),
    )


def _figures_by_name(
    means: Means,
    set_figures: Callable[[Indices], FigureTable],
    sets: Sequence[Metric],
    annotations: Annotations,
    resampling: _Resampling,
) -> dict[str, results.Figure]:
    """Figures by name: those of means, the groups' among them, then those of sets."""
    intervals = figures_with_intervals(
        lambda draws: np.hstack([means.resampled(draws), set_figures(draws)]),
        strata_by_group(annotations),
        copies=attacked.copies_of(annotations),
        n_resamples=resampling.n_resamples,
        confidence=resampling.confidence,
        seed=resampling.seed,
    )
    names = [*means.names, *(metric.name for metric in sets)]
    return dict(zip(names, intervals, strict=True))


def _means(
    outputs: Array,
    annotations: Annotations,
    metrics: Sequence[Metric],
    form: OutputForm | None,
) -> Means:
    """The metrics that are means over images, then the accuracy in each present group."""
    columns = {
        metric.name: (metric.score(outputs, annotations), metric.weights(annotations))
        for metric in metrics
        if metric.per_image
    }
    if annotations.groups is not None and form is not None and form.kind != "values":
        hits = (form.predictions(outputs) == annotations.labels).astype(np.float64)
        for name in _group_sizes(annotations):
            members = _plain_groups(annotations) == annotations.group_names.index(name)
            columns[_of_group(name)] = (hits, members / members.sum())
    if not columns:
        return Means((), *np.zeros((2, len(annotations), 0)))
    scores, weights = zip(*columns.values(), strict=True)
    return Means(tuple(columns), np.column_stack(scores), np.column_stack(weights))


def _shares(
    means: Means, outputs: Array, annotations: Annotations, metrics: Sequence[Metric]
) -> dict[str, float]:
    """The effective number of images (Kish 1965) of each figure that is a share of images."""
    ranges = {metric.name: metric.score_range for metric in metrics}
    shares = {}
    for name, scores, weights in zip(means.names, means.scores.T, means.weights.T, strict=True):
        right_or_wrong = np.isin(scores[weights > 0], (0.0, 1.0)).all()
        low, high = ranges.get(name, (0.0, 1.0))
        open_range = np.isinf(low) and np.isinf(high)
        if right_or_wrong and (open_range or (low, high) == (0.0, 1.0)):
            shares[name] = float(weights.sum() ** 2 / (weights**2).sum())
    for metric in metrics:
        if isinstance(metric, GroupMetric) and metric.n_behind is not None:
            shares[metric.name] = float(metric.n_behind(metric.tally(outputs, annotations)))
    return shares


def _wilson_if_needed(figure: results.Figure, n_images: float, confidence: float) -> results.Figure:
    if math.isnan(figure.value) or (0.0 < figure.value < 1.0 and n_images >= FEWEST_FOR_BOOTSTRAP):
        return figure
    low, high = wilson(figure.value * n_images, n_images, confidence=confidence)
    return results.Figure(figure.value, min(low, figure.value), max(high, figure.value))


def _may_be_chance(
    changes: FigureTable, weights: FigureTable, twins: Indices | None, level: float
) -> bool:
    """Whether a sign test cannot tell gains from losses; of shares of equal images alone.

    Args:
        changes: of each image that counts, (n,): 1 gained, -1 lost, 0 as it was.
        weights: of these images, (n,).
        twins: of these images, (n,), which count as one; None where each counts.
        level: of the one-sided test.
    """
    alike = not len(weights) or bool(np.ptp(weights) <= 1e-9 * weights.max())
    if not alike or not np.isin(changes, (-1.0, 0.0, 1.0)).all():
        return False
    if twins is not None:
        changes = np.sign(np.bincount(twins, changes))
    gained, lost = int((changes > 0).sum()), int((changes < 0).sum())
    return binomial_tail(max(gained, lost), gained + lost) > level


def _group_sizes(annotations: Annotations) -> dict[str, int]:
    """How many images of each group there are; groups without any are left out."""
    if annotations.groups is None:
        return {}
    groups = _plain_groups(annotations)
    sizes = np.bincount(groups[groups >= 0], minlength=len(annotations.group_names))
    return {
        name: int(size) for name, size in zip(annotations.group_names, sizes, strict=True) if size
    }


def _plain_groups(annotations: Annotations) -> NDArray[np.int64]:
    """The group of each image; -1 for one that an attack made, by which no group is judged."""
    assert annotations.groups is not None
    if not attacked.is_attacked(annotations):
        return annotations.groups
    plain: NDArray[np.int64] = np.where(attacked.adversarial(annotations), -1, annotations.groups)
    return plain


def _of_group(name: str) -> str:
    return f"accuracy:{name}"


def _check_lengths(outputs: Array, annotations: Annotations, suite: str) -> None:
    if not len(annotations):
        raise errors.DataError(f"suite {suite!r} holds no images; give it a share of the data")
    if len(outputs) != len(annotations):
        raise errors.DataError(
            f"suite {suite!r} has {len(annotations)} labels and {len(outputs)} outputs; run the "
            f"model on exactly the suite's images, in their order"
        )


# Groups that pay for a repair more than was allowed


def falls_beyond(changes: Mapping[str, results.Figure], most: float) -> dict[str, results.Figure]:
    """The changes of the groups that surely lose accuracy, and more than `most` of it.

    A loss is sure where its interval lies below 0. So a group of 8 images of which one is lost
    forbids nothing, though that is 12 points, and a group of 200 that loses 16 of them does.

    Args:
        changes: as `difference` gives them, those of groups as `accuracy:GROUP`.
        most: what the accuracy of a group may lose, in [0, 1].
    """
    beyond = {
        name.removeprefix("accuracy:"): change
        for name, change in changes.items()
        if name.startswith("accuracy:") and change.ci_high < 0 and -change.value > most + _ROUNDING
    }
    return dict(sorted(beyond.items(), key=lambda item: item[1].value))


def falls_in_words(beyond: dict[str, results.Figure], most: float) -> str:
    """The groups of `falls_beyond` in words, for a refusal."""
    falls = ", ".join(
        f"{name!r} by {100 * change.value:+.1f} points ({100 * change.ci_low:+.1f} to "
        f"{100 * change.ci_high:+.1f})"
        for name, change in beyond.items()
    )
    return (
        f"the accuracy of {len(beyond)} group{'s' if len(beyond) > 1 else ''} surely falls by more "
        f"than the {100 * most:g} points that --max-group-drop allows: {falls}"
    )
