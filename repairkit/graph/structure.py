"""What the structure of a graph shows about a model that has not run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from repairkit.graph import protos

# How the output ends: probabilities, logarithms or raw scores


Ending = Literal["softmax", "sigmoid", "log-softmax", "linear"]

# These pass numbers on, in another shape or type.
_PASSING = frozenset(
    {
        "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "CastLike",
        "QuantizeLinear", "DequantizeLinear", "Dropout",
    }
)  # fmt: skip
# Their sums have no bounds, so they are no probabilities.
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
    """How an output is made, and the operator that shows it; None where the graph does not show it.

    Layers that only reshape, cast or quantise are skipped. So are sums and factors that are stored
    in the model, behind a dense or convolutional layer.
    """
    index = protos.GraphIndex(model)
    name, arithmetic = output, False
    for _ in range(len(index.nodes)):
        if name not in index.producers:
            return None
        node = index.nodes[index.producers[name]]
        if protos.subgraphs(node):
            return None
        kind = node.op_type
        if kind in _ENDINGS and not arithmetic:
            return _ENDINGS[kind], kind
        if kind == "Log" and not arithmetic:
            below = ending_of(model, node.input[0])
            return ("log-softmax", "Log of a Softmax") if below and below[0] == "softmax" else None
        if kind in _LINEAR:
            fused = protos.attribute(node, "activation")  # then it does not end in its sums
            return None if fused is not None and fused.s else ("linear", kind)
        transform = protos.attribute(node, "post_transform")
        if transform is not None and transform.s in _BY_TRANSFORM and not arithmetic:
            return _BY_TRANSFORM[transform.s], f"{kind} with {transform.s.decode()}"
        following = _before(node, index)
        if following is None:
            return None
        arithmetic = arithmetic or kind in _AFTER_LINEAR
        name = following
    return None


def _before(node: NodeProto, index: protos.GraphIndex) -> str | None:
    """The one tensor that a node passes on; None where it does more."""
    if node.op_type in _PASSING or node.op_type == "ZipMap":
        return str(node.input[0])
    if node.op_type not in _AFTER_LINEAR:
        return None
    changing = [name for name in node.input if name and name not in index.constant]
    return str(changing[0]) if len(changing) == 1 else None


# How much of the image one position of a tensor sees


_WINDOWS = {"Conv", "MaxPool", "AveragePool", "LpPool", "QLinearConv", "ConvInteger"}
_KERNEL_SLOT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
# These mix no positions, or move them by less than a reader would notice.
_POINTWISE = {
    "Abs", "Add", "BatchNormalization", "Cast", "Clip", "Concat", "DequantizeLinear", "Div",
    "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LRN",
    "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow", "QLinearAdd",
    "QuantizeLinear", "Relu", "Selu", "Sigmoid", "Slice", "Softplus", "Split", "Sqrt", "Sub",
    "Sum", "Tanh", "ThresholdedRelu", "Transpose", "Where",
}  # fmt: skip
Size = tuple[int, int]


def receptive_field(index: protos.GraphIndex, tensor: str, image: str) -> Size | None:
    """The height and width of the part of `image` that one position of `tensor` depends on.

    The greatest over all paths, by kernels, strides and dilations (Araujo, Norris & Sim 2019,
    "Computing receptive fields of convolutional neural networks"). None where a position sees the
    whole image, as behind a global pooling, or where an operator's reach is not known.
    """
    sizes: dict[str, Size] = {tensor: (1, 1)}
    for node in reversed(index.nodes):
        known = [sizes[name] for name in node.output if name in sizes]
        if not known:
            continue
        size = max(s[0] for s in known), max(s[1] for s in known)
        fed = [name for name in node.input if name in index.fed]
        if not fed:
            continue
        reached = _window_before(node, size, index)
        if reached is None:
            return None
        for name in fed:
            old = sizes.get(name, (1, 1))
            sizes[name] = max(old[0], reached[0]), max(old[1], reached[1])
    return sizes.get(image)


def _window_before(node: NodeProto, size: Size, index: protos.GraphIndex) -> Size | None:
    """The size on a node's input of a window of `size` on its output."""
    if node.op_type in _POINTWISE:
        return size
    if node.op_type not in _WINDOWS:
        return None
    kernel = _kernel(node, index)
    if len(kernel) != 2:
        return None
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    height, width = (
        (reach - 1) * stride + (length - 1) * dilation + 1
        for reach, stride, length, dilation in zip(size, strides, kernel, dilations, strict=True)
    )
    return height, width


def _kernel(node: NodeProto, index: protos.GraphIndex) -> list[int]:
    given = protos.ints_attribute(node, "kernel_shape")
    if given is not None:
        return given
    slot = _KERNEL_SLOT.get(node.op_type, 0)
    weight = index.initializers.get(node.input[slot]) if slot < len(node.input) else None
    return [] if weight is None else list(weight.dims)[2:]


def _pair(node: NodeProto, name: str) -> list[int]:
    given = protos.ints_attribute(node, name)
    return given if given is not None and len(given) == 2 else [1, 1]


# Where rounding that differs in the last bit becomes a step in the result


_STEPS = {"Ceil", "Floor", "QuantizeLinear", "Round", "Sign", "Trunc"}
_PREFIXES = ("Dynamic", "QGemm", "QLinear")
_WEIGHTED = {"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger"}
_SIZES = {"Shape", "Size"}
_EXACT = {TensorProto.FLOAT, TensorProto.DOUBLE}
_COARSE = {
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
}


@dataclass(frozen=True)
class Rounding:
    """The first node that rounds, in words, and whether the output itself has been rounded.

    `at_the_end`: it rounds behind the last layer with weights, so that the output shows little of
    the numbers that were rounded.
    """

    node: str
    at_the_end: bool


def find_rounding(index: protos.GraphIndex, outputs: tuple[str, ...]) -> Rounding | None:
    """Where numbers that lead to some tensors are rounded to steps; None where they never are."""
    needed = index.leading_to(outputs)
    half = {t.name for t in index.graph.initializer if t.data_type in _COARSE}
    half |= {
        value.name
        for value in (*index.graph.input, *index.graph.value_info)
        if value.type.tensor_type.elem_type in _COARSE
    }
    data, rounding = set(index.inputs), []
    for node in index.nodes:
        if node.op_type in _SIZES or not any(name in data for name in node.input):
            continue
        data.update(o for o in node.output if o)
        if any(o in needed for o in node.output) and _rounds(node, half):
            rounding.append(node)
    if not rounding:
        return None
    first = rounding[0]
    makes = {o for node in rounding for o in node.output if o}
    at_the_end = _met_before(index, outputs, makes, data)
    return Rounding(f"node {protos.node_name(first)!r} ({first.op_type})", at_the_end)


def _rounds(node: NodeProto, half: set[str]) -> bool:
    if node.op_type in _STEPS or node.op_type.startswith(_PREFIXES):
        return True
    if node.op_type == "Cast" and protos.int_attribute(node, "to", TensorProto.FLOAT) not in _EXACT:
        return True
    return any(name in half for name in (*node.input, *node.output))


def _met_before(
    index: protos.GraphIndex, outputs: tuple[str, ...], makes: set[str], data: set[str]
) -> bool:
    """Whether a rounded tensor lies between an output and the layers with weights before it."""
    waiting, seen = list(outputs), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in data:
            continue
        seen.add(name)
        if name in makes:
            return True
        if name in index.producers:
            node = index.nodes[index.producers[name]]
            if node.op_type not in _WEIGHTED:
                waiting.extend(node.input)
    return False


# How much memory one image takes


_SMALL = 1024  # numbers of the largest constant that is kept, since it may hold a shape
_WIDTH = 4  # bytes of a number; wider ones are rare


def bytes_of_largest_node(model: ModelProto, input_name: str, shape: Sequence[int]) -> int:
    """The memory for one image of the node that reads and writes most, in bytes.

    A run takes at least this for each of its images, which have this shape at this input. 0 where
    no shape is known. The model's weights are not read.
    """
    light = _without_weights(model, input_name, shape)
    try:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except Exception:  # noqa: BLE001 (it has error types of its own; then nothing is known)
        return 0
    stored = {tensor.name for tensor in model.graph.initializer}
    sizes = {
        value.name: _numbers(value)
        for value in (*graph.value_info, *graph.output, *graph.input)
        if value.name not in stored
    }
    each = [sum(sizes.get(name, 0) for name in {*node.input, *node.output}) for node in graph.node]
    return _WIDTH * max(each, default=0)


def _without_weights(model: ModelProto, input_name: str, shape: Sequence[int]) -> ModelProto:
    """The model for one image, with inputs in place of all but small constants."""
    graph = model.graph
    kept = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= _SMALL]
    small = {tensor.name for tensor in kept}
    stored = {tensor.name for tensor in graph.initializer}
    weights = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
        if tensor.name not in small
    ]
    fed = [v for v in graph.input if v.name not in stored]
    one = [1, *map(int, shape)]
    inputs = [
        helper.make_tensor_value_info(v.name, v.type.tensor_type.elem_type, one)
        if v.name == input_name
        else v
        for v in fed
    ]
    outputs = [helper.make_empty_tensor_value_info(o.name) for o in graph.output]
    light = helper.make_model(
        helper.make_graph(graph.node, "light", [*inputs, *weights], outputs, kept),
        opset_imports=model.opset_import,
    )
    light.ir_version = model.ir_version
    light.functions.extend(model.functions)
    return light


def _numbers(value: ValueInfoProto) -> int:
    """How many numbers a tensor of one image holds; open sizes count as 1."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return 0
    return math.prod(max(int(dim.dim_value), 1) for dim in kind.shape.dim)
