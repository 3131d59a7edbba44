"""Keras on TensorFlow: a quiet import at first use, and changes of layers during a trace.

A layer's `call`, `activation` or other attributes are replaced during one trace. This works for
functional, sequential and subclassed models, and for models inside models.
"""

import importlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from repairkit.core.errors import AdapterError
from repairkit.core.process.noise import is_shown, silenced
from repairkit.core.process.text import first_line

if TYPE_CHECKING:
    import keras
    import tensorflow
    import tf2onnx

# The frameworks are optional and skipped by mypy, which sees `Any` for each of these.
KerasLayer: TypeAlias = "keras.Layer"
KerasModel: TypeAlias = "keras.Model"
Variable: TypeAlias = "keras.Variable"
Tensor: TypeAlias = "tensorflow.Tensor"
Operation: TypeAlias = "tensorflow.Operation"
Graph: TypeAlias = "tensorflow.Graph"
GraphDef: TypeAlias = "tensorflow.compat.v1.GraphDef"
NodeDef: TypeAlias = "tensorflow.compat.v1.NodeDef"
TensorSpec: TypeAlias = "tensorflow.TensorSpec"
OnnxGraph: TypeAlias = "tf2onnx.graph.Graph"
OnnxNode: TypeAlias = "tf2onnx.graph.Node"
GraphFunction: TypeAlias = "tensorflow.types.experimental.ConcreteFunction"

_INSTALL = "install it with `pip install 'repairkit[keras]'`"


@dataclass(frozen=True)
class Runtime:
    """The two frameworks, imported."""

    keras: ModuleType
    tensorflow: ModuleType


def load_runtime() -> Runtime:
    """Import Keras with its TensorFlow backend.

    Raises:
        AdapterError: either is missing or broken, or Keras already runs on another backend.
    """
    if sys.modules.get("keras") is None:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras reads it nowhere else, and only once
    with quiet():
        if sys.modules.get("tensorflow") is not None:
            tensorflow = sys.modules["tensorflow"]
        else:
            if not is_shown():
                os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            with _without_stderr():
                tensorflow = _imported("tensorflow")
                tensorflow.zeros(1)  # looks for devices, and warns about missing ones
        keras = _imported("keras")
    version = getattr(keras, "__version__", "unknown")
    if not version.split(".")[0].isdecimal() or int(version.split(".")[0]) < 3:
        raise AdapterError(f"Keras {version} is installed and Keras 3 was expected; {_INSTALL}")
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise AdapterError(
            f"Keras runs on the backend {backend}, and models are read and exported on tensorflow; "
            "set KERAS_BACKEND=tensorflow before Keras is imported"
        )
    return Runtime(keras, tensorflow)


def load_exporter() -> ModuleType:
    """Import tf2onnx.

    Raises:
        AdapterError: it is missing or broken.
    """
    with quiet():
        return _imported("tf2onnx")


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        fault = "is not installed" if missing else f"cannot be imported ({short_message(error)})"
        raise AdapterError(f"{name} {fault}; {_INSTALL}") from error


def quiet() -> AbstractContextManager[None]:
    """Keep back warnings and log lines of the frameworks in the block; errors are raised."""
    return silenced("tensorflow", "absl", "tf2onnx", "h5py")


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Hide what native code writes to stderr in the block; show it if an error follows."""
    if is_shown():
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except AdapterError:
            raise
        except BaseException:
            written.seek(0)
            os.write(kept, written.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def short_message(error: BaseException) -> str:
    """The message of a framework's exception, in one line of at most 200 characters."""
    line = first_line(error).strip().rstrip(".")
    return line if len(line) <= 200 else f"{line[:197]}..."


def misfit(input_shape: tuple[int, ...], error: Exception) -> AdapterError:
    """The error to raise if a model cannot be run on images of a shape."""
    return AdapterError(
        f"the model cannot be run on images of shape {input_shape} ({short_message(error)}); give "
        "the right --input-shape, of one image without the batch"
    )


Tap = Callable[[Tensor], Tensor]
"""A function that follows a layer and changes its output."""


def named_layers(model: KerasModel) -> list[tuple[str, KerasLayer]]:
    """All layers of a model with their names; those of inner models as `inner/layer`."""
    named: list[tuple[str, KerasLayer]] = []
    met: set[int] = set()

    def walk(parent: KerasLayer, prefix: str) -> None:
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in met:
                continue
            met.add(id(layer))
            named.append((prefix + layer.name, layer))
            walk(layer, f"{prefix}{layer.name}/")

    walk(model, "")
    counts = Counter(name for name, _ in named)
    numbers: Counter[str] = Counter()
    for position, (name, layer) in enumerate(named):
        if counts[name] > 1:
            numbers[name] += 1
            named[position] = (f"{name}#{numbers[name]}", layer)
    return named


def channel_axis(layer: KerasLayer) -> int:
    """The channel axis of a convolution's output."""
    return 1 if layer.data_format == "channels_first" else -1


@contextmanager
def tapped(runtime: Runtime, convolution: KerasLayer, taps: Mapping[str, Tap]) -> Iterator[None]:
    """Pass the outputs of the parts of a convolution through taps in the block."""
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


def _in_two_stages(ops: ModuleType, layer: KerasLayer, tap: Tap) -> Tap:
    """The `call` of a separable convolution, with a tap between its two parts."""

    def call(inputs: Tensor) -> Tensor:
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


@contextmanager
def replaced(layer: KerasLayer, **attributes: object) -> Iterator[None]:
    """Replace attributes or methods of a layer in the block."""
    # In its dictionary: a built layer refuses new state, and Keras would track attributes.
    state = vars(layer)
    before = {name: state[name] for name in attributes if name in state}
    state.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del state[name]
        state.update(before)


@contextmanager
def in_32_bits(named: Iterable[tuple[str, KerasLayer]]) -> Iterator[None]:
    """Let layers with 32-bit weights compute in 32 bits in the block, not in 16 or 64.

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


@contextmanager
def plain_convolutions(runtime: Runtime, model: KerasModel) -> Iterator[None]:
    """Trace no convolution as a separate function in the block.

    Keras compiles grouped convolutions, which TensorFlow lacks on the CPU, and tf2onnx cannot
    convert compiled functions. Such a trace can only be converted: TensorFlow cannot run it.
    """
    layers, tf = runtime.keras.layers, runtime.tensorflow
    with ExitStack() as stack:
        for _, layer in named_layers(model):
            if not isinstance(layer, layers.Conv1D | layers.Conv2D | layers.Conv3D):
                continue
            if layer.groups > 1 and isinstance(layer, layers.Conv1D):
                stack.enter_context(replaced(layer, call=_one_dimensional(runtime, layer)))
            elif layer.groups > 1:
                stack.enter_context(replaced(layer, convolution_op=_convolution(tf, layer)))
        yield


def _convolution(tf: ModuleType, layer: KerasLayer) -> Callable[[Tensor, Tensor], Tensor]:
    """A layer's `convolution_op` without compilation."""
    sizes = "DHW"[-layer.rank :]
    data_format = f"NC{sizes}" if layer.data_format == "channels_first" else f"N{sizes}C"

    def convolve(inputs: Tensor, kernel: Tensor) -> Tensor:
        return tf.nn.convolution(
            inputs,
            kernel,
            strides=list(layer.strides),
            padding="VALID" if layer.padding == "causal" else layer.padding.upper(),
            data_format=data_format,
            dilations=list(layer.dilation_rate),
        )

    return convolve


def _one_dimensional(runtime: Runtime, layer: KerasLayer) -> Tap:
    """The `call` of a `Conv1D`, which does not go through `convolution_op`."""
    ops, convolve = runtime.keras.ops, _convolution(runtime.tensorflow, layer)
    first = layer.data_format == "channels_first"
    before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
    pads = [[0, 0], [0, 0], [before, 0]] if first else [[0, 0], [before, 0], [0, 0]]

    def call(inputs: Tensor) -> Tensor:
        padded = ops.pad(inputs, pads) if layer.padding == "causal" else inputs
        outputs = convolve(padded, layer.kernel)
        if layer.use_bias:
            shape = (1, -1, 1) if first else (1, 1, -1)
            outputs = ops.add(outputs, ops.reshape(layer.bias, shape))
        return outputs if layer.activation is None else layer.activation(outputs)

    return call
