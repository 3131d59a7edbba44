"""How much memory one image takes on its way through a model, without running it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import ModelProto, ValueInfoProto, helper

_SMALL = 1024  # numbers of a constant that may hold a shape, and is kept
_WIDTH = 4  # bytes of a number; others are rare and seldom wider


def bytes_of_largest_node(model: ModelProto, input_name: str, shape: Sequence[int]) -> int:
    """What the node with the most to read and write takes of one image, in bytes.

    It is what a run takes at the least for each of its images; 0 where no shape is known.

    Args:
        model: never modified; its weights are not looked at.
        input_name: the image input.
        shape: of an image.
    """
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
    inputs = [_of_one(v, shape) if v.name == input_name else v for v in fed]
    light = helper.make_model(
        helper.make_graph(graph.node, "light", [*inputs, *weights], graph.output, kept),
        opset_imports=model.opset_import,
    )
    light.ir_version = model.ir_version
    light.functions.extend(model.functions)
    del light.graph.output[:]
    light.graph.output.extend(helper.make_empty_tensor_value_info(o.name) for o in graph.output)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except Exception:  # noqa: BLE001 (of types of its own; then nothing is known)
        return 0
    sizes = {
        value.name: _numbers(value)
        for value in (*inferred.value_info, *inferred.output, *inputs)
        if value.name not in stored
    }
    each = [sum(sizes.get(name, 0) for name in {*node.input, *node.output}) for node in graph.node]
    return _WIDTH * max(each, default=0)


def _of_one(value: ValueInfoProto, shape: Sequence[int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(
        value.name, value.type.tensor_type.elem_type, [1, *map(int, shape)]
    )


def _numbers(value: ValueInfoProto) -> int:
    """How many numbers a tensor of one image holds; open sizes count as 1."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return 0
    return math.prod(max(int(dim.dim_value), 1) for dim in kind.shape.dim)
