"""A Keras model as a `FrameworkModel`; held layers and losses, which SavedModels share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.framework import Images, Layer, LayerMap
from repairkit_adapters.keras import filter_stages, keras_runtime
from repairkit_adapters.keras.conversion import write_onnx
from repairkit_adapters.keras.keras_runtime import KerasModel, Runtime, Tensor, quiet
from repairkit_adapters.way_back import PatchSource, channels_by_layer, find_channels

Held: TypeAlias = tuple[int, NDArray[np.bool_], Images]
"""The number of a layer, and which channels of each image are held there, at which levels.

Both have the shape (n_images, n_channels).
"""


class KerasNetwork:
    """A Keras model with one image input, as a `FrameworkModel`.

    The held channels are an input of one compiled function, so that trying all filters of a model
    compiles it only once.
    """

    framework = "keras"

    def __init__(
        self,
        runtime: Runtime,
        model: KerasModel,
        *,
        input_shape: tuple[int, ...],
        opset: int | None,
        frozen: Mapping[str, Mapping[int, float]] | None = None,
    ) -> None:
        """Watch one trace of the model.

        Args:
            runtime: Keras and TensorFlow.
            model: a `keras.Model`.
            input_shape: of one image.
            opset: of the exported ONNX; the exporter's default if None.
            frozen: constants of channels that are always frozen here, by layer; the model itself is
                not changed.

        Raises:
            AdapterError: the model does not take one image of that shape.
        """
        self.model = model
        self._runtime = runtime
        self.input_shape = input_shape
        self._opset = opset
        try:
            with quiet():
                self.stages = filter_stages.find_stages(runtime, model, input_shape)
        except (TypeError, ValueError, RuntimeError, runtime.tensorflow.errors.OpError) as error:
            raise keras_runtime.misfit(input_shape, error) from error
        self._holder = LayerHolder("the model", [s.layer for s in self.stages])
        self.layers, self.freezing = self._holder.layers, self._holder.freezing
        self.freezing_many = self._holder.freezing_many
        self._tapped = filter_stages.TappedModel(
            runtime=runtime, model=model, stages=self.stages, frozen=dict(frozen or {})
        )
        self._compiled = _Compiled(self._tapped, input_shape)

    def outputs(self, images: Images) -> Images:
        """See `FrameworkModel.outputs`."""
        return np.asarray(
            self._compiled.run("outputs", self._tapped.first_output, self._holder.held, images),
            np.float32,
        )

    def channel_values(self, images: Images) -> dict[str, Images]:
        """See `Readable.channel_values`."""
        function = self._tapped.stage_outputs
        values = self._compiled.run("channels", function, None, images)
        return {
            stage.layer.name: channels_second(tensor.numpy(), stage.channel_axis)
            for stage, tensor in zip(self.stages, values, strict=True)
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
        if ("gradients", self._holder.held is not None) not in self._compiled:
            refuse_no_classifier(self.outputs(images[:1]).shape)

        def losses_and_gradients(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                losses = cross_entropy(tf, *logits_of(self._tapped.first_output(x)), y)
            return losses, tape.gradient(losses, x)

        losses, gradients = self._compiled.run(
            "gradients",
            losses_and_gradients,
            self._holder.held,
            images,
            np.asarray(labels, np.int32),
        )
        return np.asarray(losses, np.float64), np.asarray(gradients, np.float32)

    def excitations(
        self, images: Images, layer: str, channels: NDArray[np.intp], *, at: str
    ) -> tuple[NDArray[np.float64], Images]:
        """See `Exciting`.

        Raises:
            AdapterError: there is no such layer, or the model cannot take the images.
        """
        tf, number = self._runtime.tensorflow, self._holder.number(layer)
        axis = self.stages[number].channel_axis

        def responses_and_gradients(x: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                maps = self._tapped.stage_outputs(x)[number]
                responses = response_of(tf, maps, axis, chosen, at=at)
            return responses, tape.gradient(responses, x)

        name, wanted = f"excite {at} {number}", np.asarray(channels, np.int32)
        responses, gradients = self._compiled.run(
            name, responses_and_gradients, None, images, wanted
        )
        return np.asarray(responses, np.float64), np.asarray(gradients, np.float32)

    def patched(self, patch: PatchSource, layers: LayerMap) -> "KerasNetwork":
        """The model with the filters of a patch frozen; it shares the unchanged weights.

        Args:
            patch: the patch.
            layers: which channel of which layer each filter is; unproven ones are frozen too, so
                compare outputs afterwards.

        Raises:
            AdapterError: the map does not know a filter, or the model does not fit it.
        """
        frozen = find_channels(patch, layers, framework=self.framework, unproven=True)
        return KerasNetwork(
            self._runtime,
            self.model,
            input_shape=self.input_shape,
            opset=self._opset,
            frozen=channels_by_layer(frozen.channels, self.layers),
        )

    def export(self, path: Path) -> None:
        """See `FrameworkModel.export`."""
        with keras_runtime.plain_convolutions(self._runtime, self.model):
            write_onnx(
                self._runtime,
                self._tapped.frozen_only(self._tapped.all_outputs),
                path,
                input_name=input_name(self.model),
                input_shape=self.input_shape,
                opset=self._opset,
                layers=[name for name, _ in keras_runtime.named_layers(self.model)],
            )


class _Compiled:
    """Functions of a tapped model, each compiled once with and once without a held stage."""

    def __init__(self, tapped: filter_stages.TappedModel, input_shape: tuple[int, ...]) -> None:
        self._tapped, self._input_shape = tapped, input_shape
        self._functions: dict[tuple[str, bool], Callable[..., Tensor]] = {}

    def __contains__(self, key: tuple[str, bool]) -> bool:
        return key in self._functions

    def run(
        self,
        name: str,
        function: Callable[..., filter_stages.Result],
        held: Held | None,
        *inputs: suite.Array,
    ) -> filter_stages.Result:
        """Run a function on images.

        Args:
            name: of the function, unique.
            function: takes images, and more inputs.
            held: the stage that is held, and each image's channel and level there.
            inputs: of the function.

        Raises:
            AdapterError: the model cannot take the images.
        """
        tf = self._tapped.runtime.tensorflow
        key = (name, held is not None)
        kinds = (np.int32, np.bool_, np.float32)  # of the stage, what is held, and the levels
        more: list[suite.Array] = (
            [np.asarray(n, k) for n, k in zip(held, kinds, strict=True)] if held else []
        )
        with quiet():
            if key not in self._functions:
                free = [tf.TensorSpec((None, *self._input_shape), tf.float32)]
                free += [tf.TensorSpec((None,) * i.ndim, i.dtype) for i in (*inputs[1:], *more)]
                traced = self._tapped.with_held_stage if held else self._tapped.frozen_only
                self._functions[key] = tf.function(traced(function), input_signature=free)
            try:
                result: filter_stages.Result = self._functions[key](*inputs, *more)
            except (TypeError, ValueError, tf.errors.OpError) as error:
                raise keras_runtime.misfit(inputs[0].shape[1:], error) from error
        return result


def input_name(model: KerasModel) -> str:
    """The name of the model's input, or `images`."""
    inputs = getattr(model, "inputs", None) or []
    return str(getattr(inputs[0], "name", "") or "images") if inputs else "images"


class LayerHolder:
    """The layers of a model, and the one that is held at constants, if any.

    Args:
        kind: what messages call the model.
        layers: in the order of computation.
    """

    def __init__(self, kind: str, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self.held: Held | None = None
        self._kind = kind
        self._numbers = {layer.name: number for number, layer in enumerate(self.layers)}

    def freezing(
        self, layer: str, channels: NDArray[np.intp], constants: Images
    ) -> AbstractContextManager[None]:
        """See `FrameworkModel.freezing`.

        Raises:
            AdapterError: no such layer or channel.
        """
        n_channels = self.layers[self.number(layer)].n_channels
        if np.size(channels) and not 0 <= np.min(channels) <= np.max(channels) < n_channels:
            raise errors.AdapterError(f"layer {layer!r} has {n_channels} channels, numbered from 0")
        frozen = np.asarray(channels)[:, None] == np.arange(n_channels)
        return self._holding(layer, frozen, np.asarray(constants, np.float32)[:, None])

    def freezing_many(
        self, layer: str, frozen: NDArray[np.bool_], constants: Images
    ) -> AbstractContextManager[None]:
        """See `Readable.freezing_many`; raises AdapterError where there is no such layer."""
        return self._holding(layer, frozen, np.asarray(constants, np.float32)[None])

    @contextmanager
    def _holding(self, layer: str, frozen: NDArray[np.bool_], constants: Images) -> Iterator[None]:
        before = self.held
        self.held = self.number(layer), frozen, np.broadcast_to(constants, frozen.shape)
        try:
            yield
        finally:
            self.held = before

    def number(self, layer: str) -> int:
        """The place of a layer; AdapterError where there is none of that name."""
        if layer not in self._numbers:
            raise errors.AdapterError(
                f"{self._kind} has no layer {layer!r}; its layers are "
                f"{', '.join(list(self._numbers)[:6])}"
            )
        return self._numbers[layer]


def response_of(tf: ModuleType, maps: Tensor, axis: int, chosen: Tensor, *, at: str) -> Tensor:
    """The response of one channel of each image, (n_images,).

    Args:
        tf: TensorFlow.
        maps: of all channels, an image per row.
        axis: of the channels.
        chosen: a channel for each image.
        at: `centre` or `channel`; see `Exciting`.
    """
    if axis == 1:
        maps = tf.experimental.numpy.moveaxis(maps, 1, -1)
    mask = tf.one_hot(chosen, maps.shape[-1], dtype=maps.dtype)
    own = tf.einsum("n...c,nc->n...", maps, mask)
    for _ in range(own.shape.rank - 1):
        own = own[:, tf.shape(own)[1] // 2] if at == "centre" else tf.reduce_mean(own, axis=1)
    return own


def channels_second(values: Images, channel_axis: int) -> Images:
    """An array with its channels along the second axis, as 32-bit floats."""
    return np.moveaxis(np.asarray(values, np.float32), channel_axis, 1)


# Operators between an activation and the output that keep the numbers.
_PASSING = ("Identity", "Reshape", "Squeeze", "Cast")
_ACTIVATIONS = ("Softmax", "Sigmoid")
_ROUNDING = 1e-3
_TINY = 1e-37


def refuse_no_classifier(shape: Sequence[int | None]) -> None:
    """Check the shape of a model's output.

    Raises:
        AdapterError: it is not one row of scores per image.
    """
    if len(shape) != 2:
        raise errors.AdapterError(
            "gradients need a classifier with one row of scores per image; the model's output has "
            f"the shape {tuple(shape)}; give a classifier"
        )


def logits_of(outputs: Tensor) -> tuple[str, Tensor]:
    """The last operation of a traced output, and its argument.

    Returns:
        `Softmax` or `Sigmoid` and its argument, if that is the operation; else an empty name and
        the output itself, which counts as logits unless its rows look like probabilities.
    """
    tensor = outputs
    while tensor.op.type in _PASSING:
        tensor = tensor.op.inputs[0]
    if tensor.op.type in _ACTIVATIONS and tensor.shape.rank == 2:
        return str(tensor.op.type), tensor.op.inputs[0]
    return "", outputs


def cross_entropy(tf: ModuleType, kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Each image's cross-entropy for its label, shape (n_images,).

    It is computed from logits, which stay exact where probabilities round to 0 or 1. A single
    column belongs to class 1; after a sigmoid, each column is a separate class.
    """
    if logits.shape[1] == 1:
        wanted = tf.cast(labels, logits.dtype)[:, None]
        return tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits)[:, 0]
    if kind == "Sigmoid":
        return tf.nn.softplus(-tf.gather(logits, labels, axis=1, batch_dims=1))
    if not kind:
        logits = _as_logits(tf, logits)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _as_logits(tf: ModuleType, scores: Tensor) -> Tensor:
    """The logarithms of rows that are at least 0 and add up to 1; other rows unchanged."""
    sums = tf.reduce_sum(scores, axis=1, keepdims=True)
    shares = tf.reduce_all(scores >= 0, axis=1, keepdims=True) & (tf.abs(sums - 1) < _ROUNDING)
    logarithms = tf.math.log(tf.maximum(scores, scores.dtype.as_numpy_dtype(_TINY)))
    return tf.where(shares, logarithms, scores)
