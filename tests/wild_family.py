"""A family of models with the habits of many exporters, drawn at random.

Whatever of it ONNX Runtime loads and runs, repairkit is to open, patch and prove. A member is a few
layers behind an image input, and heads of all kinds. What varies: how sizes are declared, how
weights are stored, which operators surround the layers, names, types, opsets, further inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from repairkit.core.suite import Array

SIDE = 8
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 21)
_TYPES = {
    np.dtype("float32"): TensorProto.FLOAT,
    np.dtype("float16"): TensorProto.FLOAT16,
    np.dtype("uint8"): TensorProto.UINT8,
    np.dtype("int8"): TensorProto.INT8,
    np.dtype("bool"): TensorProto.BOOL,
}
_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Clip", "HardSwish", "none")
_BIASES = ("none", "own", "Add", "BatchNormalization")
_LAYERS = (
    "plain", "plain", "plain", "same", "strided", "grouped", "depthwise", "pointwise", "dilated",
    "transposed", "residual", "concat", "codes",
)  # fmt: skip
_BETWEEN = ("none", "none", "Identity", "Dropout", "Cast", "pool", "reshape")
_HEADS = ("scores", "map", "argmax", "above", "sequence", "number", "embedding", "boxes")
_SIZES = ("fixed", "symbol", "negative", "missing")  # a size of 0 is refused by ONNX Runtime


@dataclass(frozen=True)
class Member:
    """A model, data for it without labels, and constants for inputs that the data does not feed."""

    model: ModelProto = field(repr=False)
    arrays: dict[str, Array] = field(repr=False)
    inputs: dict[str, str]
    recipe: str

    @property
    def feeds(self) -> dict[str, Array]:
        """What ONNX Runtime is fed with the first image."""
        wanted = {v.name: v for v in self.model.graph.input}
        stored = {t.name for t in self.model.graph.initializer}
        found = {}
        for name, value in wanted.items():
            if name in stored:
                continue
            if name in self.inputs:
                kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                found[name] = np.array(self.inputs[name] not in ("0", "false"), kind)
            else:
                found[name] = self.arrays["x" if name == "image" else name][:1]
        return found


@dataclass
class _Build:
    draw: Any
    rng: np.random.Generator
    opset: int
    dtype: np.dtype[Any]
    nodes: list[NodeProto] = field(default_factory=list)
    stored: dict[str, Array] = field(default_factory=dict)
    recipe: list[str] = field(default_factory=list)
    constant_nodes: bool = False
    n: int = 0

    def one_of(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def flip(self) -> bool:
        return bool(self.draw(st.booleans()))

    def fresh(self, stem: str) -> str:
        self.n += 1
        return f"{stem}_{self.n}"

    def weight(self, array: Array, stem: str = "w") -> str:
        """Store an array as an initializer, or in a `Constant` node."""
        name = self.fresh(stem)
        if self.constant_nodes:
            tensor = numpy_helper.from_array(array, name)
            self.nodes.append(helper.make_node("Constant", [], [name], name, value=tensor))
        else:
            self.stored[name] = array
        return name

    def floats(self, *shape: int, spread: float = 0.5) -> Array:
        return (spread * self.rng.standard_normal(shape)).astype(self.dtype)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = self.fresh(op.lower())
        self.nodes.append(helper.make_node(op, list(inputs), [out], out, **attributes))
        return out


@dataclass(frozen=True)
class _Maps:
    """A tensor of feature maps, (images, channels, side, side)."""

    name: str
    channels: int
    side: int


@st.composite
def members(draw: st.DrawFn) -> Member:
    """A member of the family."""
    opset = draw(st.sampled_from(OPSETS))
    half = opset >= 9 and draw(st.integers(0, 7)) == 0
    dtype = np.dtype("float16" if half else "float32")
    build = _Build(draw, np.random.default_rng(draw(st.integers(0, 2**16))), opset, dtype)
    build.constant_nodes = build.flip() and build.flip()
    batch = build.one_of("fixed", "fixed", *_SIZES)
    maps, values, arrays, inputs = _open(build, batch)
    for _ in range(draw(st.integers(1, 4))):
        maps = _layer(build, maps, build.one_of(*_LAYERS))
        maps = _between(build, maps, build.one_of(*_BETWEEN), fixed=batch == "fixed")
    heads = draw(st.lists(st.sampled_from(_HEADS), min_size=1, max_size=3, unique=True))
    outputs = [_head(build, maps, head, fixed=batch == "fixed") for head in heads]
    graph = helper.make_graph(
        _named(build),
        "family",
        values,
        outputs,
        [numpy_helper.from_array(array, name) for name, array in build.stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = build.one_of(3, 4, 6, 8, 9)
    if model.ir_version < 4 or build.flip():
        known = [(t.name, t.data_type, list(t.dims)) for t in graph.initializer]
        listed = [helper.make_tensor_value_info(*one) for one in known]
        model.graph.input.extend(listed)
    recipe = " ".join([f"opset={opset}", f"ir={model.ir_version}", f"batch={batch}", *build.recipe])
    return Member(model, arrays, inputs, recipe)


def _open(
    build: _Build, batch: str
) -> tuple[_Maps, list[ValueInfoProto], dict[str, Array], dict[str, str]]:
    """The inputs, their data, and the tensor that the first layer reads."""
    channels = build.one_of(1, 2, 3)
    stored = build.one_of(build.dtype, build.dtype, np.dtype("uint8"), np.dtype("int8"))
    last = build.flip() and build.flip()
    sizes = build.one_of(*_SIZES)
    shape = (SIDE, SIDE, channels) if last else (channels, SIDE, SIDE)
    build.recipe.append(f"{stored} {'nhwc' if last else 'nchw'} channels={channels} sizes={sizes}")
    spatial = [sizes if size == SIDE else "fixed" for size in shape]
    values = [_value("image", stored, (1, *shape), [batch, *spatial])]
    x = build.rng.standard_normal((3, *shape)) * (1 if stored.kind == "f" else 40)
    arrays = {"x": (np.abs(x) if stored == "uint8" else x).astype(stored)}
    name = "image"
    if stored != build.dtype:
        name = build.add("Cast", name, to=_TYPES[build.dtype])
        name = build.add("Mul", name, build.weight(np.array(0.02, build.dtype), "scale"))
    if last:
        name = build.add("Transpose", name, perm=[0, 3, 1, 2])
    inputs: dict[str, str] = {}
    further = build.one_of("none", "none", "none", "number", "row", "switch")
    if further == "switch" and build.opset < 9:
        further = "none"
    build.recipe.append(f"further={further}")
    if further == "number":
        values.append(_value("gain", build.dtype, (), []))
        name, inputs["gain"] = build.add("Mul", name, "gain"), "1"
    elif further == "row":
        values.append(_value("factor", build.dtype, (1, 1, 1, 1), [batch, *["fixed"] * 3]))
        arrays["factor"] = np.array([0.5, 1, 2], build.dtype)
        arrays["factor"] = arrays["factor"].reshape(3, 1, 1, 1)
        name = build.add("Mul", name, "factor")
    elif further == "switch":
        values.append(_value("turn", np.dtype("bool"), (), []))
        name, inputs["turn"] = build.add("Where", "turn", build.add("Neg", name), name), "true"
    return _Maps(name, channels, SIDE), values, arrays, inputs


def _value(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...], kinds: list[str]
) -> ValueInfoProto:
    """An input whose sizes are declared in the ways that `kinds` name."""
    value = helper.make_tensor_value_info(name, _TYPES[dtype], list(shape))
    for dim, kind, axis in zip(value.type.tensor_type.shape.dim, kinds, range(9), strict=False):
        if kind == "symbol":
            dim.dim_param = "N" if axis == 0 else f"s{axis}"
        elif kind == "negative":
            dim.dim_value = -1
        elif kind == "missing":
            dim.Clear()
    return value


def _layer(build: _Build, maps: _Maps, kind: str) -> _Maps:
    if kind == "strided" and maps.side < 4:
        kind = "plain"
    if kind in ("residual", "concat"):
        first = _convolution(build, maps, "plain", channels=maps.channels)
        other = maps if kind == "residual" else _convolution(build, maps, "pointwise")
        build.recipe.append(kind)
        if kind == "residual":
            return _Maps(build.add("Add", first.name, other.name), first.channels, maps.side)
        joined = build.add("Concat", first.name, other.name, axis=1)
        return _Maps(joined, first.channels + other.channels, maps.side)
    return _convolution(build, maps, kind)


def _convolution(build: _Build, maps: _Maps, kind: str, *, channels: int | None = None) -> _Maps:
    """A convolution with its bias and activation."""
    out = channels or build.one_of(2, 3, 4)
    width = 1 if kind == "pointwise" else build.one_of(1, 3)
    attributes: dict[str, Any] = {"pads": [width // 2] * 4}
    side, group, op = maps.side, 1, "Conv"
    if kind == "same":
        attributes = {"auto_pad": build.one_of("SAME_UPPER", "SAME_LOWER")}
    elif kind == "strided":
        attributes |= {"strides": [2, 2]}
        side = (side + 1) // 2
    elif kind == "dilated":
        width = 3
        attributes = {"pads": [2] * 4, "dilations": [2, 2]}
    elif kind in ("grouped", "depthwise"):
        group = maps.channels
        out = maps.channels * (1 if kind == "depthwise" else 2)
    elif kind == "transposed":
        op = "ConvTranspose"
    if group > 1:
        attributes["group"] = group
    bias = build.one_of(*_BIASES)
    activation = build.one_of(*_ACTIVATIONS)
    build.recipe.append(f"{kind}{width}/{bias}/{activation}")
    dims = (maps.channels, out) if op == "ConvTranspose" else (out, maps.channels // group)
    kernel = build.floats(*dims, width, width)
    if kind == "codes" and build.opset >= 10 and build.dtype == np.float32:
        weight = _codes(build, kernel)
    else:
        weight = build.weight(kernel)
    own = [build.weight(build.floats(out), "b")] if bias == "own" else []
    name = build.add(op, maps.name, weight, *own, **attributes)
    if bias == "Add":
        name = build.add("Add", name, build.weight(build.floats(1, out, 1, 1), "b"))
    elif bias == "BatchNormalization":
        numbers = [build.floats(out), build.floats(out), build.floats(out)]
        variance = np.abs(build.floats(out)) + np.array(0.5, build.dtype)
        held = [build.weight(a, "bn") for a in (*numbers, variance.astype(build.dtype))]
        name = build.add("BatchNormalization", name, *held)
    return _Maps(_activated(build, name, activation), out, side)


def _codes(build: _Build, kernel: Array) -> str:
    """The kernel as 8-bit codes behind `DequantizeLinear`."""
    scale = np.array(np.abs(kernel).max() / 127, np.float32)
    codes = np.rint(kernel / scale).astype(np.int8)
    held = [build.weight(a, "q") for a in (codes, scale, np.array(0, np.int8))]
    return build.add("DequantizeLinear", *held)


def _activated(build: _Build, name: str, kind: str) -> str:
    if kind == "none":
        return name
    if kind == "Clip":
        if build.opset < 11:
            return build.add("Clip", name, min=0.0, max=6.0)
        ends = [build.weight(np.array(end, build.dtype), "end") for end in (0, 6)]
        return build.add("Clip", name, *ends)
    if kind == "HardSwish":
        if build.opset >= 14 and build.dtype == np.float32:
            return build.add("HardSwish", name)
        return build.add("Mul", name, build.add("HardSigmoid", name, alpha=1 / 6, beta=0.5))
    return build.add(kind, name)


def _between(build: _Build, maps: _Maps, kind: str, *, fixed: bool) -> _Maps:
    """What exporters leave between layers."""
    build.recipe.append(kind)
    if kind == "pool" and maps.side >= 4:
        pooled = build.add("MaxPool", maps.name, kernel_shape=[2, 2], strides=[2, 2])
        return _Maps(pooled, maps.channels, maps.side // 2)
    if kind == "Cast":
        double = build.add("Cast", maps.name, to=TensorProto.DOUBLE)
        return _Maps(build.add("Cast", double, to=_TYPES[build.dtype]), maps.channels, maps.side)
    if kind == "reshape":
        first = 1 if fixed else -1
        rows = np.array([first, maps.channels, maps.side**2], np.int64)
        back = np.array([first, maps.channels, maps.side, maps.side], np.int64)
        flat = build.add("Reshape", maps.name, build.weight(rows, "shape"))
        there = build.add("Reshape", flat, build.weight(back, "shape"))
        return _Maps(there, maps.channels, maps.side)
    if kind in ("Identity", "Dropout"):
        return _Maps(build.add(kind, maps.name), maps.channels, maps.side)
    return maps


def _head(build: _Build, maps: _Maps, kind: str, *, fixed: bool) -> ValueInfoProto:
    """An output of one of many kinds."""
    if kind in ("argmax", "above") and build.dtype == np.float16:
        kind = "map"
    if (kind == "sequence" and build.opset < 11) or (
        kind == "boxes" and (build.opset < 11 or not fixed or build.dtype != np.float32)
    ):
        kind = "map"
    if kind == "above" and build.opset < 9:
        kind = "number"
    build.recipe.append(f"head={kind}")
    free = kind in ("boxes", "number")
    batch: Any = 1 if fixed and not free else None
    real = _TYPES[build.dtype]
    if kind == "map":
        kernel = build.weight(build.floats(2, maps.channels, 1, 1))
        name = build.add("Conv", maps.name, kernel)
        return helper.make_tensor_value_info(name, real, [batch, 2, None, None])
    pooled = build.add("GlobalAveragePool", maps.name)
    flat = build.add("Flatten", pooled)
    if kind == "embedding":
        return helper.make_tensor_value_info(flat, real, [batch, maps.channels])
    if kind == "number":
        # ReduceMax without axes is the same in every opset.
        name = build.add("ReduceMax", maps.name, keepdims=0)
        return helper.make_tensor_value_info(name, real, [])
    if kind == "boxes":
        return _boxes(build, maps)
    weight = build.weight(build.floats(maps.channels, 3, spread=1.0), "fc")
    bias = build.weight(build.floats(3), "fc")
    scores = build.add("Gemm", flat, weight, bias)
    if kind == "argmax":
        name = build.add("ArgMax", scores, axis=1, keepdims=0)
        return helper.make_tensor_value_info(name, TensorProto.INT64, [batch])
    if kind == "above":
        limit = build.weight(np.array(0.1, build.dtype), "limit")
        name = build.add("Greater", scores, limit)
        return helper.make_tensor_value_info(name, TensorProto.BOOL, [batch, 3])
    if kind == "sequence":
        name = build.add("SplitToSequence", scores, axis=1)
        each = helper.make_tensor_type_proto(real, None)
        return helper.make_value_info(name, helper.make_sequence_type_proto(each))
    return helper.make_tensor_value_info(scores, real, [batch, 3])


def _boxes(build: _Build, maps: _Maps) -> ValueInfoProto:
    """Non-maximum suppression in the graph: how many boxes are left depends on the image."""
    kernel = build.weight(build.floats(4, maps.channels, 1, 1))
    raw = build.add("Conv", maps.name, kernel)
    moved = build.add("Transpose", raw, perm=[0, 2, 3, 1])
    boxes = build.add("Reshape", moved, build.weight(np.array([1, -1, 4]), "shape"))
    total = build.add("ArgMax", boxes, axis=2, keepdims=0)
    scores = build.add("Cast", total, to=TensorProto.FLOAT)
    shaped = build.add("Reshape", scores, build.weight(np.array([1, 1, -1]), "shape"))
    most = build.weight(np.array([4], np.int64), "most")
    limits = [build.weight(np.array([x], np.float32), "limit") for x in (0.4, 0.1)]
    name = build.add("NonMaxSuppression", boxes, shaped, most, *limits)
    return helper.make_tensor_value_info(name, TensorProto.INT64, [None, 3])


def _named(build: _Build) -> list[NodeProto]:
    """The nodes, with names as they are, of other alphabets, or none for all or some."""
    how = build.one_of("own", "own", "empty", "some", "odd")
    build.recipe.append(f"names={how}")
    for position, node in enumerate(build.nodes):
        if how == "empty" or (how == "some" and position % 2):
            node.name = ""
        elif how == "odd":
            node.name = f"Schicht:{position}/größe,{position} 層"
    return build.nodes
