"""Tiny models built in code, one for each way in which a layer can be written down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIDE = 6
CHANNELS = 2
Weights = dict[str, NDArray]


def model_of(
    nodes: list[NodeProto],
    weights: Weights,
    *,
    opset: int = 17,
    ir_version: int = 8,
    batch: int | str = "batch",
    dtype: int = TensorProto.FLOAT,
    output: str = "logits",
) -> ModelProto:
    """A model with the input `image` of batch x 2 x 6 x 6 and one output of batch x 3."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", dtype, [batch, CHANNELS, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, dtype, [batch, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    model.producer_name = "tests"
    model.metadata_props.add(key="author", value="somebody")
    model.graph.doc_string = "a tiny model"
    return model


def head(features: str, weights: Weights, n: int, dtype: str = "float32") -> list[NodeProto]:
    """Global pooling and a dense layer to three logits."""
    rng = np.random.default_rng(9)
    weights["fc_w"] = rng.standard_normal((n, 3)).astype(dtype)
    weights["fc_b"] = rng.standard_normal(3).astype(dtype)
    return [
        helper.make_node("Relu", [features], ["act"], "act"),
        helper.make_node("GlobalAveragePool", ["act"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["logits"], "fc"),
    ]


def _normal(*shape: int, seed: int = 0, dtype: str = "float32") -> NDArray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(dtype)


def no_bias() -> ModelProto:
    w: Weights = {"w": _normal(4, 2, 3, 3)}
    nodes = [helper.make_node("Conv", ["image", "w"], ["y"], "conv", pads=[1, 1, 1, 1])]
    return model_of(nodes + head("y", w, 4), w)


def own_bias() -> ModelProto:
    w: Weights = {"w": _normal(4, 2, 3, 3), "b": _normal(4)}
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv")]
    return model_of(nodes + head("y", w, 4), w)


def empty_bias() -> ModelProto:
    """The bias input is there and empty."""
    w: Weights = {"w": _normal(4, 2, 3, 3)}
    nodes = [helper.make_node("Conv", ["image", "w", ""], ["y"], "conv")]
    return model_of(nodes + head("y", w, 4), w)


def bias_add() -> ModelProto:
    w: Weights = {"w": _normal(4, 2, 3, 3), "b": _normal(4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "conv"),
        helper.make_node("Add", ["x", "b"], ["y"], "add"),
    ]
    return model_of(nodes + head("y", w, 4), w)


def both_biases() -> ModelProto:
    w: Weights = {"w": _normal(4, 2, 3, 3), "b": _normal(4), "c": _normal(1, 4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"], "conv"),
        helper.make_node("Add", ["c", "x"], ["y"], "add"),
    ]
    return model_of(nodes + head("y", w, 4), w)


def normalised() -> ModelProto:
    w: Weights = {
        "w": _normal(4, 2, 3, 3),
        "b": _normal(4),
        "gamma": _normal(4),
        "beta": _normal(4, seed=1),
        "mean": _normal(4, seed=2),
        "var": np.abs(_normal(4, seed=3)) + 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"], "conv"),
        helper.make_node(
            "BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["y"], "norm"
        ),
    ]
    return model_of(nodes + head("y", w, 4), w)


def depthwise() -> ModelProto:
    w: Weights = {"w": _normal(4, 1, 3, 3), "b": _normal(4)}
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv", group=2)]
    return model_of(nodes + head("y", w, 4), w)


def transposed() -> ModelProto:
    w: Weights = {"w": _normal(2, 4, 3, 3)}
    nodes = [helper.make_node("ConvTranspose", ["image", "w"], ["y"], "conv")]
    return model_of(nodes + head("y", w, 4), w)


def transposed_grouped() -> ModelProto:
    w: Weights = {"w": _normal(2, 3, 3, 3), "b": _normal(6)}
    nodes = [helper.make_node("ConvTranspose", ["image", "w", "b"], ["y"], "conv", group=2)]
    return model_of(nodes + head("y", w, 6), w)


def shared_kernel() -> ModelProto:
    w: Weights = {"w": _normal(2, 2, 3, 3), "b": _normal(2)}
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"], "conv", pads=pads),
        helper.make_node("Conv", ["x", "w", "b"], ["y"], "again", pads=pads),
    ]
    return model_of(nodes + head("y", w, 2), w)


def constant_nodes() -> ModelProto:
    w: Weights = {}
    nodes = [
        helper.make_node(
            "Constant", [], [name], f"make_{name}", value=numpy_helper.from_array(array)
        )
        for name, array in {"w": _normal(4, 2, 3, 3), "b": _normal(4)}.items()
    ]
    nodes.append(helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv"))
    return model_of(nodes + head("y", w, 4), w)


def moved_weights() -> ModelProto:
    """The kernel is stored height first, flat, and reaches the layer by three moves."""
    w: Weights = {
        "stored": _normal(3 * 3 * 2 * 4),
        "shape": np.array([3, 3, 2, 4]),
        "b": _normal(4),
    }
    nodes = [
        helper.make_node("Reshape", ["stored", "shape"], ["hwio"], "reshape"),
        helper.make_node("Transpose", ["hwio"], ["oihw"], "transpose", perm=[3, 2, 0, 1]),
        helper.make_node("Identity", ["oihw"], ["w"], "identity"),
        helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv"),
    ]
    return model_of(nodes + head("y", w, 4), w)


def quantised() -> ModelProto:
    """Weights behind DequantizeLinear, the bias in 32-bit codes."""
    rng = np.random.default_rng(5)
    w: Weights = {
        "codes": rng.integers(-90, 90, (4, 2, 3, 3)).astype(np.int8),
        "scale": np.array([0.01, 0.02, 0.03, 0.005], np.float32),
        "zero": np.array([0, 3, -5, 0], np.int8),
        "bias_codes": rng.integers(-900, 900, 4).astype(np.int32),
        "bias_scale": np.array([0.001, 0.002, 0.003, 0.0005], np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], "dq", axis=0),
        helper.make_node("DequantizeLinear", ["bias_codes", "bias_scale"], ["b"], "dqb", axis=0),
        helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv"),
    ]
    return model_of(nodes + head("y", w, 4), w)


def computed_weights() -> ModelProto:
    """The kernel is constant but computed in a way that cannot be written through."""
    w: Weights = {"a": _normal(4, 2, 3, 3), "two": np.array(2.0, np.float32)}
    nodes = [
        helper.make_node("Mul", ["a", "two"], ["w"], "double"),
        helper.make_node("Conv", ["image", "w"], ["y"], "conv"),
    ]
    return model_of(nodes + head("y", w, 4), w)


def half_precision() -> ModelProto:
    w: Weights = {"w": _normal(4, 2, 3, 3, dtype="float16"), "b": _normal(4, dtype="float16")}
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv")]
    return model_of(nodes + head("y", w, 4, "float16"), w, dtype=TensorProto.FLOAT16)


def old_opset() -> ModelProto:
    """Opset 7 and IR 3, where every initializer is an input too and there is no `Where`."""
    w: Weights = {"w": _normal(4, 2, 3, 3)}
    nodes = [helper.make_node("Conv", ["image", "w"], ["y"], "conv")]
    model = model_of(nodes + head("y", w, 4), w, opset=7, ir_version=3)
    for name, array in w.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    return model


def dense_units() -> ModelProto:
    """Two dense layers, written as MatMul with Add and as Gemm; sites with include=dense."""
    w: Weights = {
        "flat_shape": np.array([-1, 72]),
        "m": _normal(72, 5),
        "b": _normal(5),
        "g": _normal(4, 5),
        "c": _normal(4),
        "o": _normal(4, 3),
    }
    nodes = [
        helper.make_node("Reshape", ["image", "flat_shape"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "m"], ["x"], "first"),
        helper.make_node("Add", ["x", "b"], ["y"], "add"),
        helper.make_node("Relu", ["y"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "g", "c"], ["z"], "second", transB=1),
        helper.make_node("Tanh", ["z"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t", "o"], ["logits"], "last"),
    ]
    return model_of(nodes, w)


def unnamed_nodes() -> ModelProto:
    """Nodes without a name."""
    w: Weights = {"a": _normal(3, 2, 1, 1), "b": _normal(3, 3, 1, 1), "c": _normal(3, 3, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["first"]),
        helper.make_node("Conv", ["first", "b"], ["second"]),
        helper.make_node("Conv", ["second", "c"], ["third"]),
    ]
    return model_of(nodes + head("third", w, 3), w)


def fixed_batch() -> ModelProto:
    """Batch 1, hard-wired in a Reshape too."""
    w: Weights = {
        "w": _normal(4, 2, 3, 3),
        "b": _normal(4),
        "shape": np.array([1, 64]),
        "fc_w": _normal(64, 3),
        "fc_b": _normal(1, 3),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv"),
        helper.make_node("Relu", ["y"], ["act"], "act"),
        helper.make_node("Reshape", ["act", "shape"], ["flat"], "reshape"),
        helper.make_node("MatMul", ["flat", "fc_w"], ["x"], "fc"),
        helper.make_node("Add", ["x", "fc_b"], ["logits"], "fc_bias"),
    ]
    return model_of(nodes, w, batch=1)


def stuck_batch() -> ModelProto:
    """Batch 1 in a way that batching would break: images are centred over the batch axis."""
    w: Weights = {"w": _normal(4, 2, 3, 3), "zero": np.zeros((1, 2, 6, 6), np.float32)}
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["centre"], "centre", axes=[0], keepdims=1),
        helper.make_node("Mul", ["centre", "image"], ["scaled"], "scale"),
        helper.make_node("Conv", ["scaled", "w"], ["y"], "conv"),
    ]
    return model_of(nodes + head("y", w, 4), w, batch=1)


LAYERS: dict[str, Callable[[], ModelProto]] = {
    f.__name__: f
    for f in (
        no_bias,
        own_bias,
        empty_bias,
        bias_add,
        both_biases,
        normalised,
        depthwise,
        transposed,
        transposed_grouped,
        shared_kernel,
        constant_nodes,
        moved_weights,
        quantised,
        computed_weights,
        half_precision,
        old_opset,
        unnamed_nodes,
        fixed_batch,
        stuck_batch,
    )
}


def images(n: int, seed: int = 0, dtype: str = "float32") -> NDArray:
    """Noise of the tiny models' input shape."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, CHANNELS, SIDE, SIDE)).astype(dtype)
