"""Find a Keras model's filters by watching one trace, hold them by taps, or freeze its weights.

A filter is read after the bias and before the activation, or after a `BatchNormalization` that is
its only reader there. A separable convolution has two stages of filters.

Freezing sets a filter's kernel to zero and puts its constant into the bias or, if a batch
normalisation is the only reader, into its beta. Kernel and gamma are then both zero and get no
gradient: further training can change only the constant.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import EllipsisType, ModuleType
from typing import TypeAlias, TypeVar

import numpy as np

from repairkit.core import errors, framework, suite
from repairkit_adapters.keras import keras_runtime
from repairkit_adapters.keras.keras_runtime import KerasLayer, KerasModel, Runtime, Tap, Tensor
from repairkit_adapters.way_back import FrozenChannel, channels_by_layer

Result = TypeVar("Result")  # of a traced function: a tensor, or several

_KINDS = (
    *("Conv1D", "Conv2D", "Conv3D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
)
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_PART_NAMES = {"depthwise": "depthwise", "output": "pointwise"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of filters of a Keras model.

    Attributes:
        layer: as repairkit knows it.
        convolution: the Keras layer.
        part: `output`, or `depthwise` within a separable convolution.
        norm: the batch normalisation, if it is the only reader.
        call: number of the call, from 0, of the normalisation or else of the convolution.
        n_calls: number of all calls of the convolution.
        channel_axis: of its output, 1 or -1.
    """

    layer: framework.Layer
    convolution: KerasLayer
    part: str
    norm: "KerasLayer | None"
    call: int
    n_calls: int
    channel_axis: int


def find_stages(
    runtime: Runtime, model: KerasModel, input_shape: tuple[int, ...]
) -> tuple[Stage, ...]:
    """The stages of a built model that lead to an output, in the order of computation."""
    keras, tf = runtime.keras, runtime.tensorflow
    kinds = tuple(getattr(keras.layers, kind) for kind in _KINDS)
    named = keras_runtime.named_layers(model)
    watch = _Watch(tf)
    with ExitStack() as stack:
        for _, layer in named:
            if isinstance(layer, kinds):
                parts = _parts(keras, layer)
                stack.enter_context(keras_runtime.tapped(runtime, layer, watch.taps(layer, parts)))
            elif isinstance(layer, keras.layers.BatchNormalization):
                stack.enter_context(keras_runtime.replaced(layer, call=watch.norm(layer)))

        stack.enter_context(keras_runtime.in_32_bits(named))

        def run(images: Tensor) -> list[Tensor]:
            outputs: list[Tensor] = keras.tree.flatten(model(images, training=False))
            watch.finish(outputs)
            return outputs

        tf.function(run).get_concrete_function(tf.TensorSpec((None, *input_shape), tf.float32))
    names = {id(layer): name for name, layer in reversed(named)}
    return tuple(watch.stages(names))


@contextmanager
def tapped_stage(runtime: Runtime, stage: Stage, tap: Tap) -> Iterator[None]:
    """Pass the output of a stage through a tap in the block, for one trace.

    The tap follows the normalisation of the stage, if there is one.
    """
    n_calls = 0

    def at_its_call(tensor: Tensor) -> Tensor:
        nonlocal n_calls
        n_calls += 1
        return tap(tensor) if n_calls == stage.call + 1 else tensor

    if stage.norm is None:
        with keras_runtime.tapped(runtime, stage.convolution, {stage.part: at_its_call}):
            yield
    else:
        inner = stage.norm.call
        with keras_runtime.replaced(stage.norm, call=lambda *a, **k: at_its_call(inner(*a, **k))):
            yield


@dataclass(frozen=True, kw_only=True)
class TappedModel:
    """A model whose functions are traced with taps on its stages.

    Attributes:
        runtime: Keras and TensorFlow.
        model: a `keras.Model`, which is not changed.
        stages: of the model.
        frozen: constants of channels that are frozen in every function, by layer.
    """

    runtime: Runtime
    model: KerasModel
    stages: Sequence[Stage]
    frozen: Mapping[str, Mapping[int, float]]

    def all_outputs(self, images: Tensor) -> list[Tensor]:
        return list(self.runtime.keras.tree.flatten(self.model(images, training=False)))

    def first_output(self, images: Tensor) -> Tensor:
        return self.all_outputs(images)[0]

    def stage_outputs(self, images: Tensor) -> list[Tensor]:
        """What every stage holds, in order; to be traced by `frozen_only`."""
        kept: dict[int, Tensor] = {}

        def tap_of(number: int) -> Tap:
            def tap(tensor: Tensor) -> Tensor:
                kept[number] = tensor
                return tensor

            return tap

        with ExitStack() as stack:
            for number, stage in enumerate(self.stages):
                stack.enter_context(tapped_stage(self.runtime, stage, tap_of(number)))
            self.all_outputs(images)
        return [kept[number] for number in range(len(self.stages))]

    def frozen_only(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, traced with the frozen channels at their constants."""
        return self._traced(function, [[] for _ in self.stages])

    def with_held_stage(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function with three more inputs: number of a stage, which channels are held, levels.

        Taps that freeze come first.
        """

        def run(*inputs: Tensor) -> Result:
            *given, chosen, held_channels, levels = inputs
            held = _held_taps(self.runtime, self.stages, chosen, held_channels, levels)
            return self._traced(function, [[tap] for tap in held])(*given)

        return run

    def _traced(
        self, function: Callable[..., Result], more_taps: Sequence[Sequence[Tap]]
    ) -> Callable[..., Result]:
        """The function, traced with taps on each stage, those that freeze first."""

        def run(*inputs: Tensor) -> Result:
            with ExitStack() as stack:
                named = keras_runtime.named_layers(self.model)
                stack.enter_context(keras_runtime.in_32_bits(named))
                for stage, more in zip(self.stages, more_taps, strict=True):
                    constants = self.frozen.get(stage.layer.name, {})
                    freezing = [_frozen_tap(self.runtime, stage, constants)] if constants else []
                    taps = [*freezing, *more]
                    if taps:
                        stack.enter_context(tapped_stage(self.runtime, stage, _in_turn(taps)))
                return function(*inputs)

        return run


def _in_turn(taps: Sequence[Tap]) -> Tap:
    """One tap that applies several in order."""

    def tap(tensor: Tensor) -> Tensor:
        for each in taps:
            tensor = each(tensor)
        return tensor

    return tap


def _held_taps(
    runtime: Runtime, stages: Sequence[Stage], chosen: Tensor, channels: Tensor, levels: Tensor
) -> list[Tap]:
    """Taps that hold channels of each image at levels, at a stage chosen at run time.

    Args:
        runtime: Keras and TensorFlow.
        stages: of the model.
        chosen: the number of a stage.
        channels: which of them are held at that stage, (n_images, n_channels).
        levels: of the channels, (n_images, n_channels).
    """
    tf = runtime.tensorflow

    def tap_at(number: int, axis: int) -> Tap:
        def tap(tensor: Tensor) -> Tensor:
            wide = [1] * len(tensor.shape)
            wide[0], wide[axis] = -1, int(tensor.shape[axis])

            def held() -> Tensor:
                level = tf.cast(tf.reshape(levels, wide), tensor.dtype)
                return tf.where(tf.reshape(channels, wide), level, tensor)

            return tf.cond(tf.equal(chosen, number), held, lambda: tensor)

        return tap

    return [tap_at(number, stage.channel_axis) for number, stage in enumerate(stages)]


def _frozen_tap(runtime: Runtime, stage: Stage, constants: Mapping[int, float]) -> Tap:
    """A tap that freezes channels of a stage at constants."""
    tf = runtime.tensorflow
    here = np.zeros(stage.layer.n_channels, bool)
    levels = np.zeros(stage.layer.n_channels, np.float32)
    for channel, constant in constants.items():
        here[channel], levels[channel] = True, constant

    def tap(tensor: Tensor) -> Tensor:
        shape = [1] * len(tensor.shape)
        shape[stage.channel_axis] = -1
        level = tf.constant(levels.reshape(shape), tensor.dtype)
        return tf.where(here.reshape(shape), level, tensor)

    return tap


def _parts(keras: ModuleType, layer: KerasLayer) -> tuple[str, ...]:
    two = tuple(getattr(keras.layers, kind) for kind in _SEPARABLE)
    plain = any(type(layer).call is kind.call for kind in two)
    return ("depthwise", "output") if plain else ("output",)


@dataclass(frozen=True)
class _Seen:
    """The output of a part of a layer during the trace."""

    layer: KerasLayer
    part: str
    tensor: Tensor


@dataclass(frozen=True)
class _Norm:
    """A call of a batch normalisation: its input, and the operations that it added."""

    layer: KerasLayer
    read: Tensor
    operations: frozenset[str]


class _Watch:
    """Records one trace."""

    def __init__(self, tf: ModuleType) -> None:
        self._tf = tf
        self._seen: list[_Seen] = []
        self._norms: list[_Norm] = []
        self._outputs: list[Tensor] = []
        self._needed: set[str] = set()

    def taps(self, layer: KerasLayer, parts: tuple[str, ...]) -> dict[str, Tap]:
        def tap_of(part: str) -> Tap:
            def tap(tensor: Tensor) -> Tensor:
                self._seen.append(_Seen(layer, part, tensor))
                return tensor

            return tap

        return {part: tap_of(part) for part in parts}

    def norm(self, layer: KerasLayer) -> Callable[..., Tensor]:
        inner = layer.call

        def call(inputs: Tensor, *args: object, **settings: object) -> Tensor:
            graph = self._tf.compat.v1.get_default_graph()
            before = len(graph.get_operations())
            outputs = inner(inputs, *args, **settings)
            made = frozenset(operation.name for operation in graph.get_operations()[before:])
            self._norms.append(_Norm(layer, inputs, made))
            return outputs

        return call

    def finish(self, outputs: list[Tensor]) -> None:
        """Note which tensors lead to an output."""
        self._outputs = outputs
        waiting = [output.op for output in outputs]
        while waiting:
            operation = waiting.pop()
            if operation.name not in self._needed:
                self._needed.add(operation.name)
                waiting += [tensor.op for tensor in operation.inputs]

    def stages(self, names: Mapping[int, str]) -> Iterator[Stage]:
        """The stages that lead to an output."""
        calls: Counter[tuple[int, str]] = Counter()
        totals = Counter((id(seen.layer), seen.part) for seen in self._seen)
        for seen in self._seen:
            key = (id(seen.layer), seen.part)
            call, calls[key] = calls[key], calls[key] + 1
            if seen.tensor.op.name not in self._needed:
                continue
            name = names[id(seen.layer)]
            if any((id(seen.layer), part) in totals for part in _PART_NAMES if part != seen.part):
                name = f"{name}/{_PART_NAMES[seen.part]}"
            axis = keras_runtime.channel_axis(seen.layer)
            norm = self._norm_behind(seen)
            yield Stage(
                layer=framework.Layer(
                    name if call == 0 else f"{name}#{call + 1}",
                    type(seen.layer).__name__,
                    int(seen.tensor.shape[axis]),
                ),
                convolution=seen.layer,
                part=seen.part,
                norm=None if norm is None else self._norms[norm].layer,
                call=call if norm is None else self._call_of(norm),
                n_calls=totals[key],
                channel_axis=axis,
            )

    def _norm_behind(self, seen: _Seen) -> int | None:
        """The position of the normalisation that is the only reader of a layer's output."""
        readers = [i for i, norm in enumerate(self._norms) if norm.read is seen.tensor]
        if len(readers) != 1 or any(o is seen.tensor for o in self._outputs):
            return None
        norm = self._norms[readers[0]]
        alone = all(operation.name in norm.operations for operation in seen.tensor.consumers())
        rank = len(norm.read.shape)
        fits = norm.layer.axis % rank == keras_runtime.channel_axis(seen.layer) % rank
        return readers[0] if alone and fits else None

    def _call_of(self, norm: int) -> int:
        return sum(other.layer is self._norms[norm].layer for other in self._norms[:norm])


Place: TypeAlias = int | tuple[EllipsisType | int | slice, ...]
"""An index of numpy arrays."""


def freeze_channels(
    runtime: Runtime,
    model: KerasModel,
    stages: Sequence[Stage],
    channels: Sequence[FrozenChannel],
) -> None:
    """Freeze channels in place.

    Raises:
        AdapterError: there is no such channel, or a layer with several calls would be frozen
            differently in them; nothing was changed.
    """
    channels_by_layer(channels, [stage.layer for stage in stages])
    known = {stage.layer.name: stage for stage in stages}
    for frozen in channels:
        _check_calls(frozen, known[frozen.layer], known, channels)
    # A frozen depthwise channel changes the pointwise bias, which may be frozen itself.
    for frozen in sorted(channels, key=lambda each: known[each.layer].part != "depthwise"):
        _freeze(known[frozen.layer], frozen)
    for layer in model._flatten_layers():
        if isinstance(layer, runtime.keras.Model):
            layer.predict_function = layer.train_function = layer.test_function = None


def _check_calls(
    frozen: FrozenChannel,
    stage: Stage,
    known: dict[str, Stage],
    channels: Sequence[FrozenChannel],
) -> None:
    alike = {
        other.layer
        for other in channels
        if (other.channel, other.constant) == (frozen.channel, frozen.constant)
        and known.get(other.layer) is not None
        and known[other.layer].convolution is stage.convolution
        and known[other.layer].part == stage.part
    }
    if len(alike) != stage.n_calls:
        raise errors.AdapterError(
            f"the layer of {frozen.layer!r} is called {stage.n_calls} times, and its channel "
            f"{frozen.channel} is to be frozen at {frozen.constant:g} in {len(alike)} of them; one "
            "layer cannot hold both; keep the repair in the ONNX file"
        )


def _freeze(stage: Stage, frozen: FrozenChannel) -> None:
    layer, channel = stage.convolution, frozen.channel
    kernel = _kernel(stage)
    _assign(kernel, _place(stage, kernel, channel), 0.0)
    if stage.part == "depthwise":
        pointwise = _numbers(layer.pointwise_kernel)
        shift = frozen.constant * pointwise[..., channel, :].reshape(-1)
        bias = _bias(layer, len(shift))
        bias.assign(_numbers(bias) + shift)
    elif stage.norm is None:
        _assign(_bias(layer, stage.layer.n_channels), channel, frozen.constant)
    else:
        if layer.use_bias:
            _assign(layer.bias, channel, 0.0)
        _freeze_norm(stage.norm, channel, frozen.constant)


def _freeze_norm(norm: KerasLayer, channel: int, constant: float) -> None:
    """Make a normalisation of zeros return a constant."""
    if norm.center:
        _assign(norm.moving_mean, channel, 0.0)
        _assign(norm.beta, channel, constant)
        if norm.scale:
            _assign(norm.gamma, channel, 0.0)
        return
    if norm.scale:
        _assign(norm.gamma, channel, 1.0)
    spread = float(np.sqrt(_numbers(norm.moving_variance)[channel] + norm.epsilon))
    _assign(norm.moving_mean, channel, -constant * spread)


def _kernel(stage: Stage) -> keras_runtime.Variable:
    layer = stage.convolution
    if hasattr(layer, "pointwise_kernel"):
        return layer.depthwise_kernel if stage.part == "depthwise" else layer.pointwise_kernel
    if getattr(layer, "lora_enabled", False):
        raise errors.AdapterError(
            f"layer {stage.layer.name!r} has LoRA weights beside its kernel; merge them first"
        )
    return layer._kernel if hasattr(layer, "_kernel") else layer.kernel


def _place(stage: Stage, kernel: keras_runtime.Variable, channel: int) -> Place:
    """The index of one channel in the kernel."""
    if stage.part == "depthwise" or "Depthwise" in _family(stage.convolution):
        return (..., *divmod(channel, int(kernel.shape[-1])))
    if "Transpose" in _family(stage.convolution):
        return (..., channel, slice(None))
    return (..., channel)


def _family(layer: KerasLayer) -> str:
    return " ".join(kind.__name__ for kind in type(layer).__mro__)


def _bias(layer: KerasLayer, size: int) -> keras_runtime.Variable:
    """A layer's bias; added as zeros if there is none."""
    if not layer.use_bias:
        layer._tracker.unlock()  # as Keras itself does to add weights to a built layer
        layer.bias = layer.add_weight(
            name="bias", shape=(size,), initializer="zeros", trainable=True, dtype=layer.dtype
        )
        layer._tracker.lock()
        layer.use_bias = True
    return layer.bias


def _assign(variable: keras_runtime.Variable, place: Place, value: float) -> None:
    numbers = _numbers(variable).copy()
    numbers[place] = value
    variable.assign(numbers)


def _numbers(variable: keras_runtime.Variable) -> suite.Array:
    numbers: suite.Array = variable.value.numpy()
    return numbers
