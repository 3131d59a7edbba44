"""A SavedModel folder as repairkit sees it: a graph of operations, in which layers are found.

There are no Keras layers in a SavedModel. Convolutions are found among its operations, and named by
the scopes that their layers left there. To hold a filter at a constant, the graph is written again
with a choice behind every convolution.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Images, Layer, LoadOptions
from repairkit.core.process.trust import refuse_untrusted
from repairkit_adapters.keras.conversion import write_onnx
from repairkit_adapters.keras.graph import GraphStage, find_graph_stages, with_choices
from repairkit_adapters.keras.keras_runtime import (
    GraphFunction,
    Runtime,
    Tensor,
    quiet,
    short_message,
)
from repairkit_adapters.keras.keras_sources import fits
from repairkit_adapters.keras.loss import cross_entropy, logits_of, refuse_no_classifier

if TYPE_CHECKING:
    from tensorflow import TensorSpec
    from tensorflow.compat.v1 import GraphDef

# Operations that reach outside the graph when it runs; saving and restoring have their own.
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


def load_saved_model(runtime: Runtime, folder: Path, options: LoadOptions) -> SavedNetwork:
    """The `serving_default` signature of a SavedModel, or its only one.

    Raises:
        AdapterError: it cannot be read, takes several inputs, or reads and writes files without
            `trust`.
    """
    tf = runtime.tensorflow
    misfit = (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError)
    try:
        _refuse_reaching(folder, trust=options.trust)
        with quiet():
            loaded = tf.saved_model.load(str(folder))
            signatures = dict(loaded.signatures)
    except misfit as error:
        raise AdapterError(
            f"{folder}: cannot be read as a SavedModel ({short_message(error)})"
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
    shape = _image_shape(folder, next(iter(inputs.values())), options)
    with quiet():
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
            f"{folder}: cannot be read as a SavedModel ({short_message(error)})"
        ) from error
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        reaching = sorted({node.op for node in nodes} & _REACHING)
        code = [f"the operation {name}, which reaches outside the graph" for name in reaching]
        refuse_untrusted(AdapterError, folder, code, trust=trust)


def _image_shape(folder: Path, spec: TensorSpec, options: LoadOptions) -> tuple[int, ...]:
    batch, *stated = spec.shape.as_list()
    asked = options.input_shape
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
        raise AdapterError(
            f"{folder}: takes images of shape {tuple(stated)}, not {asked}; leave --input-shape out"
        )
    return asked


class SavedNetwork:
    """A frozen graph with one image input; keeps `FrameworkModel`."""

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
        self._input_name, self._input_shape, self._opset = input_name, input_shape, opset
        self._graph = frozen.graph
        self._image = frozen.inputs[0].name
        self._output = frozen.outputs[0]
        self._outputs = [tensor.name for tensor in frozen.outputs]
        self._stages: tuple[GraphStage, ...] = find_graph_stages(frozen)
        self._numbers = {stage.layer.name: i for i, stage in enumerate(self._stages)}
        self._held: tuple[int, NDArray[np.intp], Images] | None = None
        self._functions: dict[str, Callable[..., list[Tensor]]] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._input_shape

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(stage.layer for stage in self._stages)

    def outputs(self, images: Images) -> Images:
        """See `FrameworkModel.outputs`."""
        tf = self._runtime.tensorflow
        with quiet():
            batch = tf.constant(images, tf.float32)
            if self._held is None:
                return np.asarray(self._plain()(batch)[0], np.float32)
            number, channels, constants = self._held
            return np.asarray(
                self._choosing()(
                    batch,
                    tf.constant(number, tf.int32),
                    tf.constant(channels, tf.int32),
                    tf.constant(constants, tf.float32),
                )[0],
                np.float32,
            )

    @contextmanager
    def freezing(self, layer: str, channels: NDArray[np.intp], constants: Images) -> Iterator[None]:
        """See `FrameworkModel.freezing`.

        Raises:
            AdapterError: no such layer.
        """
        if layer not in self._numbers:
            raise AdapterError(f"the SavedModel has no layer {layer!r}")
        before = self._held
        self._held = (self._numbers[layer], channels, constants)
        try:
            yield
        finally:
            self._held = before

    def loss_gradients(
        self, images: Images, labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], Images]:
        """See `FrameworkModel.loss_gradients`.

        Raises:
            AdapterError: the model is no classifier.
        """
        tf = self._runtime.tensorflow
        refuse_no_classifier(self._output.shape)
        kind, logits = logits_of(self._output)
        with quiet():
            function = self._function("logits", self._graph.as_graph_def(), [], [logits.name])
            batch = tf.constant(images, tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(batch)
                losses = cross_entropy(tf, kind, function(batch)[0], tf.constant(labels, tf.int32))
            gradients = tape.gradient(losses, batch)
        return np.asarray(losses, np.float64), np.asarray(gradients, np.float32)

    def export(self, path: Path) -> None:
        """See `FrameworkModel.export`."""
        write_onnx(
            self._runtime,
            lambda images: self._plain()(images),
            path,
            input_name=self._input_name,
            input_shape=self._input_shape,
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
        self, name: str, definition: GraphDef, more: list[str], fetched: list[str]
    ) -> Callable[..., list[Tensor]]:
        """A graph as a function of images, and more inputs, to some of its tensors."""
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
