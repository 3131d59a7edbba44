"""Tiny models of rarer kinds: other ranks and groups, half-sized numbers, integer codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.models import Weights, head, model_of


def _normal(*shape: int, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def _codes(*shape: int, dtype: str = "int8", seed: int = 0) -> NDArray:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed + sum(shape))
    return rng.integers(limits.min, limits.max, shape).astype(dtype)


def one_dimensional() -> ModelProto:
    """A convolution over rows of the flattened image."""
    w: Weights = {"shape": np.array([0, 2, 36]), "w": _normal(4, 2, 5), "b": _normal(4)}
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["rows"], "rows"),
        helper.make_node("Conv", ["rows", "w", "b"], ["y"], "conv", dilations=[2], strides=[2]),
    ]
    return model_of(nodes + head("y", w, 4), w)


def three_dimensional() -> ModelProto:
    """The image as a volume of 2 x 6 x 6 with one channel, grouped in the second convolution."""
    w: Weights = {
        "shape": np.array([0, 1, 2, 6, 6]),
        "first": _normal(4, 1, 1, 3, 3),
        "w": _normal(6, 2, 2, 3, 3),
    }
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["volume"], "volume"),
        helper.make_node("Conv", ["volume", "first"], ["x"], "conv_1", pads=[0, 1, 1, 0, 1, 1]),
        helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=2),
    ]
    return model_of(nodes + head("y", w, 6), w)


def grouped() -> ModelProto:
    w: Weights = {"first": _normal(4, 2, 1, 1), "w": _normal(6, 2, 3, 3), "b": _normal(6)}
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["x"], "conv_1"),
        helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", group=2),
    ]
    return model_of(nodes + head("y", w, 6), w)


def brain_floats() -> ModelProto:
    """Weights stored as bfloat16 and cast to 32 bits."""
    w: Weights = {}
    nodes = [
        helper.make_node("Cast", ["short_w"], ["w"], "cast_w", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["short_b"], ["b"], "cast_b", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv"),
    ]
    model = model_of(nodes + head("y", w, 4), w)
    for name, array in (("short_w", _normal(4, 2, 3, 3)), ("short_b", _normal(4))):
        model.graph.initializer.append(
            helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, array.reshape(-1))
        )
    return model


def half_weights() -> ModelProto:
    """Weights stored as float16 and cast to 32 bits."""
    w: Weights = {"short": _normal(4, 2, 3, 3).astype(np.float16), "b": _normal(4)}
    nodes = [
        helper.make_node("Cast", ["short"], ["w"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv"),
    ]
    return model_of(nodes + head("y", w, 4), w)


def _linear(dtype: str, *, per_channel: bool, bias: bool) -> ModelProto:
    """Two convolutions on codes between a quantisation and its inverse."""
    n = 4 if per_channel else 1
    scales = np.linspace(0.004, 0.009, 4, dtype=np.float32)[:n]
    zeros = np.array([3, -7, 0, 1] if per_channel else [3], np.int8)
    w: Weights = {
        "in_scale": np.array(0.03, np.float32),
        "in_zero": np.array(5, dtype),
        "kernel": _codes(4, 2, 3, 3),
        "kernel_scale": scales if per_channel else scales[0],
        "kernel_zero": zeros if per_channel else zeros[0],
        "mid_scale": np.array(0.05, np.float32),
        "mid_zero": np.array(100 if dtype == "uint8" else -11, dtype),
        "kernel_2": _codes(6, 2, 1, 1, seed=1),
        "one_scale": np.array(0.008, np.float32),
        "one_zero": np.array(0, np.int8),
        "out_scale": np.array(0.04, np.float32),
        "out_zero": np.array(0, dtype),
    }
    first = ["codes", "in_scale", "in_zero", "kernel", "kernel_scale", "kernel_zero"]
    first += ["mid_scale", "mid_zero"]
    if bias:
        w["bias"] = np.array([900, -2000, 0, 5000], np.int32)
        first.append("bias")
    second = ["mid", "mid_scale", "mid_zero", "kernel_2", "one_scale", "one_zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "in_scale", "in_zero"], ["codes"], "quantise"),
        helper.make_node("QLinearConv", first, ["mid"], "conv"),
        helper.make_node(
            "QLinearConv", [*second, "out_scale", "out_zero"], ["out"], "conv_2", group=2
        ),
        helper.make_node("DequantizeLinear", ["out", "out_scale", "out_zero"], ["y"], "back"),
    ]
    return model_of(nodes + head("y", w, 6), w)


def linear_codes() -> ModelProto:
    """`QLinearConv` on unsigned codes, one scale per kernel."""
    return _linear("uint8", per_channel=False, bias=True)


def linear_codes_per_channel() -> ModelProto:
    """`QLinearConv` on signed codes, a scale and a zero point per filter, without a bias."""
    return _linear("int8", per_channel=True, bias=False)


def integer_products() -> ModelProto:
    """`ConvInteger` as dynamic quantisation writes it."""
    w: Weights = {
        "kernel": _codes(4, 2, 3, 3, dtype="uint8"),
        "kernel_zero": np.array(131, np.uint8),
        "kernel_scale": np.array(0.01, np.float32),
        "bias": _normal(4),
        "bias_shape": np.array([1, -1, 1, 1]),
    }
    nodes: list[NodeProto] = [
        helper.make_node("Reshape", ["bias", "bias_shape"], ["b"], "shape_bias"),
        helper.make_node("DynamicQuantizeLinear", ["image"], ["codes", "scale", "zero"], "dynamic"),
        helper.make_node("Mul", ["scale", "kernel_scale"], ["both"], "both_scales"),
        helper.make_node(
            "ConvInteger", ["codes", "kernel", "zero", "kernel_zero"], ["sum"], "conv"
        ),
        helper.make_node("Cast", ["sum"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "both"], ["product"], "scale"),
        helper.make_node("Add", ["product", "b"], ["y"], "add"),
    ]
    return model_of(nodes + head("y", w, 4), w)


def at_opset(opset: int) -> ModelProto:
    """A convolution, its normalisation and a bounded activation as that opset writes them."""
    w: Weights = {
        "w": _normal(4, 2, 3, 3),
        "gamma": _normal(4, seed=1),
        "beta": _normal(4, seed=2),
        "mean": _normal(4, seed=3),
        "variance": np.abs(_normal(4, seed=4)) + 0.1,
    }
    norm = ["x", "gamma", "beta", "mean", "variance"]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "conv"),
        helper.make_node("BatchNormalization", norm, ["y"], "norm"),
    ]
    if opset < 11:
        nodes.append(helper.make_node("Clip", ["y"], ["z"], "clip", min=-1.0, max=6.0))
    else:
        w["low"], w["high"] = np.array(-1.0, np.float32), np.array(6.0, np.float32)
        nodes.append(helper.make_node("Clip", ["y", "low", "high"], ["z"], "clip"))
    nodes += head("z", w, 4)
    ir_version = 3 if opset < 9 else 8 if opset < 19 else 10
    model = model_of(nodes, w, opset=opset, ir_version=ir_version)
    if ir_version < 4:
        for tensor in model.graph.initializer:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(value)
    return model


def with_function() -> ModelProto:
    """A convolution of the graph, and one inside a model function."""
    w: Weights = {"w": _normal(4, 2, 3, 3), "v": _normal(4, 4, 1, 1)}
    inner = helper.make_node("Conv", ["a", "k"], ["c"], "inner")
    function = helper.make_function(
        "own", "block", ["a", "k"], ["c"], [inner], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "conv"),
        helper.make_node("block", ["x", "v"], ["y"], "call", domain="own"),
    ]
    model = model_of(nodes + head("y", w, 4), w)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def squeezed(batch: int | str = 1) -> ModelProto:
    """Fixed at batch 1, with an output that has no batch axis."""
    w: Weights = {"w": _normal(4, 2, 3, 3), "sizes": np.array([1, 4, 8, 8]), "axes": np.array([0])}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "conv"),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], "resize"),
        *head("y", w, 4),
    ]
    nodes[-1].output[0] = "row"
    nodes.append(helper.make_node("Squeeze", ["row", "axes"], ["logits"], "squeeze"))
    model = model_of(nodes, w, batch=batch)
    del model.graph.output[0].type.tensor_type.shape.dim[0]
    return model


def with_token(batch: int | str = 1) -> ModelProto:
    """Fixed at batch 1 by a constant that stands before the positions, and by a Reshape."""
    w: Weights = {
        "w": _normal(4, 2, 3, 3),
        "shape": np.array([1, 4, 16]),
        "token": _normal(1, 4, 1),
        "flat": np.array([1, 68]),
        "fc": _normal(68, 3),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "conv"),
        helper.make_node("Reshape", ["x", "shape"], ["rows"], "rows"),
        helper.make_node("Concat", ["token", "rows"], ["both"], "concat", axis=2),
        helper.make_node("Reshape", ["both", "flat"], ["row"], "flatten"),
        helper.make_node("MatMul", ["row", "fc"], ["logits"], "fc"),
    ]
    return model_of(nodes, w, batch=batch)


def centred() -> ModelProto:
    """A batch that is free, though images change one another's answers."""
    w: Weights = {"w": _normal(4, 2, 3, 3)}
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], "mean", axes=[0], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["centred"], "sub"),
        helper.make_node("Add", ["centred", "image"], ["both"], "both"),
        helper.make_node("Conv", ["both", "w"], ["y"], "conv"),
    ]
    return model_of(nodes + head("y", w, 4), w)


def of_bytes() -> ModelProto:
    """An image of bytes, channels last, cast and scaled inside the model."""
    w: Weights = {"w": _normal(4, 2, 3, 3), "scale": np.array(1 / 255, np.float32)}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"], "scale"),
        helper.make_node("Transpose", ["scaled"], ["first"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "w"], ["y"], "conv"),
    ]
    model = model_of(nodes + head("y", w, 4), w)
    value = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 6, 6, 2])
    model.graph.input[0].CopyFrom(value)
    return model


def initializer(model: ModelProto, name: str) -> NDArray:
    """The contents of a stored tensor."""
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


LAYERS: dict[str, Callable[[], ModelProto]] = {
    f.__name__: f
    for f in (
        one_dimensional,
        three_dimensional,
        grouped,
        brain_floats,
        half_weights,
        linear_codes,
        linear_codes_per_channel,
        integer_products,
        with_function,
        squeezed,
        with_token,
        centred,
    )
}
