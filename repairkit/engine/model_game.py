"""The game of a model's filters: rounds are answered by an evaluator and judged by metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, game
from repairkit.core.metric import Metric
from repairkit.core.suite import Array, Indices, Suite
from repairkit.engine.evaluator import Evaluator, keep_all

_BLOCK_BYTES = 128 * 2**20


def draw_probabilities(
    metrics: Sequence[Metric], weights: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """How often to draw each image: half by the first metric's weights, half by the others'.

    A metric that judges images together cannot be reweighted: if there is one, its weights decide.
    """
    together = [w for m, w in zip(metrics, weights, strict=True) if not m.per_image]
    if together or len(weights) == 1:
        return (together or list(weights))[0]
    others: NDArray[np.float64] = np.mean(weights[1:], axis=0)
    return 0.5 * weights[0] + 0.5 * others


def some_images(
    facts: game.GameFacts,
    suite: Suite,
    metrics: Sequence[Metric],
    positions: Indices,
    *,
    guard: Metric | None = None,
) -> game.SomeImages | None:
    """Some images of a game, weighted as if its suite had held no others.

    Labels and groups of the other images play no part. None where the game cannot be cut: a metric
    judges images together, or an image counts here and did not count among all. Arguments are those
    of the whole game, see `ModelGame`, and `positions` in its suite.

    Raises:
        DataError: a metric needs a class or group of which there is no image here.
    """
    if facts.of_sets:
        return None
    pool, kept = facts.pool, suite.take(positions)
    parents = _parents(facts.auxiliaries)
    among_all = _all_weights(_weights(metrics, suite), guard, pool.probabilities, suite, parents)
    share = float(pool.probabilities[positions].sum())
    if share <= 0:
        return None
    drawn = pool.probabilities[positions] / share
    here = _all_weights(_weights(metrics, kept), guard, drawn, kept, parents)
    before = among_all[positions]
    if (here[before == 0] > 0).any():
        return None
    ratios = np.divide(here, before, out=np.zeros_like(here), where=before > 0)
    images_of = tuple(_counted(column) for column in here.T)
    part = replace(facts, pool=game.ImagePool(drawn, pool.strata[positions]), images_of=images_of)
    return game.SomeImages(
        facts=part, positions=positions, ratios=ratios, share=share, n_all=len(suite)
    )


class ModelGame:
    """A model, a suite and metrics, played as a game of the model's filters.

    Args:
        evaluator: of the model on the suite.
        roster: the filters, in the order of the players.
        suite: the images that values are about.
        metrics: the first steers the search.
        guard: the metric on which walks are truncated, judged on images as they are drawn; the
            first metric if None.
        drawn: how often each image is drawn, (n_images,); as suits the metrics if None.
        auxiliaries: for each metric one that weighs images alike and whose values tell of its
            values, or None; the columns of these come last.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        roster: filters.Roster,
        suite: Suite,
        metrics: Sequence[Metric],
        *,
        guard: Metric | None = None,
        drawn: NDArray[np.float64] | None = None,
        auxiliaries: Sequence[Metric | None] = (),
    ) -> None:
        self.evaluator, self.roster, self.suite = evaluator, roster, suite
        weights = _weights(metrics, suite)
        drawn = draw_probabilities(metrics, weights) if drawn is None else drawn
        self._clash = _clash(metrics, weights, drawn)
        asked = list(metrics) if guard is None else [*metrics, guard]
        self._metrics = [*asked, *(metric for metric in auxiliaries if metric is not None)]
        columns = _auxiliary_columns(auxiliaries, len(asked))
        self._weights = _all_weights(weights, guard, drawn, suite, _parents(columns))
        self._bytes_per_image: float | None = None  # of the outputs, once there were any
        rates = np.broadcast_to(drawn[:, None], self._weights.shape)
        self._ratios = np.divide(
            self._weights, rates, out=np.zeros_like(self._weights), where=rates > 0
        )
        scorers = [metric.scorer for metric in self._metrics]
        # The columns that are asked, and which of them answers for each metric.
        self._asked = [i for i, scorer in enumerate(scorers) if scorers.index(scorer) == i]
        self._answers = np.array([self._asked.index(scorers.index(s)) for s in scorers])
        self._facts = game.GameFacts(
            n_players=len(roster),
            metrics=tuple(metric.name for metric in self._metrics),
            score_widths=tuple(self._width(i) for i in range(len(self._metrics))),
            pool=game.ImagePool(drawn, _strata(suite)),
            guard=len(metrics) if guard is not None else 0,
            images_of=tuple(self._images_of(i) for i in range(len(self._metrics))),
            of_sets=any(not metric.per_image for metric in metrics),
            auxiliaries=columns,
        )

    @property
    def facts(self) -> game.GameFacts:
        return self._facts

    def _width(self, column: int) -> float:
        metric = self._metrics[column]
        low, high = metric.score_range
        if not metric.per_image or not np.isfinite(high - low):
            return high - low
        bounds = np.outer([low, high], [0.0, float(self._ratios[:, column].max())])
        return float(bounds.max() - bounds.min())

    def _images_of(self, column: int) -> NDArray[np.intp] | None:
        per_image = self._metrics[column].per_image
        return _counted(self._weights[:, column]) if per_image else None

    @property
    def path(self) -> str:
        """How filters are turned off, for people."""
        return self.evaluator.path

    def play(self, round: game.Round) -> game.Outcomes:
        """See `core.game.Game`."""
        if round.images is not None and self._clash:
            raise errors.SettingsError(self._clash)
        if not len(round):
            return game.Outcomes(np.zeros((0, 1, self._facts.n_metrics)))
        if all(metric.per_image for metric in self._metrics):
            return game.Outcomes(self._play_per_image(round))
        return game.Outcomes(np.concatenate(list(self._play_in_blocks(round))))

    def outputs(self, coalition: NDArray[np.bool_]) -> Array:
        """The model's outputs for every image of the suite, in order."""
        answers: Array = self.evaluator.answer(coalition[None], None, keep_all)[0]
        return answers

    def _play_per_image(self, round: game.Round) -> NDArray[np.float64]:
        """Only the scores of an image are kept, not the outputs."""
        answers = self.evaluator.answer(round.coalitions, round.images, self._columns)
        scores: NDArray[np.float64] = answers[:, :, self._answers]
        if round.images is None:
            scores *= self._weights * len(self.suite)
        else:
            scores *= self._ratios[round.images]
        return scores

    def _play_together(self, round: game.Round, rows: slice) -> NDArray[np.float64]:
        """Some rows whose outputs are judged together, once all are known."""
        images = None if round.images is None else round.images[rows]
        outputs = self.evaluator.answer(round.coalitions[rows], images, keep_all)
        all_images = np.arange(len(self.suite))
        judged = []
        for number, row in enumerate(outputs):
            drawn = all_images if images is None else images[number]
            factors = self._weights * len(self.suite) if images is None else self._ratios[drawn]
            together = [not metric.per_image for metric in self._metrics]
            factors = np.where(together, 1.0, factors)
            judged.append(self._columns(row, drawn)[:, self._answers] * factors)
        self._bytes_per_image = outputs.nbytes / len(outputs) / max(len(drawn), 1)
        return np.stack(judged)

    def _columns(self, outputs: Array, images: Indices) -> NDArray[np.float64]:
        """The numbers of every image, one per scorer: shape (n_images, n_scorers)."""
        annotations = self.suite.annotations.take(images)
        scores = np.empty((len(images), len(self._asked)))
        for column, asked in enumerate(self._asked):
            scores[:, column] = self._metrics[asked].score(outputs, annotations)
        return scores

    def _play_in_blocks(self, round: game.Round) -> Iterator[NDArray[np.float64]]:
        """As many rows at a time as memory has room for; the first row shows how large they are."""
        n_images = len(self.suite) if round.images is None else round.images.shape[1]
        start = 0
        while start < len(round):
            each = self._bytes_per_image
            fitting = 1 if each is None else _BLOCK_BYTES // max(each * n_images, 1)
            rows = slice(start, start + int(np.clip(fitting, 1, 64)))
            yield self._play_together(round, rows)
            start = rows.stop


def _weights(metrics: Sequence[Metric], suite: Suite) -> list[NDArray[np.float64]]:
    return [metric.weights(suite.annotations) for metric in metrics]


def _all_weights(
    weights: list[NDArray[np.float64]],
    guard: Metric | None,
    drawn: NDArray[np.float64],
    suite: Suite,
    parents: list[int],
) -> NDArray[np.float64]:
    """The weights of all columns, (n_images, n_metrics): metrics, guard, and auxiliaries.

    `parents` are the metrics that have an auxiliary one.
    """
    guarded = [] if guard is None else [_as_drawn(guard, drawn, suite)]
    return np.stack([*weights, *guarded, *(weights[k] for k in parents)], axis=1)


def _auxiliary_columns(auxiliaries: Sequence[Metric | None], n_before: int) -> tuple[int, ...]:
    """The column of each metric's auxiliary one, see `core.game.GameFacts`."""
    there = np.array([metric is not None for metric in auxiliaries], bool)
    if not there.any():
        return ()
    columns = np.where(there, n_before + np.cumsum(there) - 1, -1).tolist()
    return (*columns, *[-1] * (n_before - len(columns) + int(there.sum())))


def _parents(columns: tuple[int, ...]) -> list[int]:
    """The metrics that have an auxiliary one, in the order of these."""
    return [k for k, column in enumerate(columns) if column >= 0]


def _counted(weights: NDArray[np.float64]) -> NDArray[np.intp] | None:
    """The images that count; None where all do."""
    counted = np.flatnonzero(weights)
    return None if len(counted) == len(weights) else counted


def _as_drawn(guard: Metric, drawn: NDArray[np.float64], suite: Suite) -> NDArray[np.float64]:
    """The weights of the images that the guard counts, in the proportions of the draws."""
    counted = guard.weights(suite.annotations) > 0
    if counted.all() or not drawn[counted].any():
        return drawn
    kept: NDArray[np.float64] = np.where(counted, drawn, 0.0)
    kept /= kept.sum()
    return kept


def _clash(
    metrics: Sequence[Metric], weights: Sequence[NDArray[np.float64]], drawn: NDArray[np.float64]
) -> str:
    """Why no one way to draw images serves all metrics; empty where one does."""
    for metric, weight in zip(metrics, weights, strict=True):
        if metric.per_image and (weight[drawn == 0] > 0).any():
            break
        if not metric.per_image and not np.allclose(weight, drawn):
            break
    else:
        return ""
    return (
        f"{metric.name} needs batches drawn in another way than the metrics beside it; score it in "
        "a run of its own, or with a method that takes all images (exact, leave-one-out)"
    )


def _strata(suite: Suite) -> NDArray[np.int64]:
    """Images of one group and class form a stratum."""
    labels = suite.annotations.labels
    classes = labels if np.issubdtype(labels.dtype, np.integer) else np.zeros(len(suite), np.int64)
    groups = suite.annotations.groups
    strata = np.zeros(len(suite), np.int64) if groups is None else groups
    return np.unique(np.stack([strata, classes]), axis=1, return_inverse=True)[1].astype(np.int64)
