"""How much of the image one position of a tensor can see."""

from __future__ import annotations

from onnx import NodeProto

from repairkit.graph.index import GraphIndex, attribute

_WINDOWS = {"Conv", "MaxPool", "AveragePool", "LpPool", "QLinearConv", "ConvInteger"}
_KERNEL_SLOT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
# What mixes no positions, or moves them by less than a reader would notice.
_POINTWISE = {
    "Abs", "Add", "BatchNormalization", "Cast", "Clip", "Concat", "DequantizeLinear", "Div",
    "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LRN",
    "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow", "QLinearAdd",
    "QuantizeLinear", "Relu", "Selu", "Sigmoid", "Slice", "Softplus", "Split", "Sqrt", "Sub",
    "Sum", "Tanh", "ThresholdedRelu", "Transpose", "Where",
}  # fmt: skip
Size = tuple[int, int]


def receptive_field(index: GraphIndex, tensor: str, image: str) -> Size | None:
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
        reached = _before(node, size, index)
        if reached is None:
            return None
        for name in fed:
            old = sizes.get(name, (1, 1))
            sizes[name] = max(old[0], reached[0]), max(old[1], reached[1])
    return sizes.get(image)


def _before(node: NodeProto, size: Size, index: GraphIndex) -> Size | None:
    """What a window of `size` on a node's output spans on its input."""
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


def _kernel(node: NodeProto, index: GraphIndex) -> list[int]:
    found = attribute(node, "kernel_shape")
    if found is not None:
        return list(found.ints)
    slot = _KERNEL_SLOT.get(node.op_type, 0)
    weight = index.initializers.get(node.input[slot]) if slot < len(node.input) else None
    return [] if weight is None else list(weight.dims)[2:]


def _pair(node: NodeProto, name: str) -> list[int]:
    found = attribute(node, name)
    return list(found.ints) if found is not None and len(found.ints) == 2 else [1, 1]
