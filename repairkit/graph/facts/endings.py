"""What a graph's last operators say of an output: probabilities, logarithms, or raw scores."""

from __future__ import annotations

from typing import Literal

from onnx import ModelProto, NodeProto

from repairkit.graph.index import GraphIndex, attribute, subgraphs

Ending = Literal["softmax", "sigmoid", "log-softmax", "linear"]

# These hand numbers on, in another shape or type.
_PASSING = frozenset(
    {
        "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "CastLike",
        "QuantizeLinear", "DequantizeLinear", "Dropout",
    }
)  # fmt: skip
# Their sums have no bounds: whatever they end in is no probability but by accident.
_LINEAR = frozenset(
    {
        "Gemm", "MatMul", "Conv", "QLinearMatMul", "QLinearConv", "QGemm", "MatMulInteger",
        "FusedMatMul",
    }
)  # fmt: skip
_AFTER_LINEAR = frozenset(
    {"Add", "Sub", "Mul", "Div", "GlobalAveragePool", "ReduceMean", "AveragePool",
     "BatchNormalization", "QLinearAdd", "QLinearGlobalAveragePool"}
)  # fmt: skip
_ENDINGS: dict[str, Ending] = {
    "Softmax": "softmax",
    "QLinearSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
    "LogSoftmax": "log-softmax",
}
_BY_TRANSFORM: dict[bytes, Ending] = {b"SOFTMAX": "softmax", b"LOGISTIC": "sigmoid"}


def ending_of(model: ModelProto, output: str) -> tuple[Ending, str] | None:
    """How an output is made, and the operator that says so; None where the graph does not tell.

    Layers that only reshape, cast or quantise are passed by, and so are sums and factors that are
    stored in the model, behind a dense or convolutional layer.
    """
    index = GraphIndex(model)
    name, arithmetic = output, False
    for _ in range(len(index.nodes)):
        if name not in index.producers:
            return None
        node = index.nodes[index.producers[name]]
        if subgraphs(node):
            return None
        kind = node.op_type
        if kind in _ENDINGS and not arithmetic:
            return _ENDINGS[kind], kind
        if kind == "Log" and not arithmetic:
            below = ending_of(model, node.input[0])
            return ("log-softmax", "Log of a Softmax") if below and below[0] == "softmax" else None
        if kind in _LINEAR:
            return ("linear", kind) if _is_plain(node) else None
        transform = attribute(node, "post_transform")
        if transform is not None and transform.s in _BY_TRANSFORM and not arithmetic:
            return _BY_TRANSFORM[transform.s], f"{kind} with {transform.s.decode()}"
        following = _before(node, index)
        if following is None:
            return None
        arithmetic = arithmetic or kind in _AFTER_LINEAR
        name = following
    return None


def _is_plain(node: NodeProto) -> bool:
    """Whether a layer ends in its sums, without an activation fused to it."""
    activation = attribute(node, "activation")
    return activation is None or not activation.s


def _before(node: NodeProto, index: GraphIndex) -> str | None:
    """The one tensor that a node hands on; None where it does more."""
    if node.op_type in _PASSING or node.op_type == "ZipMap":
        return str(node.input[0])
    if node.op_type not in _AFTER_LINEAR:
        return None
    changing = [name for name in node.input if name and name not in index.constant]
    return str(changing[0]) if len(changing) == 1 else None
