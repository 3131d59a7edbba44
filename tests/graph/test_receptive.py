"""What a position sees, against what really reaches it when pixels change."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.graph.index import GraphIndex
from repairkit.graph.structure import receptive_field
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
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"])],
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
    images = np.ones((SIDE * SIDE + 1, 1, SIDE, SIDE), np.float32)
    pixels = np.arange(SIDE * SIDE)
    images[pixels, 0, pixels // SIDE, pixels % SIDE] = 5  # the last one stays as it is
    answers = run(model, {"image": images})[0][:, 0]
    answers = answers[:, answers.shape[1] // 2, answers.shape[2] // 2]
    changes = (answers[:-1] != answers[-1]).reshape(SIDE, SIDE)
    seen = tuple(int(np.ptp(np.flatnonzero(changes.any(axis=axis)))) + 1 for axis in (1, 0))
    assert receptive_field(GraphIndex(model), output, "image") == seen


def test_behind_a_pooling_of_everything_all_is_seen() -> None:
    model = chain(("Conv", {"kernel_shape": [3, 3]}), ("GlobalAveragePool", {}))
    assert receptive_field(GraphIndex(model), "t1", "image") is None
    assert receptive_field(GraphIndex(model), "t0", "image") == (3, 3)
