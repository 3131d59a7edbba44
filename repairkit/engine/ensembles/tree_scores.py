"""From the sums of an ensemble's trees to its scores, as the operator makes them.

Only what the common converters write is known here; what is not known, and where the runtime does
otherwise after all, is left to the instrumented model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from repairkit.core.errors import ModelError
from repairkit.core.suite import Array
from repairkit.graph.index import attribute, int_attribute
from repairkit.graph.kinds.ensembles import Ensemble, numbers


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
            raise ModelError(f"sums that are transformed by {combined} and {kind} are not known")
        self.divisor = ensemble.n_trees if combined == "AVERAGE" else 1
        self.columns, self.n_outputs = list(ensemble.columns), n_outputs
        self.base = numbers(node, "base_values").astype(self.sum_type)
        self.positive = ensemble.all_positive
        if self.positive is None and len(self.base) not in (0, n_outputs):
            raise ModelError(f"{len(self.base)} base values for {n_outputs} sums are not known")
        if self.positive is not None and len(self.base) > 1:
            raise ModelError("base values of two classes with weights for one are not known")
        if self.positive is None and not 0 <= min(self.columns) <= max(self.columns) < n_outputs:
            raise ModelError(f"weights for more than {n_outputs} sums are not known")
        self.transform = _TRANSFORMS[kind]

    def __call__(self, sums: Array) -> NDArray[np.float32]:
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

    def _two_classes(self, margin: Array) -> Array:
        """Weights are for one class: the sum is its probability, or its margin."""
        if self.positive and self.transform is _unchanged:
            return np.concatenate([1 - margin, margin], axis=1)
        return self.transform(np.concatenate([-margin, margin], axis=1))


def _n_outputs(node: NodeProto, ensemble: Ensemble) -> int:
    if node.op_type == "TreeEnsembleRegressor":
        return int_attribute(node, "n_targets", 1)
    return len(ensemble.labels)


def _text(node: NodeProto, name: str, default: str) -> str:
    found = attribute(node, name)
    return default if found is None else str(found.s.decode())


def _unchanged(scores: Array) -> Array:
    return scores


def _logistic(scores: Array) -> Array:
    away = 1 / (1 + np.exp(-np.abs(scores)))
    shares: Array = np.where(scores < 0, 1 - away, away)
    return shares


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


_TRANSFORMS = {"NONE": _unchanged, "LOGISTIC": _logistic, "SOFTMAX": _softmax}
