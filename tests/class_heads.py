"""Tiny classifiers of three classes, one for each way in which a last layer can be written down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tests.models import model_of

Weights = dict[str, NDArray]
_BODY = 5


def _normal(*shape: int, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def _body(weights: Weights) -> list[NodeProto]:
    """Five features over 6 x 6 positions: `act`."""
    weights["conv_w"], weights["conv_b"] = _normal(_BODY, 2, 3, 3), _normal(_BODY)
    return [
        helper.make_node(
            "Conv", ["image", "conv_w", "conv_b"], ["conv_out"], "conv", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["conv_out"], ["act"], "relu"),
    ]


def _flat() -> list[NodeProto]:
    return [
        helper.make_node("GlobalAveragePool", ["act"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
    ]


def _model(nodes: list[NodeProto], more: Weights, shape: list[int] | None = None) -> ModelProto:
    weights: Weights = {}
    model = model_of(_body(weights) + nodes, weights, output="scores")
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in more.items())
    if shape is not None:
        value = helper.make_tensor_value_info("scores", 1, ["batch", *shape])
        model.graph.output[0].CopyFrom(value)
    return model


def gemm() -> ModelProto:
    more = {"w": _normal(_BODY, 3, seed=1), "b": _normal(3)}
    return _model([*_flat(), helper.make_node("Gemm", ["flat", "w", "b"], ["scores"], "fc")], more)


def gemm_transposed() -> ModelProto:
    """With factors of its own, and a bias of two axes."""
    more = {"w": _normal(3, _BODY), "b": _normal(1, 3)}
    fc = helper.make_node(
        "Gemm", ["flat", "w", "b"], ["scores"], "fc", transB=1, alpha=0.5, beta=2.0
    )
    return _model([*_flat(), fc], more)


def gemm_without_bias() -> ModelProto:
    fc = helper.make_node("Gemm", ["flat", "w"], ["scores"], "fc")
    return _model([*_flat(), fc], {"w": _normal(_BODY, 3)})


def gemm_one_bias() -> ModelProto:
    """One number is added to every class."""
    fc = helper.make_node("Gemm", ["flat", "w", "b"], ["scores"], "fc")
    return _model([*_flat(), fc], {"w": _normal(_BODY, 3), "b": _normal(1)})


def matmul_add() -> ModelProto:
    nodes = [
        *_flat(),
        helper.make_node("MatMul", ["flat", "w"], ["product"], "fc"),
        helper.make_node("Add", ["b", "product"], ["scores"], "fc_bias"),
    ]
    return _model(nodes, {"w": _normal(_BODY, 3), "b": _normal(3)})


def matmul_alone() -> ModelProto:
    fc = helper.make_node("MatMul", ["flat", "w"], ["scores"], "fc")
    return _model([*_flat(), fc], {"w": _normal(_BODY, 3)})


def conv_pooled() -> ModelProto:
    nodes = [
        helper.make_node("Conv", ["act", "w", "b"], ["maps"], "classes", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"], "pool"),
        helper.make_node("Flatten", ["means"], ["scores"], "flatten"),
    ]
    return _model(nodes, {"w": _normal(3, _BODY, 1, 1), "b": _normal(3)})


def conv_without_bias() -> ModelProto:
    nodes = [
        helper.make_node("Conv", ["act", "w"], ["maps"], "classes"),
        helper.make_node("GlobalAveragePool", ["maps"], ["scores"], "pool"),
    ]
    return _model(nodes, {"w": _normal(3, _BODY, 1, 1)}, [3, 1, 1])


def conv_whole() -> ModelProto:
    """A convolution as wide as what it reads."""
    nodes = [
        helper.make_node(
            "MaxPool", ["act"], ["small"], "small", kernel_shape=[3, 3], strides=[3, 3]
        ),
        helper.make_node("Conv", ["small", "w", "b"], ["scores"], "classes"),
    ]
    return _model(nodes, {"w": _normal(3, _BODY, 2, 2), "b": _normal(3)}, [3, 1, 1])


def conv_padded() -> ModelProto:
    """Windows of uneven padding and steps, and a mean over positions."""
    nodes = [
        helper.make_node(
            "Conv",
            ["act", "w", "b"],
            ["maps"],
            "classes",
            pads=[1, 0, 2, 1],
            strides=[2, 1],
            dilations=[1, 2],
        ),
        helper.make_node("GlobalAveragePool", ["maps"], ["scores"], "pool"),
    ]
    return _model(nodes, {"w": _normal(3, _BODY, 3, 2), "b": _normal(3)}, [3, 1, 1])


def conv_same() -> ModelProto:
    """Padding that the runtime settles: an odd number of rows."""
    model = conv_padded()
    fresh = helper.make_node(
        "Conv", ["act", "w", "b"], ["maps"], "classes", auto_pad="SAME_UPPER", strides=[1, 2]
    )
    model.graph.node[-2].CopyFrom(fresh)
    return model


def softmax() -> ModelProto:
    more = {"w": _normal(_BODY, 3), "b": _normal(3)}
    nodes = [
        *_flat(),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], "fc"),
        helper.make_node("Softmax", ["logits"], ["scores"], "softmax", axis=1),
    ]
    return _model(nodes, more)


def log_softmax() -> ModelProto:
    model = softmax()
    model.graph.node[-1].op_type = "LogSoftmax"
    return model


def temperature() -> ModelProto:
    """Logits divided by a number, shifted by a number for each class, then a softmax."""
    more = {
        "w": _normal(_BODY, 3),
        "b": _normal(3),
        "t": np.float32([1.7]),
        "shift": np.float32([[0.3, -0.2, 0.5]]),
    }
    nodes = [
        *_flat(),
        helper.make_node("Gemm", ["flat", "w", "b"], ["raw"], "fc"),
        helper.make_node("Sub", ["raw", "shift"], ["moved"], "shift"),
        helper.make_node("Div", ["moved", "t"], ["logits"], "temperature"),
        helper.make_node("Softmax", ["logits"], ["scores"], "softmax", axis=1),
    ]
    return _model(nodes, more)


def sigmoid() -> ModelProto:
    """Two classes, one number."""
    nodes = [
        *_flat(),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logit"], "fc"),
        helper.make_node("Sigmoid", ["logit"], ["scores"], "sigmoid"),
    ]
    return _model(nodes, {"w": _normal(_BODY, 1), "b": _normal(1)}, [1])


def channels_last() -> ModelProto:
    nodes = [
        helper.make_node("Conv", ["act", "w", "b"], ["maps"], "classes"),
        helper.make_node("Transpose", ["maps"], ["last"], "last", perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["last"], ["logits"], "mean", axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["logits"], ["scores"], "softmax", axis=-1),
    ]
    return _model(nodes, {"w": _normal(3, _BODY, 1, 1), "b": _normal(3)})


def normalised() -> ModelProto:
    more = {
        "w": _normal(3, _BODY, 1, 1),
        **{name: np.abs(_normal(3, seed=i)) + 0.5 for i, name in enumerate("gbmv")},
    }
    nodes = [
        helper.make_node("Conv", ["act", "w"], ["maps"], "classes"),
        helper.make_node("BatchNormalization", ["maps", *"gbmv"], ["normal"], "norm"),
        helper.make_node("GlobalAveragePool", ["normal"], ["scores"], "pool"),
    ]
    return _model(nodes, more, [3, 1, 1])


def shared_bias() -> ModelProto:
    """The bias of the last layer is added to the features, too."""
    model = gemm()
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(_normal(3), "b"))
    added = helper.make_node("Add", ["scores_raw", "b"], ["scores"], "again")
    model.graph.node[-1].output[0] = "scores_raw"
    model.graph.node.append(added)
    return model


def constant_weights() -> ModelProto:
    """Weights in `Constant` nodes, one of them turned."""
    kernel, bias = _normal(3, _BODY), _normal(3)
    nodes = [
        *_flat(),
        helper.make_node("Constant", [], ["w_t"], value=numpy_helper.from_array(kernel)),
        helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(bias)),
        helper.make_node("Transpose", ["w_t"], ["w"], "turned", perm=[1, 0]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]),
    ]
    return _model(nodes, {})


HEADS: dict[str, Callable[[], ModelProto]] = {
    made.__name__: made
    for made in (
        gemm, gemm_transposed, gemm_without_bias, gemm_one_bias, matmul_add, matmul_alone,
        conv_pooled, conv_without_bias, conv_whole, conv_padded, conv_same,
        softmax, log_softmax, temperature, sigmoid,
        channels_last, normalised, shared_bias, constant_weights,
    )
}  # fmt: skip
