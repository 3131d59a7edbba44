"""Operators of TensorFlow that tf2onnx does not know, written with operators that ONNX has.

Keras computes an exact GELU with the complementary error function, CELU with `expm1`, and
`logaddexp` with `log1p`. ONNX has none of the three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from repairkit_adapters.keras.layers import named_layers, replaced
from repairkit_adapters.keras.runtime import Runtime


def operator_handlers(exporter: Any) -> dict[str, tuple[Callable[..., None], list[Any]]]:
    """How tf2onnx is to convert the operators, as its `custom_op_handlers`.

    Args:
        exporter: the module `tf2onnx`.
    """

    def one_like(graph: Any, node: Any) -> str:
        kind = exporter.utils.map_onnx_to_numpy_type(graph.get_dtype(node.input[0]))
        name = exporter.utils.make_name(f"{node.name}/one")
        return str(graph.make_const(name, np.ones((), kind)).output[0])

    def applied(graph: Any, node: Any, operator: str, inputs: list[str]) -> str:
        made = graph.make_node(
            operator,
            inputs,
            name=exporter.utils.make_name(f"{node.name}/{operator.lower()}"),
            shapes=[graph.get_shape(node.input[0])],
            dtypes=[graph.get_dtype(node.input[0])],
        )
        return str(made.output[0])

    def become(graph: Any, node: Any, operator: str, inputs: list[str]) -> None:
        node.type = operator
        graph.replace_inputs(node, inputs)

    # tf2onnx hands over a name and arguments as well, which are not needed here.
    def erfc(graph: Any, node: Any, *_: Any) -> None:
        error = applied(graph, node, "Erf", list(node.input))
        become(graph, node, "Sub", [one_like(graph, node), error])

    def expm1(graph: Any, node: Any, *_: Any) -> None:
        power = applied(graph, node, "Exp", list(node.input))
        become(graph, node, "Sub", [power, one_like(graph, node)])

    def log1p(graph: Any, node: Any, *_: Any) -> None:
        total = applied(graph, node, "Add", [node.input[0], one_like(graph, node)])
        become(graph, node, "Log", [total])

    return {"Erfc": (erfc, []), "Expm1": (expm1, []), "Log1p": (log1p, [])}


@contextmanager
def plain_convolutions(runtime: Runtime, model: Any) -> Iterator[None]:
    """While open, no convolution is traced as a function of its own.

    Keras compiles grouped convolutions, which TensorFlow lacks on the CPU, and tf2onnx cannot look
    into what is compiled. Such a trace is only to be converted: TensorFlow cannot run it.
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


def _convolution(tf: Any, layer: Any) -> Callable[[Any, Any], Any]:
    """A layer's `convolution_op` without compilation."""
    sizes = "DHW"[-layer.rank :]
    data_format = f"NC{sizes}" if layer.data_format == "channels_first" else f"N{sizes}C"

    def convolve(inputs: Any, kernel: Any) -> Any:
        return tf.nn.convolution(
            inputs,
            kernel,
            strides=list(layer.strides),
            padding="VALID" if layer.padding == "causal" else layer.padding.upper(),
            data_format=data_format,
            dilations=list(layer.dilation_rate),
        )

    return convolve


def _one_dimensional(runtime: Runtime, layer: Any) -> Callable[[Any], Any]:
    """The `call` of a `Conv1D`, which does not go through `convolution_op`."""
    ops, convolve = runtime.keras.ops, _convolution(runtime.tensorflow, layer)
    first = layer.data_format == "channels_first"
    before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
    pads = [[0, 0], [0, 0], [before, 0]] if first else [[0, 0], [before, 0], [0, 0]]

    def call(inputs: Any) -> Any:
        padded = ops.pad(inputs, pads) if layer.padding == "causal" else inputs
        outputs = convolve(padded, layer.kernel)
        if layer.use_bias:
            shape = (1, -1, 1) if first else (1, 1, -1)
            outputs = ops.add(outputs, ops.reshape(layer.bias, shape))
        return outputs if layer.activation is None else layer.activation(outputs)

    return call
