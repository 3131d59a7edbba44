"""Evaluators: a model's outputs for rows of coalitions and images.

Two keep this promise in different ways. The reference evaluator here asks the instrumented model,
mask by mask, and is the judge in tests; the fast one in `engine/fast.py` shares work between rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import Roster
from repairkit.core.game import Coalitions, Executor
from repairkit.core.suite import Array, Indices, Suite
from repairkit.engine.executor import SerialExecutor
from repairkit.engine.runner import Feeds, Masks, Runner
from repairkit.graph.coalitions.masking import mask_name, mask_shape

_RUNS_PER_PIECE = 8

Reduce = Callable[[Array, Indices], Array]
"""Outputs and positions of some images to what is kept of them, first axis (n_images,)."""


class Evaluator(Protocol):
    """Answers that depend on the rows alone: not on workers, caches, or what was asked before."""

    @property
    def path(self) -> str:
        """How filters are turned off, for people."""
        ...

    def answer(
        self, coalitions: Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """What `reduce` keeps of every image under every row: shape (n_rows, n_images, ...).

        `images` (n_rows, n_images) are positions in the suite; None is the whole suite, in order.
        """
        ...


def keep_all(outputs: Array, positions: Indices) -> Array:  # noqa: ARG001 (a Reduce)
    """Keep the outputs themselves."""
    return outputs


class MaskEvaluator:
    """The instrumented model, the definition of an absent filter.

    No run holds images of two rows, so that an answer hangs on its row and the batch size alone.

    Args:
        runner: of the instrumented model; its first output is judged.
        roster: the filters, in the order of the players.
        suite: the images.
        executor: maps over the runs.
        batch_size: images in one run at the most.
    """

    def __init__(
        self,
        runner: Runner,
        roster: Roster,
        suite: Suite,
        *,
        executor: Executor | None = None,
        batch_size: int = 128,
    ) -> None:
        self.runner, self.roster, self.suite = runner, roster, suite
        self.executor: Executor = SerialExecutor() if executor is None else executor
        self.batch_size = batch_size

    @property
    def path(self) -> str:
        """See `Evaluator`."""
        return "instrumented" if self.runner.optimised else "instrumented, as written"

    def with_runner(self, runner: Runner) -> MaskEvaluator:
        """The same by another runner of the instrumented model."""
        return MaskEvaluator(
            runner,
            self.roster,
            self.suite,
            executor=self.executor,
            batch_size=self.batch_size,
        )

    def answer(
        self, coalitions: Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """See `Evaluator`."""
        if images is None:
            pieces = self._pieces(np.arange(len(self.suite)))
            parts = self.executor.map(lambda piece: self._all(coalitions, piece, reduce), pieces)
            return np.concatenate(list(parts), axis=1)

        def answer_row(number: int) -> Array:
            row = coalitions[number : number + 1]
            parts = [self._all(row, piece, reduce) for piece in self._pieces(images[number])]
            return np.concatenate(parts, axis=1)

        return np.concatenate(list(self.executor.map(answer_row, range(len(coalitions)))))

    def run(self, coalitions: Coalitions, positions: Indices) -> Array:
        """One run: the outputs for images of the suite, under one row or a row for each image."""
        suite = self.suite
        return self._run(suite.batch(positions), coalitions, suite.feeds(positions))

    def _pieces(self, positions: Indices) -> list[Indices]:
        # Where runs have a fixed number of images, pieces change no answer and feed more workers.
        step = self.runner.step
        size = self.batch_size if step is None else _RUNS_PER_PIECE * step
        return [positions[i : i + size] for i in range(0, len(positions), size)]

    def _all(self, coalitions: Coalitions, positions: Indices, reduce: Reduce) -> Array:
        """Every row on the same images."""
        batch, feeds = self.suite.batch(positions), self.suite.feeds(positions)
        return np.stack(
            [reduce(self._run(batch, row[None], feeds), positions) for row in coalitions]
        )

    def _run(self, images: Array, coalitions: Coalitions, feeds: Feeds) -> Array:
        answers = self.runner.run(images, self._masks(coalitions), feeds)
        return answers[self.runner.outputs[0]]

    def _masks(self, coalitions: Coalitions) -> Masks:
        return {
            mask_name(site): coalitions[:, self.roster.slices[site.name]].reshape(
                mask_shape(site, len(coalitions))
            )
            for site in self.roster.sites
        }
