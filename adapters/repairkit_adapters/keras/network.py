"""A Keras model as repairkit sees it: outputs, filters held at constants, gradients, ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import AdapterError
from repairkit.core.framework import Images, Layer
from repairkit.core.layer_map import LayerMap
from repairkit_adapters.keras.conversion import write_onnx
from repairkit_adapters.keras.keras_runtime import (
    KerasModel,
    Runtime,
    Tensor,
    quiet,
    short_message,
)
from repairkit_adapters.keras.loss import cross_entropy, logits_of, refuse_no_classifier
from repairkit_adapters.keras.stages import find_stages, frozen_tap, held_taps, tapped_stage
from repairkit_adapters.keras.tracing import Tap, in_32_bits, named_layers, plain_convolutions
from repairkit_adapters.way_back import PatchSource, channels_by_layer, find_channels

Result = TypeVar("Result")  # of a traced function: a tensor, or several


class KerasNetwork:
    """A Keras model of one image input; keeps `FrameworkModel`.

    What is held at a constant is an input of one compiled function, so that trying every filter of
    a model compiles it once.
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
            opset: of the exported ONNX; the exporter's own choice if None.
            frozen: channels that are constant in all that is computed here, by layer, with their
                constants; the model itself stays as it is.

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
            raise AdapterError(
                f"the model cannot be run on images of shape {input_shape}: {short_message(error)}"
            ) from error
        self._numbers = {stage.layer.name: i for i, stage in enumerate(self.stages)}
        self._held: tuple[int, NDArray[np.intp], Images] | None = None
        self._frozen = dict(frozen or {})
        self._compiled: dict[tuple[str, bool], Callable[..., Tensor]] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._input_shape

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(stage.layer for stage in self.stages)

    def outputs(self, images: Images) -> Images:
        """See `FrameworkModel.outputs`."""
        return np.asarray(self._run("outputs", self._first, images), np.float32)

    @contextmanager
    def freezing(self, layer: str, channels: NDArray[np.intp], constants: Images) -> Iterator[None]:
        """See `FrameworkModel.freezing`.

        Raises:
            AdapterError: no such layer or channel.
        """
        number = self._numbers.get(layer)
        if number is None:
            raise AdapterError(
                f"the model has no layer {layer!r}; its layers are "
                f"{', '.join(list(self._numbers)[:6])}"
            )
        n_channels = self.stages[number].layer.n_channels
        if np.size(channels) and not 0 <= np.min(channels) <= np.max(channels) < n_channels:
            raise AdapterError(f"layer {layer!r} has {n_channels} channels, numbered from 0")
        before = self._held
        self._held = (number, channels, constants)
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
        if ("gradients", self._held is not None) not in self._compiled:
            refuse_no_classifier(self.outputs(images[:1]).shape)

        def losses_and_gradients(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                losses = cross_entropy(tf, *logits_of(self._first(x)), y)
            return losses, tape.gradient(losses, x)

        losses, gradients = self._run(
            "gradients", losses_and_gradients, images, np.asarray(labels, np.int32)
        )
        return np.asarray(losses, np.float64), np.asarray(gradients, np.float32)

    def patched(self, patch: PatchSource, layers: LayerMap) -> KerasNetwork:
        """The model with the filters of a patch frozen; it shares the weights, which stay.

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

        def run(images: Tensor) -> list[Tensor]:
            return self._flat(self.model(images, training=False))

        with plain_convolutions(self._runtime, self.model):
            write_onnx(
                self._runtime,
                self._tapping(run),
                path,
                input_name=input_name(self.model),
                input_shape=self._input_shape,
                opset=self._opset,
                layers=[name for name, _ in named_layers(self.model)],
            )

    def _flat(self, outputs: object) -> list[Tensor]:
        return list(self._runtime.keras.tree.flatten(outputs))

    def _first(self, images: Tensor) -> Tensor:
        return self._flat(self.model(images, training=False))[0]

    def _run(self, name: str, function: Callable[..., Result], *inputs: Array) -> Result:
        """Run a compiled function on images, as things are held now."""
        tf = self._runtime.tensorflow
        held = self._held
        key = (name, held is not None)
        more: list[Array] = []
        if held is not None:
            number, channels, constants = held
            more = [
                np.asarray(number, np.int32),
                np.asarray(channels, np.int32),
                np.asarray(constants, np.float32),
            ]
        with quiet():
            if key not in self._compiled:
                free = [tf.TensorSpec((None, *self._input_shape), tf.float32)]
                free += [tf.TensorSpec((None,), i.dtype) for i in inputs[1:]]
                free += [tf.TensorSpec((None,) * np.ndim(m), m.dtype) for m in more]
                whole = self._tapping(function) if held is None else self._holding(function)
                self._compiled[key] = tf.function(whole, input_signature=free)
            try:
                result: Result = self._compiled[key](*inputs, *more)
            except (TypeError, ValueError, tf.errors.OpError) as error:
                raise AdapterError(
                    f"the model cannot be run on images of shape {inputs[0].shape[1:]}: "
                    f"{short_message(error)}"
                ) from error
        return result

    def _holding(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function with three more inputs: which stage, and each image's channel and level."""

        def run(*inputs: Tensor) -> Result:
            *given, chosen, channels, levels = inputs
            taps = held_taps(self._runtime, self.stages, chosen, channels, levels)
            return self._tapping(function, taps)(*given)

        return run

    def _tapping(
        self, function: Callable[..., Result], held_taps: Sequence[Tap] = ()
    ) -> Callable[..., Result]:
        """The function, traced with taps on stages: first what is frozen, then what is held."""
        runtime, model, stages, frozen = self._runtime, self.model, self.stages, self._frozen

        def run(*inputs: Tensor) -> Result:
            with ExitStack() as stack:
                stack.enter_context(in_32_bits(named_layers(model)))
                for number, stage in enumerate(stages):
                    first = frozen_tap(runtime, stage, frozen.get(stage.layer.name, {}))
                    taps = [tap for tap in (first, *held_taps[number : number + 1]) if tap]
                    if taps:
                        stack.enter_context(tapped_stage(runtime, stage, _in_turn(taps)))
                return function(*inputs)

        return run


def _in_turn(taps: Sequence[Tap]) -> Tap:
    """One tap that does what several do, one behind the other."""

    def tap(tensor: Tensor) -> Tensor:
        for each in taps:
            tensor = each(tensor)
        return tensor

    return tap


def input_name(model: KerasModel) -> str:
    """What the model's input is called, as far as it has a name."""
    inputs = getattr(model, "inputs", None) or []
    return str(getattr(inputs[0], "name", "") or "images") if inputs else "images"
