"""Answer coalitions of trees from the leaves that rows reach, without running the trees again.

A row reaches the same leaves under every coalition, so they are found once. A coalition is then a
sum over trees, each at its leaf or at its mean, in the operator's order and precision; then comes
the operator's transform (`Finish`), and what the graph does with the scores. Only what the common
converters write is known here. The instrumented model answers all else, also where the runtime
turns out to compute otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from repairkit.core import errors, filters, game, suite
from repairkit.engine.evaluator import Reduce
from repairkit.engine.runner import OpenModel
from repairkit.graph.kinds.ensembles import Ensemble, numbers, tail_of
from repairkit.graph.kinds.trees import element_type
from repairkit.graph.protos import GraphIndex, attribute, int_attribute

_BLOCK_NUMBERS = 2**20  # that are added to at a time; more would not stay in the cache


class TreeEvaluator:
    """Sums of leaves; see `Evaluator`.

    Args:
        opened: the working model.
        roster: the trees, in the order of the players; every site is a tree ensemble.
        levels: what absent trees yield.
        ensembles: by the names of the sites.
        leaves: that the rows of the suite reach, (n_trees, n_rows) by site.
        executor: maps over the blocks of a round.

    Raises:
        ModelError: the operator or the graph behind it does what is not known here.
    """

    path = "sums of leaves"

    def __init__(
        self,
        opened: OpenModel,
        roster: filters.Roster,
        levels: filters.FilterMeans,
        *,
        ensembles: Mapping[str, Ensemble],
        leaves: Mapping[str, NDArray[np.int32]],
        executor: game.Executor,
    ) -> None:
        self.roster, self.levels, self.executor = roster, levels, executor
        model, output = opened.model, opened.output
        index = GraphIndex(model)
        self.finishes = {
            site.name: _finish(model, index, ensembles[site.name]) for site in roster.sites
        }
        tail = tail_of(model, roster.sites, output)
        first = roster.sites[0].tensor
        self.tail = None if tail is None else OpenModel(model=tail, image=first, output=output)
        self.judged = output
        self.tables = {name: e.table for name, e in ensembles.items()}
        self.leaves = leaves
        self.n_images = next(iter(leaves.values())).shape[1]

    def answer(
        self, coalitions: game.Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> suite.Array:
        """See `Evaluator`."""
        n_images = self.n_images if images is None else images.shape[1]
        widest = max(table.shape[1] for table in self.tables.values())
        step = max(1, _BLOCK_NUMBERS // (n_images * widest))
        rows = [slice(i, i + step) for i in range(0, len(coalitions), step)]

        def some(part: slice) -> suite.Array:
            positions = np.arange(n_images)[None] if images is None else images[part]
            return self._block(coalitions[part], positions, reduce)

        return np.concatenate(list(self.executor.map(some, rows)))

    def _block(
        self, coalitions: game.Coalitions, positions: NDArray[np.intp], reduce: Reduce
    ) -> suite.Array:
        """Some rows; `positions` (n_rows or 1, n_images)."""
        n_rows, n_images = len(coalitions), positions.shape[1]
        scores = {}
        for site in self.roster.sites:
            present = coalitions[:, self.roster.slices[site.name]]
            sums = self._sums(site.name, present, positions)
            finished = self.finishes[site.name](sums.reshape(n_rows * n_images, -1))
            scores[site.tensor] = finished
        outputs = scores[self.judged] if self.tail is None else self._through_tail(scores)
        flat = np.broadcast_to(positions, (n_rows, n_images)).reshape(-1)
        kept = reduce(outputs, flat)
        return kept.reshape(n_rows, n_images, *kept.shape[1:])

    def _sums(
        self, site: str, present: NDArray[np.bool_], positions: NDArray[np.intp]
    ) -> suite.Array:
        """Shape (n_rows, n_images, n_columns), added in the order of the trees."""
        table, dtype = self.tables[site], self.finishes[site].sum_type
        shape = (len(present), positions.shape[1], table.shape[1])
        total = np.zeros(shape, dtype)
        absent = self.levels[site].astype(table.dtype)
        for tree, leaves in enumerate(self.leaves[site]):
            yielded = table[leaves[positions]]
            total += np.where(present[:, tree, None, None], yielded, absent[tree])
        return total

    def _through_tail(self, scores: dict[str, suite.Array]) -> suite.Array:
        assert self.tail is not None
        first = scores.pop(self.tail.image)
        return self.tail.run(first, scores)


def _finish(model: ModelProto, index: GraphIndex, ensemble: Ensemble) -> Finish:
    node = index.nodes[ensemble.node]
    return Finish(node, ensemble, element_type(model, node.input[0]))


class Finish:
    """The end of one ensemble: base values and the transform behind the sum.

    Args:
        node: the ensemble's.
        ensemble: its trees.
        element_type: of its input, which says in which precision it adds.

    Raises:
        ModelError: the operator does something that is not known here.
    """

    def __init__(self, node: NodeProto, ensemble: Ensemble, element_type: int) -> None:
        self.sum_type: np.dtype[Any] = np.dtype(
            np.float64 if element_type == TensorProto.DOUBLE else np.float32
        )
        kind = _text(node, "post_transform", "NONE")
        combined = _text(node, "aggregate_function", "SUM")
        n_outputs = _n_outputs(node, ensemble)
        if kind not in _TRANSFORMS or combined not in ("SUM", "AVERAGE"):
            raise errors.ModelError(
                f"sums that are transformed by {combined} and {kind} are not known"
            )
        self.divisor = ensemble.n_trees if combined == "AVERAGE" else 1
        self.columns, self.n_outputs = list(ensemble.columns), n_outputs
        self.base = numbers(node, "base_values").astype(self.sum_type)
        self.positive = ensemble.all_positive
        if self.positive is None and len(self.base) not in (0, n_outputs):
            raise errors.ModelError(
                f"{len(self.base)} base values for {n_outputs} sums are not known"
            )
        if self.positive is not None and len(self.base) > 1:
            raise errors.ModelError("base values of two classes with weights for one are not known")
        if self.positive is None and not 0 <= min(self.columns) <= max(self.columns) < n_outputs:
            raise errors.ModelError(f"weights for more than {n_outputs} sums are not known")
        self.transform = _TRANSFORMS[kind]

    def __call__(self, sums: suite.Array) -> NDArray[np.float32]:
        """Scores (n, n_classes or n_targets) of sums (n, n_columns)."""
        sums = sums / self.sum_type.type(self.divisor) if self.divisor > 1 else sums
        if self.positive is not None:
            margin = sums + self.base if len(self.base) else sums
            return self._two_classes(margin).astype(np.float32)
        scores = np.zeros((len(sums), self.n_outputs), self.sum_type)
        scores[:, self.columns] = sums
        if len(self.base):
            scores += self.base
        return self.transform(scores).astype(np.float32)

    def _two_classes(self, margin: suite.Array) -> suite.Array:
        """Weights are for one class: the sum is its probability, or its margin."""
        if self.positive and self.transform is _unchanged:
            return np.concatenate([1 - margin, margin], axis=1)
        return self.transform(np.concatenate([-margin, margin], axis=1))


def _n_outputs(node: NodeProto, ensemble: Ensemble) -> int:
    if node.op_type == "TreeEnsembleRegressor":
        return int_attribute(node, "n_targets", 1)
    return len(ensemble.labels)


def _text(node: NodeProto, name: str, default: str) -> str:
    value = attribute(node, name)
    return default if value is None else str(value.s.decode())


def _unchanged(scores: suite.Array) -> suite.Array:
    return scores


def _logistic(scores: suite.Array) -> suite.Array:
    away = 1 / (1 + np.exp(-np.abs(scores)))
    shares: suite.Array = np.where(scores < 0, 1 - away, away)
    return shares


def _softmax(scores: suite.Array) -> suite.Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: suite.Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


_TRANSFORMS = {"NONE": _unchanged, "LOGISTIC": _logistic, "SOFTMAX": _softmax}
