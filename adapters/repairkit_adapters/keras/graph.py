"""Convolutions among the operations of a TensorFlow graph, and a choice behind each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repairkit.core.framework import Layer
from repairkit_adapters.keras.keras_runtime import (
    Graph,
    GraphFunction,
    Operation,
    Runtime,
    Tensor,
)

if TYPE_CHECKING:
    from tensorflow.compat.v1 import GraphDef, NodeDef

_KINDS = {
    "Conv2D": "Conv2D",
    "Conv3D": "Conv3D",
    "Conv2DBackpropInput": "Conv2DTranspose",
    "Conv3DBackpropInputV2": "Conv3DTranspose",
    "DepthwiseConv2dNative": "DepthwiseConv2D",
}
_SUMS = ("BiasAdd", "Add", "AddV2")
_AGAIN = "_1"
_MORE_INPUTS = ("chosen", "channels", "levels")


@dataclass(frozen=True)
class GraphStage:
    """A convolution of a graph, and the tensor where its filters are read."""

    layer: Layer
    tensor: Tensor
    channel_axis: int


def find_graph_stages(frozen: GraphFunction) -> tuple[GraphStage, ...]:
    """The convolutions of a frozen function whose kernels are constant, in graph order."""
    fed, outputs = _fed(frozen), {tensor.name for tensor in frozen.outputs}
    operations = [o for o in frozen.graph.get_operations() if o.type in _KINDS and o.name in fed]
    names = _layer_names([operation.name for operation in operations])
    counts: Counter[str] = Counter()
    stages = []
    for operation, name in zip(operations, names, strict=True):
        counts[name] += 1
        shown = name if counts[name] == 1 else f"{name}#{counts[name]}"
        channels_first = operation.get_attr("data_format").startswith(b"NC")
        axis = 1 if channels_first else -1
        n_channels = operation.outputs[0].shape[axis]
        if n_channels is None or operation.inputs[1].op.name in fed:
            continue
        tensor = _behind(operation.outputs[0], int(n_channels), fed, outputs)
        layer = Layer(shown, _KINDS[operation.type], int(n_channels))
        stages.append(GraphStage(layer, tensor, axis))
    return tuple(stages)


def _fed(frozen: GraphFunction) -> set[str]:
    """The operations that depend on the images."""
    fed: set[str] = set()
    waiting = [frozen.inputs[0].op]
    while waiting:
        operation = waiting.pop()
        if operation.name not in fed:
            fed.add(operation.name)
            waiting += [reader for tensor in operation.outputs for reader in tensor.consumers()]
    return fed


def _behind(tensor: Tensor, n_channels: int, fed: set[str], outputs: set[str]) -> Tensor:
    """The tensor behind the bias and the normalisation that alone follow."""
    reader = _sole_reader(tensor, outputs)
    if reader is not None and reader.type in _SUMS and _is_per_channel(reader, n_channels, fed):
        tensor = reader.outputs[0]
        reader = _sole_reader(tensor, outputs)
    if reader is None:
        return tensor
    if reader.type == "FusedBatchNormV3" and not reader.get_attr("is_training"):
        return reader.outputs[0]
    if reader.type == "Mul" and _is_per_channel(reader, n_channels, fed):
        last = _sole_reader(reader.outputs[0], outputs)
        if last is not None and last.type in _SUMS and _is_per_channel(last, n_channels, fed):
            return last.outputs[0]
    return tensor


def _sole_reader(tensor: Tensor, outputs: set[str]) -> Operation | None:
    readers = tensor.consumers()
    return readers[0] if len(readers) == 1 and tensor.name not in outputs else None


def _is_per_channel(operation: Operation, n_channels: int, fed: set[str]) -> bool:
    constants = [tensor for tensor in operation.inputs if tensor.op.name not in fed]
    return len(constants) == 1 and constants[0].shape.num_elements() == n_channels


def _layer_names(operations: Sequence[str]) -> list[str]:
    """`conv1` of `StatefulPartitionedCall/model_1/conv1_1/convolution`.

    Keras enters every scope again when it saves a model, which appends a number to all of them.
    """
    paths = []
    for operation in operations:
        scopes = [part for part in operation.split("/")[:-1] if "PartitionedCall" not in part]
        paths.append(scopes[1:] or scopes or [operation])
    if all(path[0].endswith(_AGAIN) for path in paths):
        paths = [[part.removesuffix(_AGAIN) for part in path] for path in paths]
    return ["/".join(path) for path in paths]


def with_choices(
    runtime: Runtime, graph: Graph, stages: Sequence[GraphStage]
) -> tuple[GraphDef, list[str]]:
    """The graph's definition with a choice behind each stage, and its three more inputs.

    The inputs say which stage is chosen and, for each image, its channel and level there.
    """
    tf = runtime.tensorflow
    choices = tf.Graph()
    with choices.as_default():
        chosen, channels, levels = (
            tf.compat.v1.placeholder(dtype, shape, f"repairkit/{name}")
            for name, dtype, shape in zip(
                _MORE_INPUTS, (tf.int32, tf.int32, tf.float32), ((), (None,), (None,)), strict=True
            )
        )
        for number, stage in enumerate(stages):
            given = tf.compat.v1.placeholder(
                stage.tensor.dtype, stage.tensor.shape, f"repairkit/{number}/given"
            )
            shape = [-1] + [1] * (len(given.shape) - 1)
            wide = list(shape)
            wide[stage.channel_axis] = stage.layer.n_channels
            hot = tf.one_hot(channels, stage.layer.n_channels, True, False, dtype=tf.bool)
            here = tf.logical_and(tf.reshape(hot, wide), tf.equal(chosen, number))
            level = tf.cast(tf.reshape(levels, shape), given.dtype)
            tf.identity(tf.where(here, level, given), name=f"repairkit/{number}/taken")
    definition = graph.as_graph_def()
    before = {stage.tensor.name.removesuffix(":0"): i for i, stage in enumerate(stages)}
    for node in definition.node:
        _rewire(node, {name: f"repairkit/{i}/taken" for name, i in before.items()})
    given_names = {f"repairkit/{i}/given": name for name, i in before.items()}
    for node in _nodes(choices, given_names):
        _rewire(node, given_names)
        definition.node.append(node)
    return definition, [f"repairkit/{name}:0" for name in _MORE_INPUTS]


def _nodes(graph: Graph, left_out: dict[str, str]) -> Iterator[NodeDef]:
    return (node for node in graph.as_graph_def().node if node.name not in left_out)


def _rewire(node: NodeDef, renamed: dict[str, str]) -> None:
    for slot, name in enumerate(node.input):
        node.input[slot] = renamed.get(name.removesuffix(":0"), name)
