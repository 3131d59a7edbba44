"""Convert a traced TensorFlow function to ONNX with tf2onnx, and clean up the model.

The clean-up stores constants, folds normalisations and sorts names. TensorFlow computes a batch
normalisation after a convolution as a product and a sum per channel. After folding, a filter's
output is one tensor of the graph, as it is one channel of the Keras layers.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from repairkit.core import errors, suite
from repairkit.core.process.writing import write_whole
from repairkit.graph.protos import GraphIndex, int_attribute
from repairkit_adapters.keras import keras_runtime
from repairkit_adapters.keras.keras_runtime import GraphFunction, OnnxGraph, OnnxNode, Runtime

_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
_AGAIN = re.compile(r"_\d+$")
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def write_onnx(
    runtime: Runtime,
    function: Callable[..., object],
    path: Path,
    *,
    input_name: str,
    input_shape: tuple[int, ...],
    opset: int | None,
    layers: Collection[str] = (),
) -> None:
    """Write a function of a batch of images as ONNX; the batch size stays free.

    Args:
        runtime: Keras and TensorFlow.
        function: takes images, shape (n_images, *input_shape), float32; returns tensors.
        path: of the ONNX file.
        input_name: of the images, if ONNX allows it.
        input_shape: of one image.
        opset: of the ONNX file; tf2onnx's default if None.
        layers: the names of the model's layers, for messages; empty if not known.

    Raises:
        AdapterError: tf2onnx is missing.
        ExportError: ONNX, or ONNX Runtime, has no such operation.
    """
    tf = runtime.tensorflow
    exporter = keras_runtime.load_exporter()
    name = input_name if _NAME.fullmatch(input_name) else "images"
    signature = [tf.TensorSpec((None, *input_shape), tf.float32, name=name)]
    traced = tf.function(function, input_signature=signature)
    with keras_runtime.quiet():
        try:
            handlers = _operator_handlers(exporter)
            model, _ = exporter.convert.from_function(
                traced, signature, opset=opset, custom_op_handlers=handlers
            )
            constants = _captured(tf, traced.get_concrete_function(*signature))
        except (*_FAULTS, tf.errors.OpError) as error:
            raise errors.ExportError(
                f"tf2onnx could not convert the model: {keras_runtime.short_message(error)}; "
                "replace the layer, or try another --opset"
            ) from error
    _store_constants(model, constants)
    _check_operators(model, layers)
    _fold_normalisations(model)
    _renumber(model)
    write_whole(path, model.SerializeToString())


def _operator_handlers(exporter: ModuleType) -> dict[str, tuple[Callable[..., None], list[str]]]:
    """Handlers for operators that tf2onnx does not know, for its `custom_op_handlers`.

    Keras computes an exact GELU with the complementary error function, CELU with `expm1`, and
    `logaddexp` with `log1p`. ONNX has none of the three, so they are composed of other operators.

    Args:
        exporter: the module `tf2onnx`.
    """

    def applied(graph: OnnxGraph, node: OnnxNode, operator: str, inputs: list[str]) -> str:
        made = graph.make_node(
            operator,
            inputs,
            name=exporter.utils.make_name(f"{node.name}/{operator.lower()}"),
            shapes=[graph.get_shape(node.input[0])],
            dtypes=[graph.get_dtype(node.input[0])],
        )
        return str(made.output[0])

    def become(graph: OnnxGraph, node: OnnxNode, operator: str, inputs: list[str]) -> None:
        node.type = operator
        graph.replace_inputs(node, inputs)

    # tf2onnx also passes a name and arguments.
    def erfc(graph: OnnxGraph, node: OnnxNode, *_: object) -> None:
        error = applied(graph, node, "Erf", list(node.input))
        become(graph, node, "Sub", [_one_like(exporter, graph, node), error])

    def expm1(graph: OnnxGraph, node: OnnxNode, *_: object) -> None:
        power = applied(graph, node, "Exp", list(node.input))
        become(graph, node, "Sub", [power, _one_like(exporter, graph, node)])

    def log1p(graph: OnnxGraph, node: OnnxNode, *_: object) -> None:
        total = applied(graph, node, "Add", [node.input[0], _one_like(exporter, graph, node)])
        become(graph, node, "Log", [total])

    return {"Erfc": (erfc, []), "Expm1": (expm1, []), "Log1p": (log1p, [])}


def _one_like(exporter: ModuleType, graph: OnnxGraph, node: OnnxNode) -> str:
    """The name of a new constant, 1 in the type of a node's input."""
    kind = exporter.utils.map_onnx_to_numpy_type(graph.get_dtype(node.input[0]))
    name = exporter.utils.make_name(f"{node.name}/one")
    return str(graph.make_const(name, np.ones((), kind)).output[0])


def _captured(tf: ModuleType, function: GraphFunction) -> dict[str, suite.Array]:
    """The constants that a traced function captures, by the name of the input for each.

    Without variables, which tf2onnx stores itself.
    """
    return {
        inside.name: outside.numpy()
        for outside, inside in function.graph.captures
        if inside.dtype not in (tf.resource, tf.variant)
    }


def _check_operators(model: ModelProto, layers: Collection[str]) -> None:
    """Refuse operators that only TensorFlow has."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx"):
            known = onnx.defs.has(node.op_type, versions.get("", 1), "")
        else:
            known = node.domain.startswith(("ai.onnx", "com.microsoft"))
        if not known:
            raise errors.ExportError(
                f"layer {_layer_of(node.name, layers)!r} uses TensorFlow's {node.op_type}, for "
                "which ONNX has no operator; replace the layer with one that ONNX can express"
            )


def _layer_of(node: str, layers: Collection[str]) -> str:
    """The layer in a node's name, which is `model/layer/.../operation`.

    TensorFlow adds a number to a repeated name: `conv_1` may be the layer `conv`.
    """
    scopes = [part for part in node.split("/")[:-1] if not part.endswith("PartitionedCall")]
    if scopes[1:]:
        scopes = scopes[1:]
    ends = {name.rpartition("/")[2] for name in layers}
    layers_inside = [
        name for name in map(partial(_without_number, known=ends), scopes) if name in ends
    ]
    return "/".join(layers_inside) or "/".join(scopes) or node


def _without_number(scope: str, known: Collection[str]) -> str:
    """The name of a scope's layer, without the numbers that TensorFlow added."""
    while scope not in known and _AGAIN.search(scope):
        scope = _AGAIN.sub("", scope)
    return scope


_NUMBERED = re.compile(r"(?P<before>.*)__(?P<number>\d+)(?P<after>(:\d+)?(/kernel|/bias)?)")


@dataclass
class _Tail:
    """A product and a sum per channel that are the only readers of a convolution."""

    factor: suite.Array
    shift: suite.Array
    nodes: list[NodeProto]


def _store_constants(model: ModelProto, constants: Mapping[str, suite.Array]) -> None:
    """Turn inputs with known values into initializers."""
    graph = model.graph
    free = [value for value in graph.input if value.name not in constants]
    for value in graph.input:
        if value.name in constants:
            graph.initializer.append(numpy_helper.from_array(constants[value.name], value.name))
    del graph.input[:]
    graph.input.extend(free)


def _fold_normalisations(model: ModelProto) -> None:
    """Fold a product and a sum into a convolution, in place, if they are its only readers."""
    index = GraphIndex(model)
    gone: list[NodeProto] = []
    for node in index.nodes:
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in index.initializers:
            continue
        if node.op_type == "ConvTranspose" and int_attribute(node, "group", 1) != 1:
            continue
        kernel = numpy_helper.to_array(index.initializers[node.input[1]])
        axis = 0 if node.op_type == "Conv" else 1
        tail = _tail(node, index, kernel.shape[axis], kernel.ndim)
        if tail is not None and _fold(node, index, kernel, axis, tail):
            gone += tail.nodes
    for node in gone:
        model.graph.node.remove(node)
    _drop_unused(model)


def _tail(node: NodeProto, index: GraphIndex, n_channels: int, rank: int) -> _Tail | None:
    """The product after a convolution and the sum after that, if each is the only reader."""
    steps: list[tuple[NodeProto, suite.Array]] = []
    tensor = str(node.output[0])
    for kind in ("Mul", "Add"):
        reader = index.sole_reader(tensor)
        if reader is None or index.nodes[reader.node].op_type != kind:
            return None
        step = index.nodes[reader.node]
        constants = [name for name in step.input if name in index.initializers]
        if len(constants) != 1:
            return None
        numbers = numpy_helper.to_array(index.initializers[constants[0]])
        shape = (1,) * (rank - numbers.ndim) + numbers.shape
        if shape != (1, n_channels, *(1,) * (rank - 2)):
            return None
        steps.append((step, numbers.reshape(-1)))
        tensor = str(step.output[0])
    (product, factor), (addition, shift) = steps
    return _Tail(factor, shift, [product, addition])


def _fold(node: NodeProto, index: GraphIndex, kernel: suite.Array, axis: int, tail: _Tail) -> bool:
    bias: suite.Array = np.zeros_like(tail.shift)
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in index.initializers:
            return False
        bias = numpy_helper.to_array(index.initializers[node.input[2]])
    shape = [1] * kernel.ndim
    shape[axis] = -1
    name = node.name or node.output[0]
    # New names: another layer may share the original tensors.
    stored = {
        f"{name}/kernel": kernel * tail.factor.reshape(shape),
        f"{name}/bias": bias * tail.factor + tail.shift,
    }
    for tensor_name, numbers in stored.items():
        tensor = numpy_helper.from_array(numbers.astype(kernel.dtype), tensor_name)
        index.model.graph.initializer.append(tensor)
    inputs = [node.input[0], *stored]
    del node.input[:]
    node.input.extend(inputs)
    node.output[0] = tail.nodes[-1].output[0]
    return True


def _drop_unused(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    if len(kept) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def _renumber(model: ModelProto) -> None:
    """Number the names that tf2onnx inserted from 1, and sort constants by their first use.

    tf2onnx counts on from one conversion to the next, and its constants are in arbitrary order.

    Inputs and outputs of the graph keep their names. Loops and branches are not changed.
    """
    graph = model.graph
    graph.doc_string = ""
    attributes = (attribute for node in graph.node for attribute in node.attribute)
    if any(attribute.type == AttributeProto.GRAPH for attribute in attributes):
        return
    kept = {one.name for one in (*graph.input, *graph.output)}
    stored = {tensor.name for tensor in graph.initializer}
    numbers: dict[str, int] = {}
    constants: dict[str, int] = {}

    def renamed(name: str) -> str:
        parts = _NUMBERED.fullmatch(name)
        if parts is None or name in kept:
            return name
        if name in stored:
            return f"inserted_constant__{constants.setdefault(name, len(constants) + 1)}"
        number = numbers.setdefault(parts["number"], len(numbers) + 1)
        return f"{parts['before']}__{number}{parts['after']}"

    _sort_constants(graph)
    for node in graph.node:
        node.name = renamed(node.name)
        for names in (node.input, node.output):
            names[:] = [renamed(name) for name in names]
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for known in graph.value_info:
        known.name = renamed(known.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = renamed(size.dim_param)


def _sort_constants(graph: GraphProto) -> None:
    order: dict[str, int] = {}
    for name in (name for node in graph.node for name in node.input):
        order.setdefault(name, len(order))
    ordered = sorted(graph.initializer, key=lambda tensor: order.get(tensor.name, len(order)))
    tensors = [TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
