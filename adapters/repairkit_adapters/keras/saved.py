"""A SavedModel folder as a `FrameworkModel`: layers are found in its graph of operations.

A SavedModel has no Keras layers. Convolutions are found among its operations and named by the
scopes of their layers. To hold a filter at a constant, the graph is rewritten with a choice after
every convolution.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Images, Layer, LoadOptions
from repairkit.core.process.trust import refuse_untrusted
from repairkit_adapters.foreign_code import with_batch
from repairkit_adapters.keras import keras_runtime, network
from repairkit_adapters.keras.conversion import write_onnx
from repairkit_adapters.keras.keras_runtime import Graph, GraphFunction, Runtime, Tensor
from repairkit_adapters.keras.keras_sources import fits

# Operations that access files or code outside the graph when it runs.
_REACHING = {
    "CreateSummaryDbWriter",
    "CreateSummaryFileWriter",
    "EagerPyFunc",
    "LoadLibrary",
    "MatchingFiles",
    "PyFunc",
    "PyFuncStateless",
    "ReadFile",
    "TextLineDataset",
    "TextLineReaderV2",
    "TFRecordDataset",
    "TFRecordReaderV2",
    "WholeFileReaderV2",
    "WriteFile",
}


def load_saved_model(runtime: Runtime, folder: Path, options: LoadOptions) -> "SavedNetwork":
    """The `serving_default` signature of a SavedModel, or its only one.

    Raises:
        AdapterError: it cannot be read, takes several inputs, or reads and writes files without
            `trust`.
    """
    tf = runtime.tensorflow
    misfit = (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError)
    try:
        _refuse_reaching(folder, trust=options.trust)
        with keras_runtime.quiet():
            loaded = tf.saved_model.load(str(folder))
            signatures = dict(loaded.signatures)
    except misfit as error:
        raise AdapterError(
            f"{folder}: cannot be read as a SavedModel ({keras_runtime.short_message(error)})"
        ) from error
    signature = signatures.get("serving_default")
    if signature is None and len(signatures) == 1:
        signature = next(iter(signatures.values()))
    if signature is None:
        raise AdapterError(
            f"{folder}: has {len(signatures)} signatures and no serving_default; save the model "
            "again with model.export(FOLDER), or give its .keras file"
        )
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise AdapterError(f"{folder}: takes {len(inputs)} inputs; one, of images, was expected")
    shape = _image_shape(folder, next(iter(inputs.values())), options.input_shape)
    with keras_runtime.quiet():
        freeze = importlib.import_module("tensorflow.python.framework.convert_to_constants")
        frozen = freeze.convert_variables_to_constants_v2(signature)
    return SavedNetwork(
        runtime, frozen, input_name=next(iter(inputs)), input_shape=shape, opset=options.opset
    )


def _refuse_reaching(folder: Path, *, trust: bool) -> None:
    saved = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except Exception as error:
        raise AdapterError(
            f"{folder}: cannot be read as a SavedModel ({keras_runtime.short_message(error)})"
        ) from error
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        reaching = sorted({node.op for node in nodes} & _REACHING)
        code = [f"the operation {name}, which reaches outside the graph" for name in reaching]
        refuse_untrusted(AdapterError, folder, code, trust=trust)


def _image_shape(
    folder: Path, spec: keras_runtime.TensorSpec, asked: tuple[int, ...] | None
) -> tuple[int, ...]:
    batch, *stated = spec.shape.as_list()
    if batch is not None:
        raise AdapterError(
            f"{folder}: takes batches of just {batch} images; save it with a free batch size"
        )
    if asked is None:
        if None in stated:
            raise AdapterError(
                f"{folder}: does not say the size of its images {tuple(stated)}; add "
                "--input-shape, such as 224,224,3"
            )
        return tuple(stated)
    if not fits(asked, stated):
        if fits(asked[1:], stated):
            raise AdapterError(f"{folder}: {with_batch(asked)}")
        raise AdapterError(
            f"{folder}: takes images of shape {tuple(stated)}, not {asked}; leave --input-shape out"
        )
    return asked


class SavedNetwork:
    """A frozen graph with one image input, as a `FrameworkModel`."""

    framework = "keras"

    def __init__(
        self,
        runtime: Runtime,
        frozen: GraphFunction,
        *,
        input_name: str,
        input_shape: tuple[int, ...],
        opset: int | None,
    ) -> None:
        self._runtime = runtime
        self.input_shape = input_shape
        self._input_name, self._opset = input_name, opset
        self._graph = frozen.graph
        self._image = frozen.inputs[0].name
        self._output = frozen.outputs[0]
        self._outputs = [tensor.name for tensor in frozen.outputs]
        self._stages: tuple[GraphStage, ...] = find_graph_stages(frozen)
        layers = [stage.layer for stage in self._stages]
        self._holder = network.LayerHolder("the SavedModel", layers)
        self.layers, self.freezing = self._holder.layers, self._holder.freezing
        self.freezing_many = self._holder.freezing_many
        self._functions: dict[str, Callable[..., list[Tensor]]] = {}

    def outputs(self, images: Images) -> Images:
        """See `FrameworkModel.outputs`."""
        tf = self._runtime.tensorflow
        with keras_runtime.quiet():
            batch = tf.constant(images, tf.float32)
            if self._holder.held is None:
                return np.asarray(self._plain()(batch)[0], np.float32)
            number, held, levels = self._holder.held
            # The graph has one input for the channels of all stages.
            missing = ((0, 0), (0, self._widest - held.shape[1]))
            return np.asarray(
                self._choosing()(
                    batch,
                    tf.constant(number, tf.int32),
                    tf.constant(np.pad(held, missing), tf.bool),
                    tf.constant(np.pad(levels, missing), tf.float32),
                )[0],
                np.float32,
            )

    @property
    def _widest(self) -> int:
        return max(layer.n_channels for layer in self.layers)

    def channel_values(self, images: Images) -> dict[str, Images]:
        """See `Readable.channel_values`."""
        names = [stage.tensor.name for stage in self._stages]
        with keras_runtime.quiet():
            read = self._function("channels", self._graph.as_graph_def(), [], names)
            values = read(self._runtime.tensorflow.constant(images, np.float32))
        return {
            stage.layer.name: network.channels_second(tensor.numpy(), stage.channel_axis)
            for stage, tensor in zip(self._stages, values, strict=True)
            if len(tensor) == len(images)
        }

    def loss_gradients(
        self, images: Images, labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], Images]:
        """See `FrameworkModel.loss_gradients`.

        Raises:
            AdapterError: the model is not a classifier.
        """
        tf = self._runtime.tensorflow
        network.refuse_no_classifier(self._output.shape)
        kind, logits = network.logits_of(self._output)
        with keras_runtime.quiet():
            function = self._function("logits", self._graph.as_graph_def(), [], [logits.name])
            batch = tf.constant(images, tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(batch)
                losses = network.cross_entropy(
                    tf, kind, function(batch)[0], tf.constant(labels, tf.int32)
                )
            gradients = tape.gradient(losses, batch)
        return np.asarray(losses, np.float64), np.asarray(gradients, np.float32)

    def export(self, path: Path) -> None:
        """See `FrameworkModel.export`."""
        write_onnx(
            self._runtime,
            lambda images: self._plain()(images),
            path,
            input_name=self._input_name,
            input_shape=self.input_shape,
            opset=self._opset,
        )

    def _plain(self) -> Callable[..., list[Tensor]]:
        return self._function("plain", self._graph.as_graph_def(), [], self._outputs)

    def _choosing(self) -> Callable[..., list[Tensor]]:
        if "choosing" in self._functions:
            return self._functions["choosing"]
        definition, choices = with_choices(self._runtime, self._graph, self._stages)
        return self._function("choosing", definition, choices, self._outputs[:1])

    def _function(
        self, name: str, definition: keras_runtime.GraphDef, more: list[str], fetched: list[str]
    ) -> Callable[..., list[Tensor]]:
        """A graph as a function from images and more inputs to some of its tensors."""
        if name not in self._functions:
            tf = self._runtime.tensorflow
            whole = tf.compat.v1.wrap_function(
                lambda: tf.graph_util.import_graph_def(definition, name=""), []
            )
            tensor = whole.graph.get_tensor_by_name
            feeds = [tensor(one) for one in (self._image, *more)]
            pruned = whole.prune(feeds, [tensor(one) for one in fetched])
            self._functions[name] = pruned
        return self._functions[name]


_KINDS = {
    "Conv2D": "Conv2D",
    "Conv3D": "Conv3D",
    "Conv2DBackpropInput": "Conv2DTranspose",
    "Conv3DBackpropInputV2": "Conv3DTranspose",
    "DepthwiseConv2dNative": "DepthwiseConv2D",
}
_SUMS = ("BiasAdd", "Add", "AddV2")
_AGAIN = "_1"
_MORE_INPUTS = ("chosen", "held", "levels")


@dataclass(frozen=True)
class GraphStage:
    """A convolution of a graph, and the tensor of its filters."""

    layer: Layer
    tensor: Tensor
    channel_axis: int


def find_graph_stages(frozen: GraphFunction) -> tuple[GraphStage, ...]:
    """The convolutions with constant kernels of a frozen function, in graph order."""
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
    """The tensor after the bias and the normalisation, if these are the only readers."""
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


def _sole_reader(tensor: Tensor, outputs: set[str]) -> "keras_runtime.Operation | None":
    readers = tensor.consumers()
    return readers[0] if len(readers) == 1 and tensor.name not in outputs else None


def _is_per_channel(operation: keras_runtime.Operation, n_channels: int, fed: set[str]) -> bool:
    constants = [tensor for tensor in operation.inputs if tensor.op.name not in fed]
    return len(constants) == 1 and constants[0].shape.num_elements() == n_channels


def _layer_names(operations: Sequence[str]) -> list[str]:
    """`conv1` of `StatefulPartitionedCall/model_1/conv1_1/convolution`.

    Keras enters each scope a second time when it saves a model, which adds a number to the names.
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
) -> tuple[keras_runtime.GraphDef, list[str]]:
    """The graph with a choice after each stage, and the names of its three new inputs.

    The inputs are the number of the stage and, for each image, which channels are held there and at
    which levels: (n_images, n_channels of the widest stage).
    """
    tf = runtime.tensorflow
    choices = tf.Graph()
    with choices.as_default():
        kinds = ((tf.int32, ()), (tf.bool, (None, None)), (tf.float32, (None, None)))
        chosen, held, levels = (
            tf.compat.v1.placeholder(dtype, shape, f"repairkit/{name}")
            for name, (dtype, shape) in zip(_MORE_INPUTS, kinds, strict=True)
        )
        for number, stage in enumerate(stages):
            given = tf.compat.v1.placeholder(
                stage.tensor.dtype, stage.tensor.shape, f"repairkit/{number}/given"
            )
            n_channels = stage.layer.n_channels
            wide = [-1] + [1] * (len(given.shape) - 1)
            wide[stage.channel_axis] = n_channels
            here = tf.reshape(held[:, :n_channels], wide)
            here = tf.logical_and(here, tf.equal(chosen, number))
            level = tf.cast(tf.reshape(levels[:, :n_channels], wide), given.dtype)
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


def _nodes(graph: Graph, left_out: dict[str, str]) -> Iterator[keras_runtime.NodeDef]:
    return (node for node in graph.as_graph_def().node if node.name not in left_out)


def _rewire(node: keras_runtime.NodeDef, renamed: dict[str, str]) -> None:
    for slot, name in enumerate(node.input):
        node.input[slot] = renamed.get(name.removesuffix(":0"), name)
