"""Tidy an ONNX model that tf2onnx wrote: constants stored, normalisations folded, names in order.

TensorFlow computes a batch normalisation behind a convolution as a product and a sum per channel.
Folded, a filter's output is one tensor of the graph, as it is one channel of the Keras layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from repairkit.core.arrays import Array
from repairkit.graph.index import GraphIndex, int_attribute

_NUMBERED = re.compile(r"(?P<before>.*)__(?P<number>\d+)(?P<after>(:\d+)?(/kernel|/bias)?)")


@dataclass
class _Tail:
    """A product and a sum per channel, which alone read a convolution."""

    factor: Array
    shift: Array
    nodes: list[NodeProto]


def store_constants(model: ModelProto, constants: Mapping[str, Array]) -> None:
    """Turn inputs whose value is known into initializers."""
    graph = model.graph
    free = [value for value in graph.input if value.name not in constants]
    for value in graph.input:
        if value.name in constants:
            graph.initializer.append(numpy_helper.from_array(constants[value.name], value.name))
    del graph.input[:]
    graph.input.extend(free)


def fold_normalisations(model: ModelProto) -> None:
    """Fold, in place, every product and sum that alone follow a convolution into it."""
    index = GraphIndex(model)
    gone: list[NodeProto] = []
    for node in index.nodes:
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in index.initializers:
            continue
        if node.op_type == "ConvTranspose" and int_attribute(node, "group", 1) != 1:
            continue
        kernel = numpy_helper.to_array(index.initializers[node.input[1]])
        axis = 0 if node.op_type == "Conv" else 1
        tail = _tail(node, index, kernel.shape[axis], kernel.ndim)
        if tail is not None and _fold(node, index, kernel, axis, tail):
            gone += tail.nodes
    for node in gone:
        model.graph.node.remove(node)
    _drop_unused(model)


def _tail(node: NodeProto, index: GraphIndex, n_channels: int, rank: int) -> _Tail | None:
    """The product behind a convolution and the sum behind that, where each is alone."""
    steps: list[tuple[NodeProto, Array]] = []
    tensor = str(node.output[0])
    for kind in ("Mul", "Add"):
        reader = index.sole_reader(tensor)
        if reader is None or index.nodes[reader.node].op_type != kind:
            return None
        step = index.nodes[reader.node]
        constants = [name for name in step.input if name in index.initializers]
        if len(constants) != 1:
            return None
        numbers = numpy_helper.to_array(index.initializers[constants[0]])
        shape = (1,) * (rank - numbers.ndim) + numbers.shape
        if shape != (1, n_channels, *(1,) * (rank - 2)):
            return None
        steps.append((step, numbers.reshape(-1)))
        tensor = str(step.output[0])
    (product, factor), (addition, shift) = steps
    return _Tail(factor, shift, [product, addition])


def _fold(node: NodeProto, index: GraphIndex, kernel: Array, axis: int, tail: _Tail) -> bool:
    bias: Array = np.zeros_like(tail.shift)
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in index.initializers:
            return False
        bias = numpy_helper.to_array(index.initializers[node.input[2]])
    shape = [1] * kernel.ndim
    shape[axis] = -1
    name = node.name or node.output[0]
    # New names: another layer may share the original tensors.
    stored = {
        f"{name}/kernel": kernel * tail.factor.reshape(shape),
        f"{name}/bias": bias * tail.factor + tail.shift,
    }
    for tensor_name, numbers in stored.items():
        tensor = numpy_helper.from_array(numbers.astype(kernel.dtype), tensor_name)
        index.model.graph.initializer.append(tensor)
    inputs = [node.input[0], *stored]
    del node.input[:]
    node.input.extend(inputs)
    node.output[0] = tail.nodes[-1].output[0]
    return True


def _drop_unused(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    if len(kept) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def renumber(model: ModelProto) -> None:
    """Number what tf2onnx inserted from 1 on, in order, and sort constants by where they are read.

    tf2onnx goes on counting from one conversion to the next, and its constants are in any order.

    The graph's inputs and outputs keep their names. Loops and branches are left as they are.
    """
    graph = model.graph
    graph.doc_string = ""
    if any(
        attribute.type == AttributeProto.GRAPH
        for node in graph.node
        for attribute in node.attribute
    ):
        return
    kept = {one.name for one in (*graph.input, *graph.output)}
    stored = {tensor.name for tensor in graph.initializer}
    numbers: dict[str, int] = {}
    constants: dict[str, int] = {}

    def renamed(name: str) -> str:
        parts = _NUMBERED.fullmatch(name)
        if parts is None or name in kept:
            return name
        if name in stored:
            return f"inserted_constant__{constants.setdefault(name, len(constants) + 1)}"
        number = numbers.setdefault(parts["number"], len(numbers) + 1)
        return f"{parts['before']}__{number}{parts['after']}"

    order: dict[str, int] = {}
    for name in (name for node in graph.node for name in node.input):
        order.setdefault(name, len(order))
    ordered = sorted(graph.initializer, key=lambda tensor: order.get(tensor.name, len(order)))
    tensors = [TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    for node in graph.node:
        node.name = renamed(node.name)
        for names in (node.input, node.output):
            names[:] = [renamed(name) for name in names]
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for known in graph.value_info:
        known.name = renamed(known.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = renamed(size.dim_param)
