"""What a position sees, against what really reaches it when pixels change."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.graph.index import GraphIndex
from repairkit.graph.receptive import receptive_field
from tests.running import run

SIDE = 24


def chain(*layers: tuple[str, dict]) -> ModelProto:
    """Layers of one channel one after another; kernels of ones."""
    nodes, weights, name = [], [], "image"
    for number, (kind, attributes) in enumerate(layers):
        inputs, output = [name], f"t{number}"
        if kind == "Conv":
            kernel = np.ones((1, 1, *attributes["kernel_shape"]), np.float32)
            weights.append(numpy_helper.from_array(kernel, f"w{number}"))
            inputs.append(f"w{number}")
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        name = output
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


CHAINS = {
    "one": [("Conv", {"kernel_shape": [3, 5]})],
    "strided": [
        ("Conv", {"kernel_shape": [3, 3], "strides": [2, 1]}),
        ("Relu", {}),
        ("Conv", {"kernel_shape": [3, 3]}),
    ],
    "dilated": [
        ("Conv", {"kernel_shape": [3, 3], "dilations": [2, 3]}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", {"kernel_shape": [2, 1]}),
    ],
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_position_sees_what_changes_it(name: str) -> None:
    model = chain(*CHAINS[name])
    output = model.graph.output[0].name
    image = np.ones((1, 1, SIDE, SIDE), np.float32)
    plain = run(model, {"image": image})[0]
    row, column = plain.shape[2] // 2, plain.shape[3] // 2
    changes = np.zeros((SIDE, SIDE), bool)
    for y in range(SIDE):
        for x in range(SIDE):
            other = image.copy()
            other[0, 0, y, x] = 5
            moved = run(model, {"image": other})[0] if _near(y, x) else plain
            changes[y, x] = moved[0, 0, row, column] != plain[0, 0, row, column]
    seen = tuple(
        int(np.flatnonzero(changes.any(axis=axis))[-1] - np.flatnonzero(changes.any(axis=axis))[0])
        + 1
        for axis in (1, 0)
    )
    assert receptive_field(GraphIndex(model), output, "image") == seen


def _near(y: int, x: int) -> bool:
    """One row and one column tell the extent, in a third of the time."""
    return SIDE // 4 <= y < 3 * SIDE // 4 + 4 and SIDE // 4 <= x < 3 * SIDE // 4 + 4


def test_behind_a_pooling_of_everything_all_is_seen() -> None:
    model = chain(("Conv", {"kernel_shape": [3, 3]}), ("GlobalAveragePool", {}))
    assert receptive_field(GraphIndex(model), "t1", "image") is None
    assert receptive_field(GraphIndex(model), "t0", "image") == (3, 3)
