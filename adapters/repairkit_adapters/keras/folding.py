"""Fold what is left of a batch normalisation behind a convolution into the convolution.

TensorFlow computes a normalisation as a product and a sum per channel. Folded, a filter's output is
one tensor of the graph, as it is one channel of the Keras layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from repairkit.core.arrays import Array
from repairkit.graph.index import GraphIndex, int_attribute


@dataclass
class _Tail:
    """What follows a convolution alone: a product and a sum per channel."""

    factor: Array
    shift: Array
    nodes: list[NodeProto]


def fold_normalisations(model: ModelProto) -> None:
    """Fold, in place, every product and sum that alone follow a convolution."""
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
    found: list[tuple[NodeProto, Array]] = []
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
        found.append((step, numbers.reshape(-1)))
        tensor = str(step.output[0])
    (product, factor), (addition, shift) = found
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
    for own, numbers in stored.items():
        tensor = numpy_helper.from_array(numbers.astype(kernel.dtype), own)
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
