"""What a graph's last operators say of its output."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.graph.structure import ending_of

WEIGHTS = {
    "w": np.ones((2, 3), np.float32),
    "b": np.ones(3, np.float32),
    "scale": np.float32(2),
    "shape": np.array([-1, 3]),
    "axes": np.array([2, 3]),
}
GEMM = ("Gemm", "x w b", {})


def model(*operators: tuple[str, str, dict[str, object]]) -> ModelProto:
    """Operators in a row; each input list names weights, and `.` what came before."""
    nodes, last = [], "x"
    for number, (kind, inputs, attributes) in enumerate(operators):
        names = [last if name == "." else name for name in inputs.split()]
        domain = "ai.onnx.ml" if kind == "TreeEnsembleClassifier" else ""
        nodes.append(helper.make_node(kind, names, [f"t{number}"], domain=domain, **attributes))
        last = f"t{number}"
    graph = helper.make_graph(
        nodes,
        "ending",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in WEIGHTS.items()],
    )
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        ([GEMM], "linear"),
        ([GEMM, ("Identity", ".", {})], "linear"),
        ([("MatMul", "x w", {}), ("Add", ". b", {}), ("Mul", "scale .", {})], "linear"),
        ([GEMM, ("Softmax", ".", {})], "softmax"),
        ([GEMM, ("Softmax", ".", {}), ("Reshape", ". shape", {}), ("Cast", ".", {"to": 1})],
         "softmax"),
        ([GEMM, ("Sigmoid", ".", {}), ("Squeeze", ". axes", {})], "sigmoid"),
        ([GEMM, ("LogSoftmax", ".", {})], "log-softmax"),
        ([GEMM, ("Softmax", ".", {}), ("Log", ".", {})], "log-softmax"),
        ([GEMM, ("Softmax", ".", {}), ("Mul", ". scale", {})], None),
        ([GEMM, ("Tanh", ".", {})], None),
        ([GEMM, ("Relu", ".", {})], None),
        ([GEMM, ("Sigmoid", ".", {}), ("Log", ".", {})], None),
        ([("TreeEnsembleClassifier", "x", {"post_transform": "LOGISTIC"})], "sigmoid"),
        ([("TreeEnsembleClassifier", "x", {"post_transform": "NONE"})], None),
    ],
)  # fmt: skip
def test_the_last_operator_that_does_something_tells(
    operators: list[tuple[str, str, dict[str, object]]], expected: str | None
) -> None:
    found = ending_of(model(*operators), f"t{len(operators) - 1}")
    assert (found and found[0]) == expected


def test_an_input_that_is_handed_on_tells_nothing() -> None:
    assert ending_of(model(("Identity", "x", {})), "t0") is None
