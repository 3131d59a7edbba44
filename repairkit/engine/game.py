"""The reference engine: coalitions are answered by the instrumented model, mask by mask.

The runs that a round is cut into depend on the round and the batch size alone, never on the
workers; so neither do the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import Roster
from repairkit.core.game import Coalitions, Executor, GameFacts, ImagePool, Outcomes, Round
from repairkit.core.metric import Metric
from repairkit.core.suite import Indices, Suite
from repairkit.engine.executor import SerialExecutor
from repairkit.engine.runner import Masks, Runner
from repairkit.graph.instrument import mask_name, mask_shape

_BLOCK_BYTES = 128 * 2**20


def draw_probabilities(weights: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """How often to draw each image: half for the first metric's sake, half for the others'."""
    if len(weights) == 1:
        return weights[0]
    others: NDArray[np.float64] = np.mean(weights[1:], axis=0)
    return 0.5 * weights[0] + 0.5 * others


class ModelGame:
    """An instrumented model, a suite and metrics, played as a game of its filters.

    Args:
        runner: of the instrumented model; its first output is judged.
        roster: the filters, in the order of the players.
        suite: the images that values are about.
        metrics: the first steers the search.
        guard: the metric on which walks are truncated, judged on images as they are drawn; the
            first metric if None.
        executor: maps over the runs of a round.
        batch_size: images in one run at the most.
    """

    def __init__(
        self,
        runner: Runner,
        roster: Roster,
        suite: Suite,
        metrics: Sequence[Metric],
        *,
        guard: Metric | None = None,
        executor: Executor | None = None,
        batch_size: int = 128,
    ) -> None:
        self.runner, self.roster, self.suite = runner, roster, suite
        self.executor: Executor = SerialExecutor() if executor is None else executor
        self.batch_size = batch_size
        weights = [metric.weights(suite.annotations) for metric in metrics]
        drawn = draw_probabilities(weights)
        self._metrics = list(metrics) if guard is None else [*metrics, guard]
        self._weights = weights if guard is None else [*weights, drawn]
        self._ratios = [
            np.divide(w, drawn, out=np.zeros_like(w), where=drawn > 0) for w in self._weights
        ]
        self._facts = GameFacts(
            len(roster),
            tuple(metric.name for metric in self._metrics),
            tuple(self._width(i) for i in range(len(self._metrics))),
            ImagePool(drawn, _strata(suite)),
            len(metrics) if guard is not None else 0,
        )

    @property
    def facts(self) -> GameFacts:
        return self._facts

    def _width(self, column: int) -> float:
        metric = self._metrics[column]
        low, high = metric.score_range
        if not metric.per_image:
            return high - low
        bounds = np.outer([low, high], [0.0, float(self._ratios[column].max())])
        return float(bounds.max() - bounds.min())

    def play(self, round: Round) -> Outcomes:
        """See `core.game.Game`."""
        if not len(round):
            return Outcomes(np.zeros((0, 1, self._facts.n_metrics)))
        if round.images is None:
            parts = self.executor.map(
                lambda rows: self._whole(round.coalitions[rows]), self._blocks(len(round))
            )
        else:
            images = round.images
            step = max(1, self.batch_size // images.shape[1])
            rows = [slice(i, i + step) for i in range(0, len(round), step)]
            parts = self.executor.map(lambda r: self._drawn(round.coalitions[r], images[r]), rows)
        return Outcomes(np.concatenate(list(parts)))

    def outputs(self, coalition: NDArray[np.bool_]) -> NDArray[Any]:
        """The model's outputs for every image of the suite, in order."""
        masks = self._masks(coalition[None])
        return np.concatenate([self._run(batch, masks) for batch in self._batches()])

    def _blocks(self, n_rows: int) -> list[slice]:
        """Rows that are answered together, so that their outputs fit the memory."""
        first = self._run(self.suite.batch(np.arange(1)), self._masks(self._everyone()))
        step = int(np.clip(_BLOCK_BYTES // (first.nbytes * len(self.suite)), 1, 64))
        return [slice(i, i + step) for i in range(0, n_rows, step)]

    def _everyone(self) -> Coalitions:
        return np.ones((1, len(self.roster)), bool)

    def _batches(self) -> list[NDArray[Any]]:
        return [
            self.suite.batch(np.arange(i, min(i + self.batch_size, len(self.suite))))
            for i in range(0, len(self.suite), self.batch_size)
        ]

    def _whole(self, coalitions: Coalitions) -> NDArray[np.float64]:
        """Every image under every coalition: (n_coalitions, n_images, n_metrics)."""
        masks = [self._masks(row[None]) for row in coalitions]
        parts: list[list[NDArray[Any]]] = [[] for _ in masks]
        for batch in self._batches():
            for row, mask in enumerate(masks):
                parts[row].append(self._run(batch, mask))
        everyone = np.arange(len(self.suite))
        scale = [w * len(self.suite) for w in self._weights]
        return np.stack([self._judge(np.concatenate(p), everyone, scale) for p in parts])

    def _drawn(self, coalitions: Coalitions, images: NDArray[np.intp]) -> NDArray[np.float64]:
        """Rows on the images drawn for them; several short rows share one run."""
        if len(coalitions) == 1 and images.shape[1] > self.batch_size:
            pieces = range(0, images.shape[1], self.batch_size)
            masks = self._masks(coalitions)
            outputs = np.concatenate(
                [
                    self._run(self.suite.batch(images[0, i : i + self.batch_size]), masks)
                    for i in pieces
                ]
            )
        else:
            per_image = coalitions.repeat(images.shape[1], axis=0)
            masks = self._masks(coalitions if len(coalitions) == 1 else per_image)
            outputs = self._run(self.suite.batch(images.reshape(-1)), masks)
        split = outputs.reshape(len(coalitions), images.shape[1], *outputs.shape[1:])
        return np.stack(
            [
                self._judge(row, drawn, [ratio[drawn] for ratio in self._ratios])
                for row, drawn in zip(split, images, strict=True)
            ]
        )

    def _judge(
        self, outputs: NDArray[Any], images: Indices, scale: Sequence[NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Shape (n_images, n_metrics), scaled so that the mean over images estimates V."""
        annotations = self.suite.annotations.take(images)
        columns = [
            metric.score(outputs, annotations) * (factor if metric.per_image else 1.0)
            for metric, factor in zip(self._metrics, scale, strict=True)
        ]
        return np.stack([np.broadcast_to(c, (len(images),)) for c in columns], axis=1)

    def _masks(self, coalitions: Coalitions) -> Masks:
        return {
            mask_name(site): coalitions[:, self.roster.slices[site.name]].reshape(
                mask_shape(site, len(coalitions))
            )
            for site in self.roster.sites
        }

    def _run(self, images: NDArray[Any], masks: Masks) -> NDArray[Any]:
        return self.runner.run(images, masks)[self.runner.outputs[0]]


def _strata(suite: Suite) -> NDArray[np.int64]:
    """Images of one group and class form a stratum."""
    labels = suite.annotations.labels
    classes = labels if np.issubdtype(labels.dtype, np.integer) else np.zeros(len(suite), np.int64)
    groups = suite.annotations.groups
    own = np.zeros(len(suite), np.int64) if groups is None else groups
    return np.unique(np.stack([own, classes]), axis=1, return_inverse=True)[1].astype(np.int64)
