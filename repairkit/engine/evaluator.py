"""Evaluators: a model's outputs for rows of coalitions and images.

Two keep this promise in different ways. The reference evaluator here asks the instrumented model,
mask by mask, and is the judge in tests; the fast one in `engine/fast.py` shares work between rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import Roster
from repairkit.core.game import Coalitions, Executor
from repairkit.core.suite import Indices, Suite
from repairkit.engine.executor import SerialExecutor
from repairkit.engine.runner import Masks, Runner
from repairkit.graph.instrument import mask_name, mask_shape

Reduce = Callable[[NDArray[Any], Indices], NDArray[Any]]
"""Outputs and positions of some images to what is kept of them, first axis (n_images,)."""


class Evaluator(Protocol):
    """Answers that depend on the rows alone: not on workers, caches, or what was asked before."""

    @property
    def path(self) -> str:
        """How filters are turned off, for people."""
        ...

    def answer(
        self, coalitions: Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> NDArray[Any]:
        """What `reduce` keeps of every image under every row: shape (n_rows, n_images, ...).

        `images` (n_rows, n_images) are positions in the suite; None is the whole suite, in order.
        """
        ...


def keep_all(outputs: NDArray[Any], positions: Indices) -> NDArray[Any]:  # noqa: ARG001 (a Reduce)
    """Keep the outputs themselves."""
    return outputs


class MaskEvaluator:
    """The instrumented model, the definition of an absent filter.

    The runs that rows are cut into depend on the rows and the batch size alone.

    Args:
        runner: of the instrumented model; its first output is judged.
        roster: the filters, in the order of the players.
        suite: the images.
        executor: maps over the runs.
        batch_size: images in one run at the most.
    """

    path = "instrumented"

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

    def answer(
        self, coalitions: Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> NDArray[Any]:
        """See `Evaluator`."""
        if images is None:
            everyone = np.arange(len(self.suite))
            pieces = [
                everyone[i : i + self.batch_size] for i in range(0, len(everyone), self.batch_size)
            ]
            parts = self.executor.map(lambda piece: self._all(coalitions, piece, reduce), pieces)
            return np.concatenate(list(parts), axis=1)
        step = max(1, self.batch_size // images.shape[1])
        rows = [slice(i, i + step) for i in range(0, len(coalitions), step)]
        drawn = self.executor.map(lambda r: self._drawn(coalitions[r], images[r], reduce), rows)
        return np.concatenate(list(drawn))

    def _all(self, coalitions: Coalitions, positions: Indices, reduce: Reduce) -> NDArray[Any]:
        """Every row on the same images."""
        batch = self.suite.batch(positions)
        return np.stack(
            [reduce(self._run(batch, self._masks(row[None])), positions) for row in coalitions]
        )

    def _drawn(
        self, coalitions: Coalitions, images: NDArray[np.intp], reduce: Reduce
    ) -> NDArray[Any]:
        """Rows on the images drawn for them; several short rows share one run."""
        n_images = images.shape[1]
        if len(coalitions) == 1:
            pieces = [
                images[0, i : i + self.batch_size] for i in range(0, n_images, self.batch_size)
            ]
            parts = [self._all(coalitions, piece, reduce) for piece in pieces]
            return np.concatenate(parts, axis=1)
        masks = self._masks(coalitions.repeat(n_images, axis=0))
        outputs = self._run(self.suite.batch(images.reshape(-1)), masks)
        kept = reduce(outputs, images.reshape(-1))
        # A detector may put several rows of output to an image.
        return kept.reshape(len(coalitions), len(kept) // len(coalitions), *kept.shape[1:])

    def _masks(self, coalitions: Coalitions) -> Masks:
        return {
            mask_name(site): coalitions[:, self.roster.slices[site.name]].reshape(
                mask_shape(site, len(coalitions))
            )
            for site in self.roster.sites
        }

    def _run(self, images: NDArray[Any], masks: Masks) -> NDArray[Any]:
        return self.runner.run(images, masks)[self.runner.outputs[0]]
