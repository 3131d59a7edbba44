"""Where a Keras model's filters are, found by watching one trace of it.

Layers are watched and changed by standing in for their `call` or `activation` while a function is
traced, so that functional, sequential and subclassed models, and models inside models, are alike.
A filter is read after the bias and before the activation, or after a `BatchNormalization` that
alone reads it there. A separable convolution has two stages of filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from repairkit.core.framework import Layer
from repairkit_adapters.keras.runtime import Runtime

_KINDS = (
    *("Conv1D", "Conv2D", "Conv3D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
)
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_PART_NAMES = {"depthwise": "depthwise", "output": "pointwise"}

Tap = Callable[[Any], Any]


@dataclass(frozen=True)
class Stage:
    """One stage of filters of a Keras model.

    Attributes:
        layer: as repairkit knows it.
        convolution: the Keras layer.
        part: `output`, or `depthwise` within a separable convolution.
        norm: the batch normalisation that follows it alone.
        call: which call it is, from 0, of the normalisation or else of the convolution.
        n_calls: of the convolution in all.
        channel_axis: of its output, 1 or -1.
    """

    layer: Layer
    convolution: Any
    part: str
    norm: Any | None
    call: int
    n_calls: int
    channel_axis: int


def find_stages(runtime: Runtime, model: Any, input_shape: tuple[int, ...]) -> tuple[Stage, ...]:
    """The stages of a built model that lead to an output, in the order of computation."""
    keras, tf = runtime.keras, runtime.tensorflow
    kinds = tuple(getattr(keras.layers, kind) for kind in _KINDS)
    named = named_layers(model)
    watch = _Watch(tf)
    with ExitStack() as stack:
        for _, layer in named:
            if isinstance(layer, kinds):
                parts = _parts(keras, layer)
                stack.enter_context(tapped(runtime, layer, watch.taps(layer, parts)))
            elif isinstance(layer, keras.layers.BatchNormalization):
                stack.enter_context(replaced(layer, call=watch.norm(layer)))

        stack.enter_context(in_32_bits(named))

        def run(images: Any) -> Any:
            outputs = keras.tree.flatten(model(images, training=False))
            watch.finish(outputs)
            return outputs

        tf.function(run).get_concrete_function(tf.TensorSpec((None, *input_shape), tf.float32))
    names = {id(layer): name for name, layer in reversed(named)}
    return tuple(watch.stages(names))


def named_layers(model: Any) -> list[tuple[str, Any]]:
    """Every layer inside a model with its name, that of one in another model after a slash."""
    found: list[tuple[str, Any]] = []
    met: set[int] = set()

    def walk(parent: Any, prefix: str) -> None:
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in met:
                continue
            met.add(id(layer))
            found.append((prefix + layer.name, layer))
            walk(layer, f"{prefix}{layer.name}/")

    walk(model, "")
    counts = Counter(name for name, _ in found)
    numbers: Counter[str] = Counter()
    for position, (name, layer) in enumerate(found):
        if counts[name] > 1:
            numbers[name] += 1
            found[position] = (f"{name}#{numbers[name]}", layer)
    return found


@contextmanager
def tapped(runtime: Runtime, convolution: Any, taps: Mapping[str, Tap]) -> Iterator[None]:
    """While open, what a convolution yields goes through taps, by part."""
    with ExitStack() as stack:
        if "depthwise" in taps:
            call = _in_two_stages(runtime.keras.ops, convolution, taps["depthwise"])
            stack.enter_context(replaced(convolution, call=call))
        if "output" in taps:
            tap, activation = taps["output"], convolution.activation
            if activation is None:
                inner = convolution.call
                stack.enter_context(replaced(convolution, call=lambda *a, **k: tap(inner(*a, **k))))
            else:
                stack.enter_context(replaced(convolution, activation=lambda x: activation(tap(x))))
        yield


@contextmanager
def tapped_stage(runtime: Runtime, stage: Stage, tap: Tap) -> Iterator[None]:
    """While open, for one trace, what a stage yields, normalised if it is, goes through a tap."""
    n_calls = 0

    def at_its_call(tensor: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        return tap(tensor) if n_calls == stage.call + 1 else tensor

    if stage.norm is None:
        with tapped(runtime, stage.convolution, {stage.part: at_its_call}):
            yield
    else:
        inner = stage.norm.call
        with replaced(stage.norm, call=lambda *a, **k: at_its_call(inner(*a, **k))):
            yield


@contextmanager
def replaced(layer: Any, **attributes: Any) -> Iterator[None]:
    """While open, a layer has other attributes or methods."""
    # By its dictionary: a built layer takes no new state, and Keras would track what is set.
    held = vars(layer)
    before = {name: held[name] for name in attributes if name in held}
    held.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del held[name]
        held.update(before)


@contextmanager
def in_32_bits(named: Iterable[tuple[str, Any]]) -> Iterator[None]:
    """While open, layers that compute in 16 bits on weights in 32 compute in 32 bits.

    Args:
        named: layers with their names, as `named_layers` gives them.
    """
    others = [
        layer for _, layer in named if layer.compute_dtype in ("float16", "bfloat16", "float64")
    ]
    policies = [layer.dtype_policy for layer in others]
    for layer in others:
        layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in zip(others, policies, strict=True):
            layer.dtype_policy = policy


def _is_mixed(layer: Any) -> bool:
    return layer.variable_dtype == "float32" and layer.compute_dtype in ("float16", "bfloat16")


def _parts(keras: Any, layer: Any) -> tuple[str, ...]:
    two = tuple(getattr(keras.layers, kind) for kind in _SEPARABLE)
    plain = any(type(layer).call is kind.call for kind in two)
    return ("depthwise", "output") if plain else ("output",)


def _in_two_stages(ops: Any, layer: Any, tap: Tap) -> Callable[[Any], Any]:
    def call(inputs: Any) -> Any:
        between = ops.depthwise_conv(
            inputs,
            layer.depthwise_kernel,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )
        outputs = ops.conv(
            tap(between), layer.pointwise_kernel, padding="valid", data_format=layer.data_format
        )
        if layer.use_bias:
            shape = [1] * len(outputs.shape)
            shape[channel_axis(layer)] = -1
            outputs = ops.add(outputs, ops.reshape(layer.bias, shape))
        return outputs if layer.activation is None else layer.activation(outputs)

    return call


def channel_axis(layer: Any) -> int:
    """Of a convolution's output."""
    return 1 if layer.data_format == "channels_first" else -1


@dataclass(frozen=True)
class _Seen:
    """What a part of a layer yielded during the trace."""

    layer: Any
    part: str
    tensor: Any


@dataclass(frozen=True)
class _Norm:
    """A call of a batch normalisation: what it read, and the operations it made."""

    layer: Any
    read: Any
    operations: frozenset[str]


class _Watch:
    """What happened during one trace."""

    def __init__(self, tf: Any) -> None:
        self._tf = tf
        self._seen: list[_Seen] = []
        self._norms: list[_Norm] = []
        self._outputs: list[Any] = []
        self._needed: set[str] = set()

    def taps(self, layer: Any, parts: tuple[str, ...]) -> dict[str, Tap]:
        def tap_of(part: str) -> Tap:
            def tap(tensor: Any) -> Any:
                self._seen.append(_Seen(layer, part, tensor))
                return tensor

            return tap

        return {part: tap_of(part) for part in parts}

    def norm(self, layer: Any) -> Callable[..., Any]:
        inner = layer.call

        def call(inputs: Any, *args: Any, **settings: Any) -> Any:
            graph = self._tf.compat.v1.get_default_graph()
            before = len(graph.get_operations())
            outputs = inner(inputs, *args, **settings)
            made = frozenset(operation.name for operation in graph.get_operations()[before:])
            self._norms.append(_Norm(layer, inputs, made))
            return outputs

        return call

    def finish(self, outputs: list[Any]) -> None:
        """Note which tensors lead to an output."""
        self._outputs = outputs
        waiting = [output.op for output in outputs]
        while waiting:
            operation = waiting.pop()
            if operation.name not in self._needed:
                self._needed.add(operation.name)
                waiting += [tensor.op for tensor in operation.inputs]

    def stages(self, names: Mapping[int, str]) -> Iterator[Stage]:
        """What leads to an output."""
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
            axis = channel_axis(seen.layer)
            norm = self._norm_behind(seen)
            yield Stage(
                Layer(
                    name if call == 0 else f"{name}#{call + 1}",
                    type(seen.layer).__name__,
                    int(seen.tensor.shape[axis]),
                ),
                seen.layer,
                seen.part,
                None if norm is None else self._norms[norm].layer,
                call if norm is None else self._call_of(norm),
                totals[key],
                axis,
            )

    def _norm_behind(self, seen: _Seen) -> int | None:
        """The position of the normalisation that alone reads what a layer yielded."""
        readers = [i for i, norm in enumerate(self._norms) if norm.read is seen.tensor]
        if len(readers) != 1 or any(o is seen.tensor for o in self._outputs):
            return None
        norm = self._norms[readers[0]]
        alone = all(operation.name in norm.operations for operation in seen.tensor.consumers())
        rank = len(norm.read.shape)
        fits = norm.layer.axis % rank == channel_axis(seen.layer) % rank
        return readers[0] if alone and fits else None

    def _call_of(self, norm: int) -> int:
        return sum(other.layer is self._norms[norm].layer for other in self._norms[:norm])
