"""Which leaf of each tree an input reaches, and what trees yield on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import FilterMeans, Site
from repairkit.core.suite import Array, Suite
from repairkit.engine.runner import OpenModel
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.ensembles import Ensemble, read_ensemble
from repairkit.graph.kinds.trees import tap_trees

_CHUNK = 1024


class LeafReader:
    """A model that tells which leaves are reached.

    Args:
        opened: the model.
        sites: of this model; all of them tree ensembles.
    """

    def __init__(self, opened: OpenModel, sites: Sequence[Site]) -> None:
        index = GraphIndex(opened.model)
        self.ensembles: dict[str, Ensemble] = {}
        for site in sites:
            ensemble = read_ensemble(index.producers[site.tensor], index)
            assert isinstance(ensemble, Ensemble)
            self.ensembles[site.name] = ensemble
        tapped, self._taps = tap_trees(opened.model, sites)
        on_cpu = opened.variant(tapped, device="cpu")  # no other device runs trees
        self._runner = on_cpu.runner(outputs=tuple(self._taps.values()))

    def read(self, rows: Array) -> dict[str, NDArray[np.int32]]:
        """The number of the leaf that each row reaches, (n_trees, n_rows) by site."""
        answers = self._runner.run(rows)
        return {
            name: (
                answers[self._taps[name]].astype(np.int32).T
                + ensemble.first_leaves.astype(np.int32)[:, None]
            )
            for name, ensemble in self.ensembles.items()
        }

    def read_suite(self, suite: Suite) -> Mapping[str, NDArray[np.int32]]:
        """See `read`, for every row of a suite in order."""
        parts = [
            self.read(suite.batch(np.arange(i, min(i + _CHUNK, len(suite)))))
            for i in range(0, len(suite), _CHUNK)
        ]
        return {name: np.concatenate([p[name] for p in parts], axis=1) for name in self.ensembles}


def mean_leaves(reader: LeafReader, suite: Suite, *, magnitude: bool = False) -> FilterMeans:
    """What each tree yields on average over a suite: (n_trees, n_columns) by site, float64.

    With `magnitude`, one number per tree: the mean size of what it yields, (n_trees,).
    """
    means = {}
    for name, leaves in reader.read_suite(suite).items():
        ensemble = reader.ensembles[name]
        table = ensemble.table.astype(np.float64)
        if magnitude:
            table = np.linalg.norm(table, axis=1, keepdims=True)
        reached = np.bincount(leaves.reshape(-1), minlength=len(table))[:, None]
        total = np.zeros((ensemble.n_trees, table.shape[1]))
        np.add.at(total, ensemble.tree_of_leaf, table * reached)
        level = total / len(suite)
        means[name] = level[:, 0] if magnitude else level
    return means
