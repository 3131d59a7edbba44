"""Rows of numbers that take trees both ways, for proofs that have no real rows."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from repairkit.core.arrays import Array
from repairkit.graph.kinds.trees import is_ensemble, numbers


def spread_over_thresholds(
    model: ModelProto, input_name: str, rows: Array, rng: np.random.Generator
) -> Array:
    """The rows, with every feature that trees ask for drawn from about the trees' thresholds.

    Noise in another range would send all rows to the same leaves. Only ensembles that read the
    input itself say in which range it lies.

    Args:
        model: never modified.
        input_name: its input.
        rows: floats, shape (n, n_features).
        rng: what is drawn from.
    """
    result = rows.copy()
    asked: dict[int, list[float]] = {}
    for node in model.graph.node:
        if is_ensemble(node) and node.input[0] == input_name:
            features, modes = (numbers(node, f"nodes_{name}") for name in ("featureids", "modes"))
            thresholds = numbers(node, "nodes_values")
            for feature, mode, threshold in zip(features, modes, thresholds, strict=False):
                if mode != "LEAF":
                    asked.setdefault(int(feature), []).append(float(threshold))
    for feature, known in asked.items():
        if feature < rows.shape[1]:
            width = max(known) - min(known) or abs(known[0]) or 1.0
            drawn = rng.choice(known, len(rows))
            result[:, feature] = drawn + 0.1 * width * rng.standard_normal(len(rows))
    return result
