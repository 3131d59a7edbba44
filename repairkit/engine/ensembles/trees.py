"""Answer coalitions of trees from the leaves that rows reach, without running the trees again.

A row reaches the same leaves under every coalition, so that they are found once. What is left of a
coalition is a sum over trees, each at its leaf or at its mean, in the operator's own order and
precision; then the operator's transform, and whatever the graph does with the scores.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.game import Coalitions, Executor
from repairkit.core.suite import Array, Suite
from repairkit.engine.ensembles.leaves import LeafReader
from repairkit.engine.ensembles.tree_scores import Finish
from repairkit.engine.evaluator import Evaluator, ExpectedAnswers, Reduce
from repairkit.engine.masks import MaskEvaluator
from repairkit.engine.runner import OpenModel
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.ensembles import tail_of
from repairkit.graph.kinds.trees import element_type

logger = logging.getLogger(__name__)

_BLOCK_NUMBERS = 2**20  # that are added to at a time; more would not stay in the cache


class TreeEvaluator:
    """Sums of leaves; see `Evaluator`.

    Args:
        opened: the working model.
        roster: the trees, in the order of the players; every site is a tree ensemble.
        levels: what absent trees yield.
        suite: the rows.
        executor: maps over the blocks of a round.

    Raises:
        ModelError: the operator or the graph behind it does what is not known here.
    """

    path = "sums of leaves"

    def __init__(
        self,
        opened: OpenModel,
        roster: Roster,
        levels: FilterMeans,
        suite: Suite,
        *,
        executor: Executor,
    ) -> None:
        self.roster, self.levels, self.executor = roster, levels, executor
        reader = LeafReader(opened, roster.sites)
        model, output = opened.model, opened.output
        index = GraphIndex(model)
        self.finishes = {
            site.name: _finish(model, index, reader, site.name) for site in roster.sites
        }
        tail = tail_of(model, roster.sites, output)
        first = roster.sites[0].tensor
        self.tail = None if tail is None else OpenModel(model=tail, image=first, output=output)
        self.judged = output
        self.tables = {name: e.table for name, e in reader.ensembles.items()}
        self.leaves: Mapping[str, NDArray[np.int32]] = reader.read_suite(suite)
        self.n_images = len(suite)

    def answer(
        self, coalitions: Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """See `Evaluator`."""
        n_images = self.n_images if images is None else images.shape[1]
        widest = max(table.shape[1] for table in self.tables.values())
        step = max(1, _BLOCK_NUMBERS // (n_images * widest))
        rows = [slice(i, i + step) for i in range(0, len(coalitions), step)]

        def some(part: slice) -> Array:
            positions = np.arange(n_images)[None] if images is None else images[part]
            return self._block(coalitions[part], positions, reduce)

        return np.concatenate(list(self.executor.map(some, rows)))

    def _block(self, coalitions: Coalitions, positions: NDArray[np.intp], reduce: Reduce) -> Array:
        """Some rows; `positions` (n_rows or 1, n_images)."""
        n_rows, n_images = len(coalitions), positions.shape[1]
        scores = {}
        for site in self.roster.sites:
            present = coalitions[:, self.roster.slices[site.name]]
            sums = self._sums(site.name, present, positions)
            finished = self.finishes[site.name](sums.reshape(n_rows * n_images, -1))
            scores[site.tensor] = finished
        outputs = scores[self.judged] if self.tail is None else self._through_tail(scores)
        everyone = np.broadcast_to(positions, (n_rows, n_images)).reshape(-1)
        kept = reduce(outputs, everyone)
        return kept.reshape(n_rows, n_images, *kept.shape[1:])

    def _sums(self, site: str, present: NDArray[np.bool_], positions: NDArray[np.intp]) -> Array:
        """Shape (n_rows, n_images, n_columns), added in the order of the trees."""
        table, dtype = self.tables[site], self.finishes[site].sum_type
        shape = (len(present), positions.shape[1], table.shape[1])
        total = np.zeros(shape, dtype)
        absent = self.levels[site].astype(table.dtype)
        for tree, leaves in enumerate(self.leaves[site]):
            yielded = table[leaves[positions]]
            total += np.where(present[:, tree, None, None], yielded, absent[tree])
        return total

    def _through_tail(self, scores: dict[str, Array]) -> Array:
        assert self.tail is not None
        first = scores.pop(self.tail.image)
        return self.tail.run(first, scores)


def _finish(model: ModelProto, index: GraphIndex, reader: LeafReader, site: str) -> Finish:
    ensemble = reader.ensembles[site]
    node = index.nodes[ensemble.node]
    return Finish(node, ensemble, element_type(model, node.input[0]))


def open_trees(
    opened: OpenModel, roster: Roster, levels: FilterMeans, reference: MaskEvaluator
) -> Evaluator:
    """Sums of leaves where they agree with the instrumented model, else that model itself."""
    try:
        evaluator = TreeEvaluator(
            opened, roster, levels, reference.suite, executor=reference.executor
        )
    except ModelError as error:
        logger.info("sums of leaves: %s", error)
        return reference
    agreement = ExpectedAnswers.ask(reference, len(roster), len(reference.suite), 1.0)
    fault = agreement.fault(evaluator)
    if fault is None:
        return evaluator
    logger.warning("%s are not used: %s", evaluator.path, fault)
    return reference
