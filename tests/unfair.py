"""A model with a filter that misleads the many, and on which alone the few rely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

FEW, MANY = "few", "many"
SHORTCUT = "conv:1"
"""Freezing it lifts overall accuracy, and takes from the few all that they have."""


def write_unfair(folder: Path, *, n: int = 900) -> tuple[Path, Path]:
    """The model, and images of it in two groups, with a second column that tells nothing."""
    rng = np.random.default_rng(0)
    y, few = np.arange(n) % 2, np.arange(n) % 6 >= 4
    sign = 2.0 * y - 1
    own = np.where(few, 0.0, sign) + 0.2 * rng.normal(size=n)
    misled = rng.random(n) < 0.45
    shortcut = np.where(few, sign, np.where(misled, -3 * sign, 0.0))
    x = np.stack([own, shortcut, rng.normal(size=n)], axis=1)[:, :, None, None]
    np.savez(
        folder / "data.npz",
        x=x.astype(np.float32),
        y=y,
        group=np.where(few, FEW, MANY),
        town=np.where(rng.random(n) < 0.5, "north", "south"),
    )
    weights = {
        "kernel": np.eye(3, dtype=np.float32)[:, :, None, None],
        "bias": np.zeros(3, np.float32),
        "head": np.array([[-1, 1], [-1, 1], [0, 0]], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["seen"], "conv"),
        helper.make_node("Flatten", ["seen"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "head"], ["logits"], "dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "unfair",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 1, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, folder / "model.onnx")
    return folder / "model.onnx", folder / "data.npz"
