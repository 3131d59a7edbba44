"""A network of filters made by hand, whose best pictures are known: their own kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

SIDE, REACH = 24, 11
NAMES = ("edge at 45 degrees", "red against green", "grating of 4 pixels")
Floats = NDArray[np.float64]


def kernels() -> Floats:
    """An edge at 45 degrees, red against green and a grating: (3, height, width, 3)."""
    rows, columns = np.mgrid[:REACH, :REACH] - (REACH - 1) / 2
    bump = np.exp(-(rows**2 + columns**2) / (2 * 2.5**2))
    grey = np.ones(3)
    made = [
        (np.tanh((rows + columns) / 1.5) * bump)[..., None] * grey,
        bump[..., None] * np.array([1.0, -1.0, 0.0]),
        (np.cos(2 * np.pi * columns / 4) * bump)[..., None] * grey,
    ]
    return np.stack([kernel / np.linalg.norm(kernel) for kernel in made])


def either_or() -> Floats:
    """Two gratings at right angles; a filter that answers to either has two best pictures."""
    rows, columns = np.mgrid[:REACH, :REACH] - (REACH - 1) / 2
    bump = np.exp(-(rows**2 + columns**2) / (2 * 2.5**2))
    made = [np.cos(2 * np.pi * axis / 5) * bump for axis in (rows, columns)]
    grey = np.ones(3)
    return np.stack([kernel[..., None] * grey / np.linalg.norm(kernel) for kernel in made])


def known_model(batch: int | str = "n") -> ModelProto:
    """`seen` has the filters of `kernels`; `either` answers to one of two gratings or the other."""
    first = np.concatenate([kernels(), either_or()]).transpose(0, 3, 1, 2)
    mix = np.zeros((2, 5, 1, 1))
    mix[0, 3:] = 1.0
    mix[1, 0] = 1.0
    weights = {
        "kernels": first.astype(np.float32),
        "mix": mix.astype(np.float32),
        "dense": np.eye(2, dtype=np.float32),
    }
    pad = REACH // 2
    nodes = [
        helper.make_node("Conv", ["image", "kernels"], ["maps"], "seen", pads=[pad] * 4),
        helper.make_node("Relu", ["maps"], ["bent"]),
        helper.make_node("Conv", ["bent", "mix"], ["mixed"], "either"),
        helper.make_node("GlobalAveragePool", ["mixed"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["scores"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("image", 1, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", 1, [batch, 2])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def correlation(some: Floats, others: Floats) -> float:
    """Of two pictures, over pixels and colours."""
    return float(np.corrcoef(np.ravel(some), np.ravel(others))[0, 1])
