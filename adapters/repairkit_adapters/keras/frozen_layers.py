"""Freeze channels inside a Keras model's own weights.

A frozen filter's kernel is zero and its constant stands in the bias or, where a batch
normalisation follows alone, in its beta. Kernel and gamma are both zero then, so that no
gradient reaches either: further training moves at most the constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import TypeAlias

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.errors import AdapterError
from repairkit_adapters.keras.filter_stages import Stage
from repairkit_adapters.keras.keras_runtime import KerasLayer, KerasModel, Runtime, Variable
from repairkit_adapters.way_back import FrozenChannel, channels_by_layer

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
        AdapterError: there is no such channel, or a layer that is called several times is not to
            be frozen alike in all its calls; nothing was changed.
    """
    channels_by_layer(channels, [stage.layer for stage in stages])
    known = {stage.layer.name: stage for stage in stages}
    for frozen in channels:
        _check_calls(frozen, known[frozen.layer], known, channels)
    # What a depthwise channel yields goes into the pointwise bias, which may be frozen itself.
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
        raise AdapterError(
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
    """Let a normalisation that reads zeros yield a constant."""
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


def _kernel(stage: Stage) -> Variable:
    layer = stage.convolution
    if hasattr(layer, "pointwise_kernel"):
        return layer.depthwise_kernel if stage.part == "depthwise" else layer.pointwise_kernel
    if getattr(layer, "lora_enabled", False):
        raise AdapterError(
            f"layer {stage.layer.name!r} has LoRA weights beside its kernel; merge them first"
        )
    return layer._kernel if hasattr(layer, "_kernel") else layer.kernel


def _place(stage: Stage, kernel: Variable, channel: int) -> Place:
    """Where the kernel of one channel is."""
    if stage.part == "depthwise" or "Depthwise" in _family(stage.convolution):
        return (..., *divmod(channel, int(kernel.shape[-1])))
    if "Transpose" in _family(stage.convolution):
        return (..., channel, slice(None))
    return (..., channel)


def _family(layer: KerasLayer) -> str:
    return " ".join(kind.__name__ for kind in type(layer).__mro__)


def _bias(layer: KerasLayer, size: int) -> Variable:
    """A layer's bias; one without gets one of zeros."""
    if not layer.use_bias:
        layer._tracker.unlock()  # as Keras itself does where a built layer gets weights
        layer.bias = layer.add_weight(
            name="bias", shape=(size,), initializer="zeros", trainable=True, dtype=layer.dtype
        )
        layer._tracker.lock()
        layer.use_bias = True
    return layer.bias


def _assign(variable: Variable, place: Place, value: float) -> None:
    numbers = _numbers(variable).copy()
    numbers[place] = value
    variable.assign(numbers)


def _numbers(variable: Variable) -> Array:
    numbers: Array = variable.value.numpy()
    return numbers
