"""A Keras model as a `FrameworkModel`: outputs, filters held at constants, gradients, ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.framework import Images, Layer, LayerMap
from repairkit_adapters.keras import keras_runtime, network_parts
from repairkit_adapters.keras.conversion import write_onnx
from repairkit_adapters.keras.filter_stages import Result, TappedModel, find_stages
from repairkit_adapters.keras.keras_runtime import KerasModel, Runtime, Tensor, quiet, short_message
from repairkit_adapters.way_back import PatchSource, channels_by_layer, find_channels


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
        self._input_shape = input_shape
        self._opset = opset
        try:
            with quiet():
                self.stages = find_stages(runtime, model, input_shape)
        except (TypeError, ValueError, RuntimeError, runtime.tensorflow.errors.OpError) as error:
            raise errors.AdapterError(
                f"the model cannot be run on images of shape {input_shape}: {short_message(error)}"
            ) from error
        self._holder = network_parts.LayerHolder("the model", [s.layer for s in self.stages])
        self._tapped = TappedModel(
            runtime=runtime, model=model, stages=self.stages, frozen=dict(frozen or {})
        )
        self._compiled = _Compiled(self._tapped, input_shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._input_shape

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._holder.layers

    def outputs(self, images: Images) -> Images:
        """See `FrameworkModel.outputs`."""
        return np.asarray(
            self._compiled.run("outputs", self._tapped.first_output, self._holder.held, images),
            np.float32,
        )

    def freezing(
        self, layer: str, channels: NDArray[np.intp], constants: Images
    ) -> AbstractContextManager[None]:
        """See `FrameworkModel.freezing`.

        Raises:
            AdapterError: no such layer or channel.
        """
        return self._holder.freezing(layer, channels, constants)

    def loss_gradients(
        self, images: Images, labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], Images]:
        """See `FrameworkModel.loss_gradients`.

        Raises:
            AdapterError: the model is not a classifier.
        """
        tf = self._runtime.tensorflow
        if ("gradients", self._holder.held is not None) not in self._compiled:
            network_parts.refuse_no_classifier(self.outputs(images[:1]).shape)

        def losses_and_gradients(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                losses = network_parts.cross_entropy(
                    tf, *network_parts.logits_of(self._tapped.first_output(x)), y
                )
            return losses, tape.gradient(losses, x)

        losses, gradients = self._compiled.run(
            "gradients",
            losses_and_gradients,
            self._holder.held,
            images,
            np.asarray(labels, np.int32),
        )
        return np.asarray(losses, np.float64), np.asarray(gradients, np.float32)

    def patched(self, patch: PatchSource, layers: LayerMap) -> KerasNetwork:
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
            input_shape=self._input_shape,
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
                input_shape=self._input_shape,
                opset=self._opset,
                layers=[name for name, _ in keras_runtime.named_layers(self.model)],
            )


class _Compiled:
    """Functions of a tapped model, each compiled once with and once without a held stage."""

    def __init__(self, tapped: TappedModel, input_shape: tuple[int, ...]) -> None:
        self._tapped, self._input_shape = tapped, input_shape
        self._functions: dict[tuple[str, bool], Callable[..., Tensor]] = {}

    def __contains__(self, key: tuple[str, bool]) -> bool:
        return key in self._functions

    def run(
        self,
        name: str,
        function: Callable[..., Result],
        held: network_parts.Held | None,
        *inputs: suite.Array,
    ) -> Result:
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
        more: list[suite.Array] = []
        if held is not None:
            number, channels, constants = held
            more = [
                np.asarray(number, np.int32),
                np.asarray(channels, np.int32),
                np.asarray(constants, np.float32),
            ]
        with quiet():
            if key not in self._functions:
                free = [tf.TensorSpec((None, *self._input_shape), tf.float32)]
                free += [tf.TensorSpec((None,), i.dtype) for i in inputs[1:]]
                free += [tf.TensorSpec((None,) * np.ndim(m), m.dtype) for m in more]
                whole = (
                    self._tapped.frozen_only(function)
                    if held is None
                    else self._tapped.with_held_stage(function)
                )
                self._functions[key] = tf.function(whole, input_signature=free)
            try:
                result: Result = self._functions[key](*inputs, *more)
            except (TypeError, ValueError, tf.errors.OpError) as error:
                raise errors.AdapterError(
                    f"the model cannot be run on images of shape {inputs[0].shape[1:]}: "
                    f"{short_message(error)}"
                ) from error
        return result


def input_name(model: KerasModel) -> str:
    """The name of the model's input, or `images`."""
    inputs = getattr(model, "inputs", None) or []
    return str(getattr(inputs[0], "name", "") or "images") if inputs else "images"
